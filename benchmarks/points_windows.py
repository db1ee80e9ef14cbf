"""Random windows of a point store against a flat memory map that gathers the same bytes.

For a dataset in the page cache, trajectories of 1 000 and of 20 000 nodes, four channels: windows
of eight frames, copied, as a batch would copy them.

    python benchmarks/points_windows.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from _common import paired, scratch_home

FRAMES, WINDOW, READS = 64, 8, 400


def main() -> None:
    with scratch_home() as home:
        for nodes, count in ((1_000, 300), (20_000, 24)):
            run(home, nodes, count)


def run(home: Path, nodes: int, count: int) -> None:
    from ups.data.conversion.plan import Recipe
    from ups.data.conversion.points import convert_points

    card = make_card(f"bench{nodes}")
    raw = write(home / f"{nodes}.h5", card, nodes, count)
    store = convert_points(card, [raw], recipe=Recipe()).store
    flat = home / f"{nodes}.bin"
    for index in range(count):
        with flat.open("ab") as file:
            store.fields(index).tofile(file)
    rows = np.memmap(flat, np.float32, mode="r").reshape(-1, len(card.fields))
    first = np.concatenate([[0], np.cumsum(store.node_counts * FRAMES)])
    counts = store.node_counts
    rng = np.random.default_rng(0)
    trajectories = rng.integers(count, size=READS).tolist()
    starts = rng.integers(FRAMES - WINDOW + 1, size=READS).tolist()

    def ours() -> None:
        for i, start in zip(trajectories, starts, strict=True):
            np.array(store.fields(i, slice(start, start + WINDOW)))

    def bare() -> None:
        for i, start in zip(trajectories, starts, strict=True):
            begin = first[i] + start * counts[i]
            np.array(rows[begin : begin + WINDOW * counts[i]])

    read = sum(int(counts[i]) for i in trajectories) * WINDOW * 4 * len(card.fields)
    shards = len(list((store.path / "fields" / "c").iterdir()))
    print(
        f"{nodes} nodes, {shards} shards, mapped {store.mapped}, {READS} windows, "
        f"{read / 2**20:.0f} MiB: store / memmap: {paired(ours, bare)}"
    )


def make_card(key: str):  # type: ignore[no-untyped-def]
    from ups.registry import DatasetCard

    axes = [{"name": n, "bounds": (0, 1), "boundary": "wall"} for n in "xy"]
    return DatasetCard.model_validate(
        {
            "key": key, "title": key, "description": key,
            "pde": {"family": key, "equation": "none"},
            "discretisation": {"kind": "mesh", "axes": axes},
            "time": {"frames": FRAMES, "step": 1.0},
            "fields": [{"name": n, "description": n} for n in "abcd"],
            "source": {"name": key, "doi": "", "licence": "", "citation": "", "layout": "points",
                       "pattern": "*.h5"},
            "splits": {"test": "last_tenth", "valid_fraction": 0.1,
                       "kept_apart_by": "trajectory"},
            "config": "none",
        }
    )  # fmt: skip


def write(path: Path, card, nodes: int, count: int) -> Path:  # type: ignore[no-untyped-def]
    from scipy.spatial import Delaunay

    from ups.data.layouts.base import PointTrajectory
    from ups.data.layouts.points import PointsWriter

    rng = np.random.default_rng(0)
    writer = PointsWriter(path, np.arange(FRAMES, dtype=np.float64), card)
    for _ in range(count):
        own = int(rng.integers(nodes // 2, nodes * 3 // 2))
        coords = rng.random((own, 2)).astype(np.float32)
        cells = Delaunay(coords).simplices.astype(np.int32)
        fields = rng.random((FRAMES, own, 4), np.float32)
        writer.append(PointTrajectory(coords, fields, cells=cells), {})
    return path


if __name__ == "__main__":
    main()
