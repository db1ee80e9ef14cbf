"""Uniform spacing of coordinates and times, with the place named where it breaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ups.data.layouts.base import Array
from ups.errors import DataError


def uniform_step(
    values: Array, name: str, path: Path, *, tolerance: float, unit: str = "", hint: str = ""
) -> float | None:
    """The constant step of a rising coordinate; None where there is only one entry.

    Args:
        values: (points,) float64, rising.
        tolerance: Largest deviation of one step, as a share of the median step.
        unit: Named in the message behind the steps.

    Raises:
        DataError: A step deviates by more; the message names the first one.
    """
    if len(values) < 2:
        return None
    steps = np.diff(values)
    usual = float(np.median(steps))
    wrong = np.flatnonzero(np.abs(steps - usual) > tolerance * usual)
    if wrong.size:
        at = int(wrong[0])
        raise DataError(
            f"{path}: {name}: a step of {steps[at]:g}{unit} between entries {at} and {at + 1}, "
            f"where the usual one is {usual:g}{unit}",
            hint=hint or None,
        )
    return float(values[-1] - values[0]) / (len(values) - 1)


def straightened(values: Array, step: float | None) -> Array:
    """`values` at exactly equal steps: what jitter below the tolerance and rounding hide."""
    return values if step is None else values[0] + step * np.arange(len(values))
