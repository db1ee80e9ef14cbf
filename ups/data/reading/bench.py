"""How fast training windows are read, against numpy gathering the same bytes from memory maps."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.data.points import PointStore
from ups.data.reading.loader import BatchSource, load_batches
from ups.data.reading.windows import Windows

Array = npt.NDArray[Any]
_WARM_BATCHES = 3
_PAIR_BATCHES = 4
_FEWEST_PAIRS = 5


@dataclass(frozen=True)
class Speed:
    """What a loader delivers to a consumer that does nothing with it.

    Attributes:
        batches: Of each task.
    """

    workers: int
    windows_per_s: float
    bytes_per_s: float
    batches: dict[str, int]


@dataclass(frozen=True)
class Ratio:
    """Our bytes per second over a memory map's, in turns: 1 is as fast as the map.

    Attributes:
        low, high: Of single pairs.
        bytes_per_s: Ours.
    """

    median: float
    low: float
    high: float
    bytes_per_s: float


def loader_speed(source: BatchSource, batch_size: int, workers: int, seconds: int | float) -> Speed:
    """Read batches for so long, after some that start the workers and are not counted."""
    windows = volume = 0
    batches: Counter[str] = Counter()
    with closing(load_batches(source, batch_size, num_workers=workers)) as loader:
        for _ in range(_WARM_BATCHES + 3 * workers):
            next(loader)
        start = now = time.perf_counter()
        while now - start < seconds or not windows:
            batch = next(loader)
            windows, volume = windows + len(batch), volume + batch.nbytes
            batches[batch.problem.task] += 1
            now = time.perf_counter()
    return Speed(workers, windows / (now - start), volume / (now - start), dict(batches))


def memmap_ratio(windows: Windows, batch_size: int, seconds: int | float) -> Ratio | None:
    """Read batches, and gather others of the same size with numpy, in turns, for about so long.

    Both read windows that the other has not read just before, so that none finds the other's
    pages in memory; where the data are larger than memory, that matters.

    Args:
        windows: Whole frames, not augmented.
    Returns:
        None for a point store that is not mapped.
    """
    if isinstance(windows.store, PointStore) and not windows.store.mapped:
        return None
    if windows.augment.moves or windows.augment.noise or windows.stride_x != 1:
        raise ValueError("augmented or thinned windows hold other bytes than the map")
    rates: list[tuple[float, float]] = []
    step, began = 0, time.perf_counter()
    while len(rates) < _FEWEST_PAIRS or time.perf_counter() - began < seconds:
        first, middle, end = step, step + _PAIR_BATCHES, step + 2 * _PAIR_BATCHES
        draws = [windows.draw(number, batch_size) for number in range(middle, end)]
        start = time.perf_counter()
        ours = sum(windows.batch(number, batch_size).nbytes for number in range(first, middle))
        between = time.perf_counter()
        bare = sum(_gathered_bytes(windows, *draw) for draw in draws)
        rates.append((ours / (between - start), bare / (time.perf_counter() - between)))
        step = end
    counted = rates[1:]  # the first pair brings code and files into memory
    ratios = [one / other for one, other in counted]
    mean = statistics.median(one for one, _ in counted)
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), mean)


def _gathered_bytes(windows: Windows, trajectories: Array, starts: Array) -> int:
    """Copy windows out of the memory maps with the shortest numpy there is; bytes copied."""
    store, places = windows.store, list(zip(trajectories.tolist(), starts.tolist(), strict=True))
    span = (windows.length - 1) * windows.stride_t + 1
    frames = [slice(start, start + span, windows.stride_t) for _, start in places]
    rows = [trajectory for trajectory, _ in places]
    if not isinstance(store, PointStore):
        copies = [np.stack([store.fields[r, f] for r, f in zip(rows, frames, strict=True)])]
        if store.inputs is not None:
            copies.append(np.stack([store.inputs[row] for row in rows]))
        return sum(copy.nbytes for copy in copies)
    copies = [
        np.concatenate([store.fields(r, f) for r, f in zip(rows, frames, strict=True)], axis=1),
        np.concatenate([store.coords(r, f) for r, f in zip(rows, frames, strict=True)], axis=-2),
    ]
    moving = windows.length if copies[1].ndim == 3 else 1
    tables = [
        store.edges(row, start + time * windows.stride_t)
        for time in range(moving)
        for row, start in places
    ]
    copies.append(np.concatenate(tables).astype(np.int64))
    for part, kind in ((store.inputs, np.float32), (store.tags, np.uint8), (store.cells, np.int64)):
        found = [values for row in rows if (values := part(row)) is not None]
        if len(found) == len(rows):
            copies.append(np.concatenate(found).astype(kind, copy=False))
    return sum(copy.nbytes for copy in copies)
