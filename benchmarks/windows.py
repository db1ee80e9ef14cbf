"""Window loading from store and cache against random reads of a plain numpy memory map.

The bare read copies the same windows, one slice each, out of an `.npy` file of the same bytes.
Then the training reads: `Windows` against memory maps of the same store, for a large grid, a mesh
and particles, and the loader with four workers against none, in turns.

    python benchmarks/windows.py [trajectories of 0.8 MB, 2000 by default]
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import numpy as np
from _common import paired, scratch_home

BATCH, LENGTH, BATCHES = 64, 5, 100
WORKERS, SECONDS, TURNS = 4, 3.0, 5


def main(trajectories: int = 2000) -> None:
    with scratch_home() as home:
        gathering(home)
    with scratch_home() as home:
        training_reads(home, trajectories)


def training_reads(home: Path, trajectories: int) -> None:
    from ups.data.reading.symmetries import Augmentation

    large = {"advection1d": ({"beta": 1.0}, trajectories)}
    ragged = {"darcy2d_mesh": ({"beta": 1.0}, 100),
              "particles_advect": ({"unsteadiness": 1.0}, 100)}  # fmt: skip
    for key, (parameters, count) in {**large, **ragged}.items():
        _make(key, parameters, count, home)
    for key in (*large, *ragged):
        for horizon in (1, 4, 16) if key in large else (4,):
            _against_memmap(key, horizon)
    for key in (*large, *ragged):
        _scaling(key, None)
    _scaling("advection1d", Augmentation(shift=True, noise=0.01))


def _make(key: str, parameters: dict[str, float], count: int, home: Path) -> None:
    from ups import generate, load_card
    from ups.data.conversion.plan import Recipe
    from ups.data.conversion.points import convert_points
    from ups.data.convert import convert

    card = load_card(key)
    raw = generate(card, parameters=parameters, num_trajectories=count, seed=0, out_dir=home)
    if card.discretisation.kind == "grid":
        convert(card, [raw])
    else:
        convert_points(card, [raw], recipe=Recipe())
    raw.unlink()


def _windows(key: str, horizon: int, augment: object = None) -> object:
    from ups import load_card
    from ups.data.reading.windows import Windows
    from ups.data.versions import open_store

    return Windows(open_store(key), load_card(key), horizon=horizon, augment=augment)


def _against_memmap(key: str, horizon: int) -> None:
    from ups.data.reading.bench import memmap_ratio

    windows = _windows(key, horizon)
    found = memmap_ratio(windows, BATCH, SECONDS)
    size = windows.batch_bytes(1) / 1e3
    print(f"{key:<17} windows of up to {size:6.1f} kB / memmap: ratio {found.median:.2f} "
          f"({found.low:.2f} to {found.high:.2f}); {found.bytes_per_s / 1e6:.0f} MB/s")  # fmt: skip


def _scaling(key: str, augment: object) -> None:
    """The loader without workers and with them, one after the other, several times."""
    from ups.data.reading.bench import loader_speed

    windows = _windows(key, 4, augment)
    turns = [
        [loader_speed(windows, BATCH, count, SECONDS / 2).bytes_per_s for count in (0, WORKERS)]
        for _ in range(TURNS)
    ]
    ratios = sorted(many / none for none, many in turns)
    none, many = (statistics.median(column) / 1e6 for column in zip(*turns, strict=True))
    how = "augmented" if augment else "plain"
    print(f"{key:<17} {how:<9} {WORKERS} workers / none: ratio {statistics.median(ratios):.2f} "
          f"({ratios[0]:.2f} to {ratios[-1]:.2f}); {many:.0f} and {none:.0f} MB/s")  # fmt: skip


def gathering(home: Path) -> None:
    from ups import TrajectoryStore, convert, generate, load_card
    from ups.data.windows import Shards, WindowSampler, gather

    card = load_card("burgers1d")
    raw = generate(card, parameters={"nu": 0.1}, num_trajectories=400, seed=0, out_dir=home)
    convert(card, [raw])
    store = TrajectoryStore.open("burgers1d")
    plain = _plain(home / "plain.npy", np.asarray(store.fields))
    tokens = np.asarray(store.fields[..., 0], dtype=np.float16)
    tokens = tokens.reshape(*tokens.shape[:2], 128, 8)
    halves = np.array_split(np.arange(len(tokens)), 2)
    shards = Shards([_plain(home / f"shard{i}.npy", tokens[half]) for i, half in enumerate(halves)])
    plain_tokens = _plain(home / "tokens.npy", tokens)
    sampler = WindowSampler(
        num_trajectories=len(tokens), num_frames=tokens.shape[1], length=LENGTH,
        batch_size=BATCH,
    )  # fmt: skip
    draws = [sampler.draw(step) for step in range(BATCHES)]

    def bare(array: np.ndarray) -> list[np.ndarray]:
        return [
            np.stack([array[t, s : s + LENGTH] for t, s in zip(*draw, strict=True)])
            for draw in draws
        ]

    print(
        "store / memmap:",
        paired(lambda: [gather(store.fields, *draw, LENGTH) for draw in draws],
               lambda: bare(plain)),
    )  # fmt: skip
    print(
        "cache / memmap:",
        paired(lambda: [shards.gather(*draw, LENGTH) for draw in draws],
               lambda: bare(plain_tokens)),
    )  # fmt: skip
    print(
        "with drawing  :",
        paired(lambda: [gather(store.fields, *sampler.draw(step), LENGTH)
                        for step in range(BATCHES)], lambda: bare(plain)),
    )  # fmt: skip


def _plain(path: object, values: np.ndarray) -> np.ndarray:
    np.save(path, values)
    return np.load(path, mmap_mode="r")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
