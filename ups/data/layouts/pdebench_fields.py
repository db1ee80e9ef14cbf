"""PDEBench's compressible-flow layout: one array (trajectory, time, *space) for each field."""

from __future__ import annotations

from pathlib import Path

import h5py
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
from ups.registry import DatasetCard, FieldSpec


class PdebenchFields:
    """Read one array per field of the card, `<axis>-coordinate`, and `t-coordinate`.

    Channels come in the card's order, not in HDF5's alphabetical one. `t-coordinate` may have one
    entry more than there are frames. Merging one trajectory squeezes its axis away: arrays of
    (time, *space) are one trajectory. Inputs are arrays (trajectory, *space). Parameters are
    attributes of the file, or arrays `parameters/<name>` (trajectory,) where they are drawn for
    each trajectory. Unknown arrays and attributes are tolerated.

    Raises:
        DataError: An array or parameter is missing, or shapes disagree.
    """

    def __init__(self, path: Path, card: DatasetCard) -> None:
        self.path = path
        with opening(path) as file:
            self._file = file
            self._fields = self._arrays(card.fields, 2 + card.num_dims)
            self._inputs = self._arrays(card.inputs, 1 + card.num_dims)
            first = self._fields[0]
            self._squeezed = first.ndim == 1 + card.num_dims
            shape = (1, *first.shape) if self._squeezed else first.shape
            self.num_trajectories = int(shape[0])
            self.times = coordinate(file, "t-coordinate", shape[1], path, extra=1)
            self.coords = tuple(
                coordinate(file, axis.raw or f"{axis.name}-coordinate", points, path)
                for axis, points in zip(card.discretisation.axes, shape[2:], strict=True)
            )
            self._check_inputs()
            self.parameters = parameter_rows(file, path, card, self.num_trajectories)

    def _arrays(self, specs: tuple[FieldSpec, ...], rank: int) -> list[h5py.Dataset]:
        """The arrays of `specs`, all of one shape of `rank` axes, or one less if squeezed."""
        found = {spec.raw or spec.name: spec for spec in specs}
        arrays = [values_of(self._file, key, self.path) for key in found]
        for key, array in zip(found, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise DataError(
                    f"{self.path}: {key}: shape {array.shape}, but {next(iter(found))} has "
                    f"{arrays[0].shape}"
                )
            if array.ndim not in (rank, rank - 1):
                raise DataError(
                    f"{self.path}: {key}: shape {array.shape}, expected {rank} axes, trajectories "
                    "first, or one less for a single trajectory"
                )
        return arrays

    def _check_inputs(self) -> None:
        space = tuple(len(coord) for coord in self.coords)
        expected = space if self._squeezed else (self.num_trajectories, *space)
        for array in self._inputs:
            if array.shape != expected:
                name = array.name.lstrip("/")
                raise DataError(f"{self.path}: {name}: shape {array.shape}, expected {expected}")

    def read(self, trajectories: slice, frames: slice, stride_x: int = 1) -> Array:
        shape = (len(self.times[frames]), *self._reduced(stride_x), len(self._fields))
        return self._gather(self._fields, trajectories, shape, frames, stride_x)

    def read_inputs(self, trajectories: slice, stride_x: int = 1) -> Array | None:
        if not self._inputs:
            return None
        shape = (*self._reduced(stride_x), len(self._inputs))
        return self._gather(self._inputs, trajectories, shape, None, stride_x)

    def _gather(
        self,
        arrays: list[h5py.Dataset],
        trajectories: slice,
        shape: tuple[int, ...],
        frames: slice | None,
        stride_x: int,
    ) -> Array:
        chosen = range(self.num_trajectories)[trajectories]
        out = np.empty((len(chosen), *shape), np.float32)
        if not chosen:
            return out
        leading = () if self._squeezed else (trajectories,)
        time = () if frames is None else (frames,)
        space = (slice(None, None, stride_x),) * len(self.coords)
        with reading(self.path):
            for channel, array in enumerate(arrays):
                part = out[0, ..., channel] if self._squeezed else out[..., channel]
                fill(part, array, (*leading, *time, *space))
        return out

    def _reduced(self, stride_x: int) -> tuple[int, ...]:
        return tuple(len(coord[::stride_x]) for coord in self.coords)

    def plain_offset(self) -> int | None:
        return plain_offset(self._fields[0]) if len(self._fields) == 1 else None

    def close(self) -> None:
        self._file.close()
