"""What a result must meet before it counts: one outcome for each requirement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

Kind = Literal["accuracy", "physics", "calibration", "health", "data"]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One requirement and whether it was met.

    Attributes:
        name: Short and stable, `nrmse_mean`, `dead_parameters`: what commands filter by.
        detail: One sentence with the value found and what was asked for.
        value, limit: The numbers in it, where there are any.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    kind: Kind
    passed: bool
    detail: str
    value: float | None = None
    limit: float | None = None


def failed(gates: Iterable[Gate]) -> list[Gate]:
    """Those that were not met."""
    return [gate for gate in gates if not gate.passed]
