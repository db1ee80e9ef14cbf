"""Read every n-th entry of an HDF5 array along any axis, fast and in bounded memory.

HDF5 gathers a selection with a step element by element. That costs nothing where a step skips long
runs of a contiguous array, several times the full read where the runs are short, and several times
the full read of a chunked array, whose chunks are decompressed whole in any case. So long runs are
skipped by HDF5, the rest is read whole and thinned out by numpy, in pieces of a few megabytes.
(`[:, :, ::4]` of a (400, 201, 1024) float32 array: 220 ms for a step along x in HDF5, 74 ms so;
`[:, ::5]` of an lzf array in chunks of 13 frames: 780 ms against 175 ms.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Place = tuple[slice, ...]

_PIECE_BYTES = 4 * 2**20
_LONG_RUN_BYTES = 4096


def fill(out: Array, dataset: h5py.Dataset, selection: tuple[slice, ...]) -> None:
    """Write `dataset[selection]` into `out`, which may be a view of any strides.

    Args:
        selection: One slice for each axis of the array, with a positive step.
    """
    for place, block in pieces(dataset, selection):
        with np.errstate(over="ignore", invalid="ignore"):  # inf and NaN are found later
            out[place] = block


def pieces(dataset: h5py.Dataset, selection: tuple[slice, ...]) -> Iterator[tuple[Place, Array]]:
    """Parts of `dataset[selection]` and their places in it, each read from at most 4 MiB."""
    wanted = [range(size)[part] for size, part in zip(dataset.shape, selection, strict=True)]
    if all(wanted):
        yield from _pieces(dataset, wanted, [0] * len(wanted))


def _pieces(
    dataset: h5py.Dataset, wanted: list[range], origin: list[int]
) -> Iterator[tuple[Place, Array]]:
    steps = _steps_for_hdf5(dataset, wanted)
    axis = _axis_to_cut(dataset, wanted, steps)
    if axis is None:
        place = tuple(slice(o, o + len(w)) for o, w in zip(origin, wanted, strict=True))
        yield place, _read(dataset, wanted, steps)
        return
    cut = _cut(wanted[axis], dataset.chunks[axis] if dataset.chunks else 1)
    for part in (slice(0, cut), slice(cut, None)):
        rest, start = list(wanted), list(origin)
        rest[axis], start[axis] = wanted[axis][part], origin[axis] + (part.start or 0)
        yield from _pieces(dataset, rest, start)


def _read(dataset: h5py.Dataset, wanted: list[range], steps: list[int]) -> Array:
    spans = [slice(w[0], w[-1] + 1, step) for w, step in zip(wanted, steps, strict=True)]
    left = [slice(None, None, w.step // step) for w, step in zip(wanted, steps, strict=True)]
    return np.asarray(dataset[tuple(spans)])[tuple(left)]


def _steps_for_hdf5(dataset: h5py.Dataset, wanted: list[range]) -> list[int]:
    """The step along each axis that HDF5 takes; what is left of it is numpy's."""
    steps, run = [], dataset.dtype.itemsize
    for part in reversed(wanted):
        skips = dataset.chunks is None and len(part) > 1 and run >= _LONG_RUN_BYTES
        steps.append(part.step if skips else 1)
        run *= part[-1] + 1 - part[0]
    return steps[::-1]


def _axis_to_cut(dataset: h5py.Dataset, wanted: list[range], steps: list[int]) -> int | None:
    """The first axis that can be cut: to skip chunks that nobody wants, or to read less at once."""
    long = [axis for axis, part in enumerate(wanted) if len(part) > 1]
    for axis in long:
        if dataset.chunks and wanted[axis].step > dataset.chunks[axis]:
            return axis
    extent = [(w[-1] - w[0]) // step + 1 for w, step in zip(wanted, steps, strict=True)]
    small = dataset.dtype.itemsize * math.prod(extent) <= _PIECE_BYTES
    return None if small or not long else long[0]


def _cut(part: range, chunk: int) -> int:
    """Entries before the cut: half of them, or as many as end with a chunk near the half."""
    half = len(part) // 2
    boundary = round(part[half] / chunk) * chunk
    before = len(range(part.start, boundary, part.step))
    return before if 0 < before < len(part) else half
