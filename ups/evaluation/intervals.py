"""How sure a number is: bootstrap intervals over trajectories."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
RESAMPLES = 1000
LEVEL = 0.95
_BLOCK = 2**22

REDUCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "mean": lambda values: values.mean(-1),
    "median": lambda values: np.median(values, -1),
    "p90": lambda values: np.quantile(values, 0.9, -1),
}
"""What an interval is given for; the bootstrap says nothing true about a maximum."""


def bootstrap(
    values: Array,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of mean, median and 90th percentile over trajectories.

    The same seed draws the same trajectories, whatever the values are.

    Args:
        values: (trajectory,) of one metric.
    Returns:
        Reduction -> (low, high); empty with fewer than two trajectories or values that are not
        finite.
    Source:
        Efron and Tibshirani 1993, doi:10.1007/978-1-4899-4541-9, chapter 13.
    """
    number = len(values)
    if number < 2 or not np.isfinite(values).all():
        return {}
    random = np.random.default_rng(seed)
    found: dict[str, list[Array]] = {name: [] for name in REDUCTIONS}
    block = max(1, _BLOCK // number)
    for first in range(0, resamples, block):
        drawn = random.integers(number, size=(min(block, resamples - first), number))
        for name, reduce in REDUCTIONS.items():
            found[name].append(reduce(values[drawn]))
    share = (1 - level) / 2
    ends = {
        name: np.quantile(np.concatenate(parts), (share, 1 - share))
        for name, parts in found.items()
    }
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def paired_difference(
    ours: Array,
    theirs: Array,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean of `ours - theirs` over the same trajectories, with its bootstrap interval.

    Returns:
        (mean difference, low, high); an interval without zero says that the difference is real at
        this level.
    Raises:
        ValueError: Not the same number of trajectories, or fewer than two.
    """
    if ours.shape != theirs.shape or len(ours) < 2:
        raise ValueError(f"{len(ours)} and {len(theirs)} trajectories cannot be paired")
    difference = ours - theirs
    ends = bootstrap(difference, resamples=resamples, level=level, seed=seed)
    low, high = ends.get("mean", (float("nan"), float("nan")))
    return float(difference.mean()), low, high
