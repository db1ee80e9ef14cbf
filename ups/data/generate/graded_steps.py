"""Time steps for states that start rough and become smooth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise


def graded_steps(
    now: float, end: float, *, share: float, least: float, most: float = math.inf
) -> list[float]:
    """Steps from `now` to `end`, each at most `share` of the time that has passed since 0.

    Diffusion makes what is as wide as sqrt(t) as smooth as it needs to be for steps that are
    proportional to t, so a logarithmic number of them passes from the first instants to the end.
    The steps depend on nothing but these numbers, and so does not a trajectory on its batch.

    Args:
        least: Allowed whatever time has passed; positive.
        most: Never exceeded.
    """
    steps: list[float] = []
    while now < end:
        step = min(max(share * now, least), most)
        left = math.ceil((end - now) / step - 1e-9)
        if left <= 2:  # two equal steps rather than a full one and a sliver
            return steps + [(end - now) / max(left, 1)] * max(left, 1)
        steps.append(step)
        now += step
    return steps


def check_times(times: Sequence[float]) -> None:
    """Raise ValueError unless `times` rise from 0 or later."""
    if not times or times[0] < 0 or any(b <= a for a, b in pairwise(times)):
        raise ValueError("times must rise and not be negative")
