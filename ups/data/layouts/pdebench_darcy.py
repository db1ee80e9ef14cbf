"""PDEBench's Darcy layout: `nu` (trajectory, x, y) -> `tensor` (trajectory, 1, x, y)."""

from __future__ import annotations

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


class PdebenchDarcy:
    """Read a static problem: the input `nu`, the solution `tensor`, one frame at time 0.

    `t-coordinate` is ignored: its ten entries are left from the march in pseudo-time towards the
    solution, of which one state was kept as `tensor`.

    Raises:
        DataError: A key or attribute is missing, or shapes disagree.
    """

    def __init__(self, path: Path, card: DatasetCard) -> None:
        self.path = path
        if (card.num_dims, len(card.fields), len(card.inputs)) != (2, 1, 1):
            raise DataError(f"{card.key}: layout 'pdebench_darcy' has one input and one field")
        field, given = card.fields[0], card.inputs[0]
        with opening(path) as file:
            self._file = file
            self._solution = values_of(file, field.raw or field.name, path)
            self._input = values_of(file, given.raw or given.name, path)
            shape, given_shape = self._solution.shape, self._input.shape
            if len(shape) != 4 or shape[1] != 1:
                name = self._solution.name.lstrip("/")
                raise DataError(f"{path}: {name}: shape {shape} is not (trajectory, 1, x, y)")
            if given_shape != (shape[0], *shape[2:]):
                name = self._input.name.lstrip("/")
                raise DataError(f"{path}: {name}: shape {given_shape} for solutions of {shape}")
            self.num_trajectories = int(shape[0])
            self.times: Array = np.zeros(1)
            self.coords = tuple(
                coordinate(file, axis.raw or f"{axis.name}-coordinate", points, path)
                for axis, points in zip(card.discretisation.axes, shape[2:], strict=True)
            )
            self.parameters = parameter_rows(file, path, card, self.num_trajectories)

    def read(self, trajectories: slice, frames: slice, stride_x: int = 1) -> Array:
        space = slice(None, None, stride_x)
        out = self._empty(trajectories, len(self.times[frames]), stride_x)
        with reading(self.path):
            fill(out, self._solution, (trajectories, frames, space, space))
        return out[..., None]

    def read_inputs(self, trajectories: slice, stride_x: int = 1) -> Array:
        space = slice(None, None, stride_x)
        out = self._empty(trajectories, 1, stride_x)[:, 0]
        with reading(self.path):
            fill(out, self._input, (trajectories, space, space))
        return out[..., None]

    def _empty(self, trajectories: slice, frames: int, stride_x: int) -> Array:
        count = len(range(self.num_trajectories)[trajectories])
        points = [len(coord[::stride_x]) for coord in self.coords]
        return np.empty((count, frames, *points), np.float32)

    def plain_offset(self) -> int | None:
        return plain_offset(self._solution)

    def close(self) -> None:
        self._file.close()
