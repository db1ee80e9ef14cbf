"""Per-channel statistics in one float64 pass, block by block."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.errors import DataError

Array = npt.NDArray[Any]
NAMES = ("mean", "std", "rms", "min", "max")


@dataclass
class RunningStatistics:
    """Mean, deviation, RMS and range of each channel over everything seen so far.

    Blocks are merged by Chan, Golub and LeVeque's update, so that neither their size nor a large
    mean costs accuracy.
    """

    count: int = 0
    mean: Array = field(default_factory=lambda: np.zeros(0))
    squares: Array = field(default_factory=lambda: np.zeros(0))
    low: Array = field(default_factory=lambda: np.zeros(0))
    high: Array = field(default_factory=lambda: np.zeros(0))

    def update(self, block: Array) -> None:
        """Take in (..., channel) values."""
        values = block.reshape(-1, block.shape[-1])
        if not len(values):
            return
        mean = values.mean(axis=0, dtype=np.float64)
        squares = np.square(values - mean, dtype=np.float64).sum(axis=0)
        low, high = values.min(axis=0), values.max(axis=0)
        if not self.count:
            self.count, self.mean, self.squares = len(values), mean, squares
            self.low, self.high = low, high
            return
        total = self.count + len(values)
        delta = mean - self.mean
        self.squares = self.squares + squares + delta**2 * (self.count * len(values) / total)
        self.mean = self.mean + delta * (len(values) / total)
        self.count = total
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)

    def result(self) -> dict[str, Array]:
        """The statistics by name, (channel,) float64 each."""
        if not self.count:
            raise DataError("no training trajectory to take statistics from")
        variance = self.squares / self.count
        return {
            "mean": self.mean,
            "std": np.sqrt(variance),
            "rms": np.sqrt(variance + self.mean**2),
            "min": self.low.astype(np.float64),
            "max": self.high.astype(np.float64),
        }
