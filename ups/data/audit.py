"""What can be wrong with a converted version, looked for instead of assumed."""

from __future__ import annotations

from collections.abc import Callable

from ups.data.auditing import grids, points
from ups.data.auditing.common import (
    Finding,
    check_duplicates,
    check_split_record,
    shared_groups,
    worst,
)
from ups.data.auditing.grids import audit_grid
from ups.data.auditing.points import audit_points
from ups.data.points import PointStore
from ups.data.splits import judged_only
from ups.data.store import TrajectoryStore
from ups.registry import DatasetCard

__all__ = ["Finding", "audit", "audit_splits", "worst"]


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


def audit_splits(store: TrajectoryStore | PointStore, card: DatasetCard) -> list[Finding]:
    """What of an audit is about splits: duplicates, their record, states that they share.

    Of a grid only the first frame of each trajectory is read. Where not all trajectories are here,
    groups are compared and states are not.
    """
    card = judged_only(card) if store.metadata.test_only else card
    found = [check_duplicates(store), check_split_record(store, card)]
    if store.presence is not None and not store.presence.complete:
        return [*found, shared_groups(store) or _not_compared(store)]
    if isinstance(store, TrajectoryStore):
        return [*found, *grids.check_leaks(store, card)]
    return [*found, points.check_leaks(store)]


def _not_compared(store: TrajectoryStore | PointStore) -> Finding:
    assert store.presence is not None
    absent = int((~store.presence.here).sum())
    detail = (
        f"no group is shared between splits; initial states were not compared, {absent} of "
        f"{store.num_trajectories} trajectories are not here"
    )
    return Finding("leaks", "note", detail)
