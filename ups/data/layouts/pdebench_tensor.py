"""PDEBench's scalar 1-D layout: one array `tensor` (trajectory, time, x)."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ups.data.layouts.base import (
    Array,
    coordinate,
    dataset_of,
    file_parameter,
    open_hdf5,
    reading,
)
from ups.errors import DataError
from ups.registry import DatasetCard


class PdebenchTensor:
    """Read `tensor`, `t-coordinate`, `x-coordinate` and the parameter attributes.

    `t-coordinate` has one entry more than `tensor` has frames; the first ones count. Files made by
    the 2024 scripts carry a device axis in front, which is folded into the trajectories. Unknown
    attributes are tolerated.

    Raises:
        DataError: A key or attribute is missing, or shapes disagree.
    """

    def __init__(self, path: Path, card: DatasetCard) -> None:
        self.path = path
        self.coords: tuple[Array, ...]
        self._file = open_hdf5(path)
        with ExitStack() as opened:
            opened.callback(self._file.close)
            self._tensor = dataset_of(self._file, "tensor", path)
            self._check_shape(card)
            *leading, frames, points = self._tensor.shape
            self.num_trajectories = math.prod(leading)
            self.times = coordinate(self._file, "t-coordinate", frames, path, extra=1)
            self.coords = (coordinate(self._file, "x-coordinate", points, path),)
            row = [
                file_parameter(self._file, parameter, path, card) for parameter in card.parameters
            ]
            self.parameters = np.tile(np.asarray(row, np.float64), (self.num_trajectories, 1))
            opened.pop_all()  # all is well: the file stays open until `close`

    def _check_shape(self, card: DatasetCard) -> None:
        shape, kind = self._tensor.shape, self._tensor.dtype
        if len(shape) not in (3, 4) or card.num_dims != 1:
            raise DataError(f"{self.path}: tensor: shape {shape} is not (trajectory, time, x)")
        if kind.kind != "f":
            raise DataError(f"{self.path}: tensor: expected floating point, found {kind}")

    def read(self, trajectories: slice, frames: slice, stride_x: int = 1) -> Array:
        space = slice(None, None, stride_x)
        with reading(self.path):
            if self._tensor.ndim == 3:
                block = self._tensor[trajectories, frames, space]
            else:
                per_device = self._tensor.shape[1]
                chosen = range(self.num_trajectories)[trajectories]
                places = [divmod(index, per_device) for index in chosen]
                block = np.stack([self._tensor[d, i, frames, space] for d, i in places])
        return np.asarray(block, dtype=np.float32)[..., None]

    def read_inputs(self, trajectories: slice, stride_x: int = 1) -> None:
        return None

    def close(self) -> None:
        self._file.close()
