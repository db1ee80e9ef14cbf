"""Which parts of a report are made, beside the table of errors."""

from __future__ import annotations

from collections.abc import Iterator

from ups.evaluation.context import Context
from ups.evaluation.cost import cost_section
from ups.evaluation.horizons import long_rollout_section, one_step_section
from ups.evaluation.observers import Observer
from ups.evaluation.physics_check import physics_observers
from ups.evaluation.report import Report, Section


def observers_for(context: Context) -> list[Observer]:
    """What looks at the rollouts as they pass."""
    return physics_observers(context)


def sections_of(context: Context, report: Report) -> Iterator[Section]:
    """What needs rollouts of its own."""
    if not context.is_steady:
        yield one_step_section(context)
        yield long_rollout_section(context)
    yield cost_section(context, report)
