"""Training samples: which windows of which trajectories, as a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.data.partial import Rows
from ups.errors import DataError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class WindowSampler:
    """Draws batches of windows at random; batch `step` depends on `seed` and `step` alone.

    So a resumed run sees the batches that an uninterrupted one would have seen.

    Attributes:
        num_trajectories, num_frames: Of the frames drawn from.
        length: Frames in a window, at least 1.
        stride: Stored frames between the frames of a window.
        early_bias: The first frame is at (number of places) * u^early_bias, u uniform in [0, 1).
    """

    num_trajectories: int
    num_frames: int
    length: int
    stride: int = 1
    batch_size: int = 1
    early_bias: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_trajectories < 1:
            raise DataError("no trajectory to draw windows from")
        if self.num_places < 1:
            raise DataError(
                f"a window of {self.length} frames at stride {self.stride} does not fit into "
                f"{self.num_frames} frames"
            )

    @property
    def num_places(self) -> int:
        """Frames at which a window can begin."""
        return self.num_frames - (self.length - 1) * self.stride

    def draw(self, step: int) -> tuple[Array, Array]:
        """Trajectory and first frame of each window of batch `step`, (batch,) each."""
        random = np.random.default_rng([self.seed, step])
        trajectories = random.integers(self.num_trajectories, size=self.batch_size)
        places = self.num_places * random.random(self.batch_size) ** self.early_bias
        return trajectories, places.astype(np.int64)


def gather(frames: Rows, trajectories: Array, starts: Array, length: int, stride: int = 1) -> Array:
    """Copy windows out of an array or memory map of whole trajectories.

    Shape:
        frames: (trajectory, time, *rest)
        trajectories, starts: (batch,)
        output: (batch, length, *rest)
    """
    out = np.empty((len(trajectories), length, *frames.shape[2:]), dtype=frames.dtype)
    span = (length - 1) * stride + 1
    for row, (trajectory, start) in enumerate(
        zip(trajectories.tolist(), starts.tolist(), strict=True)
    ):
        out[row] = frames[trajectory, start : start + span : stride]
    return out


@dataclass(frozen=True)
class Shards:
    """Consecutive runs of trajectories, each its own array, read as one.

    Attributes:
        arrays: (trajectory, time, *rest) each, equal but for the first axis.
    """

    arrays: Sequence[Array]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(len(array) for array in self.arrays), *self.arrays[0].shape[1:])

    def gather(self, trajectories: Array, starts: Array, length: int, stride: int = 1) -> Array:
        """As `gather`, across shards."""
        if len(self.arrays) == 1:
            return gather(self.arrays[0], trajectories, starts, length, stride)
        ends = np.cumsum([len(array) for array in self.arrays])
        owner = np.searchsorted(ends, trajectories, side="right")
        out = np.empty((len(trajectories), length, *self.shape[2:]), self.arrays[0].dtype)
        for shard in np.unique(owner):
            rows = owner == shard
            first = ends[shard] - len(self.arrays[shard])
            out[rows] = gather(
                self.arrays[shard], trajectories[rows] - first, starts[rows], length, stride
            )
        return out

    def gather_at(self, trajectories: Array, times: Array, out: Array | None = None) -> Array:
        """Frames anywhere: (batch, length, *rest) for times of shape (batch, length).

        Args:
            out: Where to put them.
        """
        ends = np.cumsum([len(array) for array in self.arrays])
        owner = np.searchsorted(ends, trajectories, side="right")
        if out is None:
            out = np.empty((*times.shape, *self.shape[2:]), self.arrays[0].dtype)
        for row, (shard, trajectory) in enumerate(zip(owner, trajectories, strict=True)):
            first = ends[shard] - len(self.arrays[shard])
            out[row] = self.arrays[shard][trajectory - first][times[row]]
        return out

    def whole(self) -> Array:
        """Everything in one array in memory."""
        return np.concatenate([np.asarray(array) for array in self.arrays])
