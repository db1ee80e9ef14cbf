"""What a raw file is, whatever it is called."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from ups.errors import translated_os_errors

_SAMPLES, _SAMPLE_BYTES = 1024, 4096


def identify(path: Path) -> tuple[int, str]:
    """Size in bytes and a fingerprint of a raw file or folder, without reading all of it."""
    digest, total = hashlib.sha256(), 0
    with translated_os_errors(path, "reading"):
        members = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        samples = max(1, _SAMPLES // max(1, len(members)))
        for member in members:
            size = member.stat().st_size
            total += size
            if member != path:
                digest.update(f"{member.relative_to(path)}:{size}:".encode())
            with member.open("rb") as file:
                for place in np.linspace(0, max(0, size - _SAMPLE_BYTES), samples).astype(int):
                    file.seek(int(place))
                    digest.update(file.read(_SAMPLE_BYTES))
    return total, digest.hexdigest()[:16]


def is_generated(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            return "generator" in file.attrs
    except OSError:
        return False


def without_duplicates(found: Sequence[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """The files whose content no earlier one has, and the names of the others.

    Sizes are compared first, then the files' SHA-256: public data does hold the same file twice.
    """
    sizes: dict[tuple[int, str], list[Path]] = {}
    kept, dropped = [], []
    for path in found:
        alike = sizes.setdefault(identify(path), [])
        if any(_same_content(path, other) for other in alike):
            dropped.append(path.name)
        else:
            alike.append(path)
            kept.append(path)
    return kept, tuple(dropped)


def _same_content(one: Path, other: Path) -> bool:
    if one.is_dir() or other.is_dir():
        return one.resolve() == other.resolve()
    return _sha256(one) == _sha256(other)


def _sha256(path: Path) -> str:
    with translated_os_errors(path, "reading"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
