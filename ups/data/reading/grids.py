"""Windows of a grid store, copied from its memory map into the batch that will hold them.

Reduction, reflection, rotation and shift are all in how the map is looked at: a value is copied
once. Reading by position (`preadv`) instead was measured at 0.6 of the map's speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ups.data.partial import mapped
from ups.data.reading.augment import Components, Orientation, oriented, shift, with_components
from ups.data.reading.batches import Empty
from ups.data.reading.mapped_pages import MappedPages
from ups.data.reading.symmetries import Move
from ups.data.store import TrajectoryStore
from ups.errors import ConfigError

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
        self._require = store.require
        self._fields = mapped(store.fields)  # plain arrays are sliced faster than maps
        self._inputs = None if store.inputs is None else mapped(store.inputs)
        self._pages = MappedPages()
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
        self._require(trajectories)
        count = len(trajectories)
        channels = self._fields.shape[-1]
        fields = empty((count, self.length, *self.space, channels), np.float32)
        inputs = None
        if self._inputs is not None:
            inputs = empty((count, *self.space, self._inputs.shape[-1]), np.float32)
        span = (self.length - 1) * self.stride_t + 1
        places = zip(trajectories.tolist(), starts.tolist(), strict=True)
        for row, (trajectory, start) in enumerate(places):
            move = moves[row] if moves else None
            frames = self._fields[trajectory, start : start + span : self.stride_t]
            self._place(fields[row], frames, move, self._vectors[0])
            if inputs is not None and self._inputs is not None:
                self._place(inputs[row], self._inputs[trajectory], move, self._vectors[1])
        self._let_go(count)
        return fields, inputs

    def _let_go(self, count: int) -> None:
        """Of pages, once there are many."""
        whole = math.prod(self._fields.shape[2:]) * 4
        apart = self.length if self.stride_t > 1 else 1
        self._pages.touched(self._fields, count * self.length * whole, count * apart)
        if self._inputs is not None:
            self._pages.touched(self._inputs, count * self._inputs[0].nbytes, count)
        self._pages.release()

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
