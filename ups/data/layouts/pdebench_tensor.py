"""PDEBench's scalar 1-D layout: one array `tensor` (trajectory, time, x)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ups.data.layouts.base import (
    Array,
    coordinate,
    opening,
    parameter_rows,
    plain_offset,
    reading,
    values_of,
)
from ups.data.layouts.strided import fill
from ups.errors import DataError
from ups.registry import DatasetCard


class PdebenchTensor:
    """Read `tensor`, `t-coordinate`, `x-coordinate` and the parameter attributes.

    `t-coordinate` has one entry more than `tensor` has frames; the first ones count. Files made by
    the 2024 scripts carry a device axis in front, which is folded into the trajectories; files of
    one trajectory may lack the trajectory axis. Unknown attributes are tolerated.

    Raises:
        DataError: A key or attribute is missing, or shapes disagree.
    """

    def __init__(self, path: Path, card: DatasetCard) -> None:
        self.path = path
        self.coords: tuple[Array, ...]
        with opening(path) as file:
            self._file = file
            self._tensor = values_of(file, "tensor", path)
            self._check_shape(card)
            *leading, frames, points = self._tensor.shape
            self.num_trajectories = math.prod(leading)
            self.times = coordinate(file, "t-coordinate", frames, path, extra=1)
            self.coords = (coordinate(file, "x-coordinate", points, path),)
            self.parameters = parameter_rows(file, path, card, self.num_trajectories)

    def _check_shape(self, card: DatasetCard) -> None:
        shape = self._tensor.shape
        if len(shape) not in (2, 3, 4) or card.num_dims != 1 or len(card.fields) != 1:
            raise DataError(f"{self.path}: tensor: shape {shape} is not (trajectory, time, x)")

    def read(self, trajectories: slice, frames: slice, stride_x: int = 1) -> Array:
        chosen = range(self.num_trajectories)[trajectories]
        inner = (frames, slice(None, None, stride_x))
        lengths = [len(self.times[frames]), len(self.coords[0][::stride_x])]
        out = np.empty((len(chosen), *lengths), np.float32)
        with reading(self.path):
            match self._tensor.ndim:
                case 2:
                    fill(out[0] if chosen else out, self._tensor, inner)
                case 3:
                    fill(out, self._tensor, (trajectories, *inner))
                case _:
                    self._fill_from_devices(out, chosen, inner)
        return out[..., None]

    def _fill_from_devices(self, out: Array, chosen: range, inner: tuple[slice, ...]) -> None:
        """`tensor` is (device, trajectory of the device, time, x)."""
        share, first = self._tensor.shape[1], 0
        while first < len(chosen):
            device, start = divmod(chosen[first], share)
            stop = min(share, start + len(chosen) - first)
            part = out[None, first : first + stop - start]
            fill(part, self._tensor, (slice(device, device + 1), slice(start, stop), *inner))
            first += stop - start

    def read_inputs(self, trajectories: slice, stride_x: int = 1) -> None:
        return None

    def plain_offset(self) -> int | None:
        return plain_offset(self._tensor)

    def close(self) -> None:
        self._file.close()
