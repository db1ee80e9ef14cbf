"""How sure a number is that was measured once for each seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval.

    Attributes:
        low, high: 95 %, by Student's t; None with fewer than two values, which tell nothing.
        number: Of values.
    """

    mean: float
    low: float | None
    high: float | None
    number: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and self.low * self.high > 0

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.3g}"
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


def over_seeds(values: Sequence[float | None]) -> Estimate | None:
    """Mean and t-interval of independent values.

    Returns:
        None where a value is missing: a training that blew up has no number, and a mean without it
        would flatter.
    """
    found = [value for value in values if value is not None and math.isfinite(value)]
    if len(found) < len(values) or not found:
        return None
    mean, number = float(np.mean(found)), len(found)
    if number < 2:
        return Estimate(mean, None, None, number)
    error = float(np.std(found, ddof=1)) / math.sqrt(number)
    half = float(stats.t.ppf((1 + LEVEL) / 2, number - 1)) * error
    return Estimate(mean, mean - half, mean + half, number)


def relative_change(
    changed: Sequence[float | None], unchanged: Sequence[float | None]
) -> Estimate | None:
    """By what share `changed` is larger, paired by seed: 0.2 is 20 % larger.

    The mean is geometric, and so is the interval: mean and t-interval of the logarithm of the
    ratios.

    Args:
        changed, unchanged: Positive; one of each for every seed, in the same order.
    """
    ratios = [
        math.log(ours / theirs) if ours and theirs else None
        for ours, theirs in zip(changed, unchanged, strict=True)
    ]
    found = over_seeds(ratios)
    if found is None or found.low is None or found.high is None:
        return found and Estimate(math.expm1(found.mean), None, None, found.number)
    return Estimate(
        math.expm1(found.mean), math.expm1(found.low), math.expm1(found.high), found.number
    )
