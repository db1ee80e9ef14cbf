"""What can be wrong with a converted version, looked for instead of assumed."""

from __future__ import annotations

from collections.abc import Callable

from ups.data.auditing.common import Finding, worst
from ups.data.auditing.grids import audit_grid
from ups.data.auditing.points import audit_points
from ups.data.points import PointStore
from ups.data.splits import judged_only
from ups.data.store import TrajectoryStore
from ups.registry import DatasetCard

__all__ = ["Finding", "audit", "worst"]


def audit(
    store: TrajectoryStore | PointStore,
    card: DatasetCard,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Read everything once and report on it, worst news included.

    Returns:
        One finding for each check; `fail` means that numbers from this version are not to be
        trusted, `warn` that something looks wrong, `note` what is known of the published data.
    """
    card = judged_only(card) if store.metadata.test_only else card
    if isinstance(store, TrajectoryStore):
        return audit_grid(store, card, progress)
    return audit_points(store, card, progress)
