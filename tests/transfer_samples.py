"""Small artefacts for tests of push and pull."""

from __future__ import annotations

import random
from pathlib import Path

from ups.transfer.packing import LocalPiece
from ups.transfer.push import Source
from ups.transfer.remotes import Remote

SHARD = 100_000
"""Bytes of a tar in these tests."""


def local_remote(folder: Path) -> Remote:
    return Remote(name="here", kind="local", folder=str(folder))


def sample(folder: Path, seed: int = 0, name: str = "burgers1d/v1") -> Source:
    """A store in five runs of bytes of two splits, and twelve small files: about 350 kB."""
    dice = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "store.h5"
    store.write_bytes(dice.randbytes(250_000))
    pieces = [LocalPiece(store, "store.h5", 50_000)]
    for run in range(4):
        split = "train" if run < 3 else "test"
        pieces.append(
            LocalPiece(
                store, "store.h5", 50_000, offset=(run + 1) * 50_000, split=split,
                trajectories=(run * 4, run * 4 + 4),
            )
        )  # fmt: skip
    for index in range(12):
        chunk = folder / f"chunk{index}"
        chunk.write_bytes(dice.randbytes(9_000 + index))
        pieces.append(LocalPiece(chunk, f"mesh.zarr/c/{index}", 9_000 + index, split="train"))
    return Source("data", name, {"version": name, "seed": seed}, pieces, {"trajectories": 16})


def contents(source: Source) -> dict[str, bytes]:
    """Path -> bytes of every file of a source."""
    return {piece.path: piece.source.read_bytes() for piece in source.pieces}


def arrived(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of every file of a staging folder, without its record."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "parts.json"
    }
