"""Per-channel statistics in one float64 pass: of each trajectory, then of any selection of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.errors import DataError

Array = npt.NDArray[Any]
NAMES = ("mean", "std", "rms", "min", "max")
_CHUNK_VALUES = 2**17
"""A megabyte of float64: what is converted stays in the processor's cache."""


@dataclass(frozen=True)
class Moments:
    """What pools of values need to know of each other: (row, channel) float64 each.

    Attributes:
        count: Values behind each entry, (row,).
        mean, squares: Mean, and sum of squared deviations from it.
        low, high: Range.
    """

    count: Array
    mean: Array
    squares: Array
    low: Array
    high: Array

    @property
    def finite(self) -> Array:
        """Rows that hold neither NaN nor infinity, (row,)."""
        return np.asarray(np.isfinite(self.squares).all(-1))

    def rows(self, chosen: Array | slice) -> Moments:
        """The chosen rows only."""
        return Moments(*(getattr(self, name)[chosen] for name in _PARTS))


_PARTS = ("count", "mean", "squares", "low", "high")


def moments(block: Array) -> Moments:
    """Moments of each row of (row, ..., channel) float values."""
    channels = block.shape[-1]
    values = (
        block.reshape(len(block), -1, channels) if block.size else block.reshape(0, 1, channels)
    )
    together = _CHUNK_VALUES // max(1, values[0].size if len(values) else 1)
    if together > 1:  # short rows, many at a time
        parts = [_short_rows(values[i : i + together]) for i in range(0, len(values), together)]
        if parts:
            return joined(parts)
    rows = [_row_moments(row) for row in values]
    columns = zip(*rows, strict=True) if rows else ([] for _ in _PARTS)
    count, *rest = (np.asarray(column, dtype=np.float64) for column in columns)
    return Moments(count, *(part.reshape(len(rows), channels) for part in rest))


def _short_rows(values: Array) -> Moments:
    """Of (row, value, channel), all in one go; shifted by each row's first value."""
    rows, size, _ = values.shape
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = values.astype(np.float64)
        shift = shifted[:, 0].copy()
        shifted -= shift[:, None]
        total = shifted.sum(1)
        squares = np.einsum("rvc,rvc->rc", shifted, shifted) - total**2 / size
        return Moments(
            np.full(rows, float(size)),
            shift + total / size,
            np.maximum(squares, 0),
            values.min(1).astype(np.float64),
            values.max(1).astype(np.float64),
        )


def _row_moments(values: Array) -> tuple[int, Array, Array, Array, Array]:
    """Count, mean, squares, low and high of (value, channel), shifted by the first value.

    The shift keeps a large mean from costing accuracy.
    """
    channels, step = values.shape[1], max(1, _CHUNK_VALUES // values.shape[1])
    shift = values[0].astype(np.float64)[:, None]
    buffer = np.empty((channels, min(step, len(values))))
    total, squares = np.zeros(channels), np.zeros(channels)
    low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are found, not hidden
        for start in range(0, len(values), step):
            chunk = np.ascontiguousarray(values[start : start + step].T)
            shifted = np.subtract(chunk, shift, out=buffer[:, : chunk.shape[1]], dtype=np.float64)
            total += shifted.sum(1)
            squares += np.einsum("ij,ij->i", shifted, shifted)
            low = np.minimum(low, chunk.min(1))
            high = np.maximum(high, chunk.max(1))
        mean = shift[:, 0] + total / len(values)
        squares = np.maximum(squares - total**2 / len(values), 0)
    return len(values), mean, squares, low, high


def joined(parts: Iterable[Moments]) -> Moments:
    """Rows of several pools, one after the other."""
    pools = list(parts)
    return Moments(*(np.concatenate([getattr(p, name) for p in pools]) for name in _PARTS))


def merged(one: Moments, other: Moments) -> Moments:
    """Row by row, the moments of both pools' values together.

    Source:
        Chan, Golub and LeVeque 1983, The American Statistician 37(3).
    """
    count = one.count + other.count
    share = (other.count / count)[:, None]
    delta = other.mean - one.mean
    with np.errstate(invalid="ignore", over="ignore"):
        return Moments(
            count,
            one.mean + delta * share,
            one.squares + other.squares + delta**2 * (one.count[:, None] * share),
            np.minimum(one.low, other.low),
            np.maximum(one.high, other.high),
        )


def pooled(parts: Moments) -> dict[str, Array]:
    """Statistics by name over all rows, (channel,) float64 each.

    Raises:
        DataError: There is no row.
    """
    total = parts.count.sum()
    if not total:
        raise DataError("no training trajectory to take statistics from")
    weight = (parts.count / total)[:, None]
    mean = (parts.mean * weight).sum(0)
    spread = parts.count[:, None] * (parts.mean - mean) ** 2
    variance = (parts.squares.sum(0) + spread.sum(0)) / total
    return {
        "mean": mean,
        "std": np.sqrt(variance),
        "rms": np.sqrt(variance + mean**2),
        "min": parts.low.min(0),
        "max": parts.high.max(0),
    }
