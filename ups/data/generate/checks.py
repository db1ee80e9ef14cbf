"""What solvers check before they begin and after they end."""

from __future__ import annotations

import math

from torch import Tensor

from ups.data.generate.base import Task
from ups.errors import DataError, UsageError


def parameter_of(task: Task, name: str, allowed: tuple[float, float]) -> float:
    """The task's value of a parameter that the solver needs.

    Args:
        allowed: Smallest and largest value that the solver can do.
    Raises:
        UsageError: It is missing or outside `allowed`.
    """
    low, high = allowed
    value = float(task.parameters.get(name, math.nan))
    if not low <= value <= high:
        found = f"{value:g}" if name in task.parameters else "missing"
        raise UsageError(
            f"parameter {name}: must lie in [{low:g}, {high:g}], and is {found}",
            hint=f"--set {name}=VALUE",
        )
    return value


def require_finite(values: Tensor, trajectories: range, what: str) -> None:
    """Raise unless every trajectory is free of NaN and infinity.

    Args:
        values: (trajectory, ...).
        trajectories: Their numbers in the file.
        what: Equation and parameters, for the message.
    Raises:
        DataError: Names the first trajectory that is not finite.
    """
    finite = values.isfinite().flatten(1).all(1).tolist()
    lost = [number for number, fine in zip(trajectories, finite, strict=True) if not fine]
    if lost:
        others = f" (and {len(lost) - 1} more of this batch)" if len(lost) > 1 else ""
        raise DataError(
            f"{what}: trajectory {lost[0]}{others}: the solution did not stay finite",
            hint="solve in float64, or use parameters inside the card's range",
        )
