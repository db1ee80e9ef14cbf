"""Windows of a grid store, read by position into the batch that will hold them.

Reading by position (`preadv`) instead of through the store's memory map: a process that has read
many windows has not mapped the whole file, a page fault costs nothing, and a cold read fetches
what was asked for instead of 128 kB around it. Positions belong to each call, so descriptors may
be shared by forked workers.
"""

from __future__ import annotations

import math
import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ups.data.augment import Components, Orientation, oriented, shift, with_components
from ups.data.store import TrajectoryStore
from ups.data.symmetries import Move
from ups.data.window_batches import Empty
from ups.errors import ConfigError, DataError, translated_os_errors

Array = npt.NDArray[Any]
Reduce = Literal["stride", "mean"]


@dataclass(frozen=True)
class Reduction:
    """Fewer grid points: every `stride`-th along each axis, or the mean of each block of them."""

    stride: int = 1
    by: Reduce = "stride"

    def check(self, space: tuple[int, ...], boundaries: tuple[str, ...], where: str) -> None:
        """Raise unless it leaves points that are evenly spaced over the domain.

        Raises:
            ConfigError: The stride does not divide an axis and blocks or a period need it to.
        """
        if self.stride < 1:
            raise ConfigError(f"{where}: stride_x: must be at least 1, found {self.stride}")
        for points, boundary in zip(space, boundaries, strict=True):
            whole = points % self.stride == 0
            if not whole and (self.by == "mean" or boundary == "periodic"):
                reason = "blocks" if self.by == "mean" else "a period"
                raise ConfigError(
                    f"{where}: stride_x {self.stride} does not divide {points} points into {reason}"
                )

    def points(self, coords: Array) -> Array:
        """Coordinates along one axis."""
        return self(coords[:, None], 1)[:, 0] if self.stride > 1 else coords

    def __call__(self, values: Array, num_dims: int) -> Array:
        """Reduce the space axes, the last `num_dims` but the channels."""
        if self.stride == 1:
            return values
        first = values.ndim - 1 - num_dims
        if self.by == "stride":
            every: Any = (..., *(slice(None, None, self.stride),) * num_dims, slice(None))
            return values[every]
        shape = list(values.shape[:first])
        for size in values.shape[first:-1]:
            shape += [size // self.stride, self.stride]
        blocks = values.reshape(*shape, values.shape[-1])
        axes = tuple(first + 1 + 2 * axis for axis in range(num_dims))
        return np.asarray(blocks.mean(axes, dtype=np.float64).astype(values.dtype))


class RowsOfFile:
    """Rows of a contiguous array in a file, read by position.

    Args:
        mapped: A memory map of the array; its values are not touched.
    """

    def __init__(self, mapped: Any) -> None:
        self.path = Path(mapped.filename)
        self.shape, self.dtype = tuple(mapped.shape), mapped.dtype
        self._offset = int(mapped.offset)
        with translated_os_errors(self.path, "reading"):
            self._descriptor = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read_into(self, out: Array, index: tuple[int, ...]) -> None:
        """Fill `out`, contiguous, with the values from `array[index]` on."""
        place = 0
        for size, number in zip(self.shape, index, strict=False):
            place = place * size + number
        place *= math.prod(self.shape[len(index) :]) * self.dtype.itemsize
        rest, position = out.data.cast("B"), self._offset + place
        with translated_os_errors(self.path, "reading"):
            while rest:
                count = os.preadv(self._descriptor, [rest], position)
                if not count:
                    raise DataError(
                        f"{self.path}: the file is truncated", hint="ups data convert --force"
                    )
                rest, position = rest[count:], position + count


class GridReader:
    """Fields and inputs of windows, reduced and moved.

    Args:
        length, stride_t: Frames in a window, and stored frames from one to the next.
        vectors: Of the fields, and of the inputs.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        *,
        length: int,
        stride_t: int,
        reduction: Reduction,
        vectors: tuple[Components, Components],
    ) -> None:
        reduction.check(store.space, store.metadata.boundaries, store.name)
        self.length, self.stride_t, self.reduction = length, stride_t, reduction
        self.coords = tuple(reduction.points(axis) for axis in store.coords)
        self.space = tuple(len(axis) for axis in self.coords)
        self._num_dims = len(self.space)
        self._vectors = vectors
        self._fields = RowsOfFile(store.fields)
        self._inputs = None if store.inputs is None else RowsOfFile(store.inputs)
        self._still = Orientation.identity(self._num_dims)

    @property
    def window_bytes(self) -> int:
        """Most bytes of one window."""
        inputs = 0 if self._inputs is None else self._inputs.shape[-1]
        values = self.length * self._fields.shape[-1] + inputs
        return 4 * math.prod(self.space) * values

    def read(
        self,
        trajectories: Array,
        starts: Array,
        moves: list[Move] | None,
        empty: Empty,
    ) -> tuple[Array, Array | None]:
        """(batch, time, *space, channel), and (batch, *space, input) or None."""
        count = len(trajectories)
        channels = self._fields.shape[-1]
        fields = empty((count, self.length, *self.space, channels), np.float32)
        inputs = None
        if self._inputs is not None:
            inputs = empty((count, *self.space, self._inputs.shape[-1]), np.float32)
        direct = self.reduction.stride == 1 and moves is None
        scratch = None if direct else np.empty((self.length, *self._fields.shape[2:]), np.float32)
        for row in range(count):
            trajectory, start = int(trajectories[row]), int(starts[row])
            self._read_frames(fields[row] if scratch is None else scratch, trajectory, start)
            move = moves[row] if moves else None
            if scratch is not None:
                self._place(fields[row], scratch, move, self._vectors[0])
            if inputs is not None:
                self._read_inputs(inputs[row], trajectory, move, direct)
        return fields, inputs

    def _read_frames(self, out: Array, trajectory: int, start: int) -> None:
        if self.stride_t == 1:
            self._fields.read_into(out, (trajectory, start))
            return
        for index in range(self.length):
            self._fields.read_into(out[index], (trajectory, start + index * self.stride_t))

    def _read_inputs(self, out: Array, trajectory: int, move: Move | None, direct: bool) -> None:
        assert self._inputs is not None
        if direct:
            self._inputs.read_into(out, (trajectory,))
            return
        scratch = np.empty(self._inputs.shape[1:], np.float32)
        self._inputs.read_into(scratch, (trajectory,))
        self._place(out, scratch, move, self._vectors[1])

    def _place(self, out: Array, values: Array, move: Move | None, vectors: Components) -> None:
        """Reduce, turn and shift one window into its place in the batch."""
        values = self.reduction(values, self._num_dims)
        if move is None:
            out[...] = values
            return
        if move.orientation != self._still:
            values = oriented(values, move.orientation)
            values = with_components(values, vectors, move.orientation)
        shift(values, move.cells(self.space), out=out)
