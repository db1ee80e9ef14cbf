"""What looks at predictions as they pass, so that every measure needs one rollout only."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from ups.evaluation.report import Section
from ups.evaluation.rollout import Batch


@runtime_checkable
class Observer(Protocol):
    """Takes the batches of one pass, then tells what it found as a section of the report.

    Several processes share a split: each has an observer of its own, and the first process absorbs
    the others' in the order of their trajectories. An observer can be pickled.
    """

    def update(self, batch: Batch) -> None:
        """See the predictions of some trajectories beside the truth."""
        ...

    def absorb(self, other: Any) -> None:
        """Add what another observer of the same kind has seen, after one's own."""
        ...

    def result(self) -> Section:
        """What was found, over the whole split."""
        ...
