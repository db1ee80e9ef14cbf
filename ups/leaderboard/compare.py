"""Is the difference between two entries real? Paired over the same trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ups.errors import UsageError, did_you_mean
from ups.evaluation.intervals import LEVEL, paired_difference
from ups.evaluation.report import Row
from ups.leaderboard.entries import Entry, find

PAIRED = ("nrmse", "relative_l2", "vrmse", "rmse", "max_error")


@dataclass(frozen=True)
class Comparison:
    """Two predictors on the same trajectories.

    Attributes:
        first, second: `run (entry)` of each.
        means: Of the metric over the trajectories that neither blew up on.
        difference, low, high: Mean of first - second over them, and its 95 % bootstrap interval;
            None with fewer than two.
        won: Share of all trajectories on which the first is better; one that blew up has lost.
        trajectories: How many there are.
        blown_up: On how many of them each gave no finite number.
        is_real: Whether the interval leaves zero out; None where it cannot be said.
    """

    metric: str
    first: str
    second: str
    means: tuple[float, float] | None
    difference: int | float | None
    low: int | float | None
    high: int | float | None
    won: int | float
    trajectories: int
    blown_up: tuple[int, int]
    is_real: bool | None

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        if self.is_real is None or self.difference is None or self.means is None:
            return (
                f"Cannot be said: of {self.trajectories} trajectories, {self.first} blew up on "
                f"{self.blown_up[0]} and {self.second} on {self.blown_up[1]}."
            )
        if not self.is_real:
            return (
                f"No difference is shown: the {LEVEL:.0%} interval of the mean difference "
                f"contains zero."
            )
        better, worse = (self.first, self.second) if self.difference < 0 else (
            self.second, self.first)  # fmt: skip
        share = abs(self.difference) / max(self.means) if max(self.means) else 0.0
        return f"The difference is real: {better} is better than {worse}, by {share:.1%}."

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        listed = {key: getattr(self, key) for key in ("means", "blown_up")}
        plain = {key: list(value) if value is not None else None for key, value in listed.items()}
        return {**asdict(self), **plain, "verdict": self.verdict}


def compare(
    first: tuple[Entry, Row], second: tuple[Entry, Row], metric: str = "nrmse"
) -> Comparison:
    """Pair two rows, trajectory by trajectory.

    The interval is over trajectories: it says nothing of what other seeds of training would give.

    Raises:
        UsageError: They were not measured under one protocol on the same trajectories, or their
            entries hold no values of single trajectories.
    """
    _check_pair(first[0], second[0])
    ours, theirs = (_values(entry, row, metric) for entry, row in (first, second))
    sound = np.isfinite(ours) & np.isfinite(theirs)
    # what blew up is worse than anything that did not
    won = np.nan_to_num(ours, nan=np.inf) < np.nan_to_num(theirs, nan=np.inf)
    means = difference = low = high = is_real = None
    if sound.sum() >= 2:
        difference, low, high = paired_difference(ours[sound], theirs[sound])
        means = (float(ours[sound].mean()), float(theirs[sound].mean()))
    if sound.all() and low is not None and high is not None:
        is_real = bool(low > 0 or high < 0)
    labels = _labels(first, second)
    return Comparison(
        metric=metric,
        first=labels[0],
        second=labels[1],
        means=means,
        difference=difference,
        low=low,
        high=high,
        won=float(won.mean()),
        trajectories=len(ours),
        blown_up=(int((~np.isfinite(ours)).sum()), int((~np.isfinite(theirs)).sum())),
        is_real=is_real,
    )


def find_row(entries: Sequence[Entry], wanted: str) -> tuple[Entry, Row]:
    """`ENTRY` or `ENTRY:ROW`: an entry by the beginning of its id, and its first row or that one.

    Raises:
        UsageError: There is no such entry, or no such row in it.
    """
    name, _, row_name = wanted.partition(":")
    entry = find(entries, name)
    if not row_name:
        return entry, entry.rows[0]
    row = entry.row(row_name)
    if row is None:
        known = [one.name for one in entry.rows]
        raise UsageError(
            f"{wanted}: entry {entry.id} has no row '{row_name}'{did_you_mean(row_name, known)}",
            hint=f"its rows: {', '.join(known)}",
        )
    return entry, row


def _check_pair(first: Entry, second: Entry) -> None:
    mine, theirs = first.protocol.to_dict(), second.protocol.to_dict()
    differing = [
        f"{key} ({_told(mine[key])} and {_told(theirs[key])})"
        for key in mine if mine[key] != theirs[key]
    ]  # fmt: skip
    if differing:
        raise UsageError(
            f"{first.id[:8]} and {second.id[:8]} were measured under different protocols: "
            f"they differ in {', '.join(differing)}",
            hint="judge both alike: ups eval RUN --protocol NAME, then ups leaderboard add",
        )
    if first.trajectories != second.trajectories:
        raise UsageError(
            f"{first.id[:8]} and {second.id[:8]} do not list the same trajectories",
            hint="judge both runs again: ups eval RUN, then ups leaderboard add",
        )


def _told(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 40 else text


def _values(entry: Entry, row: Row, metric: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """One number for each trajectory, NaN where it blew up."""
    if metric not in PAIRED:
        raise UsageError(
            f"--metric {metric}: cannot be paired{did_you_mean(metric, PAIRED)}",
            hint=f"one of {', '.join(PAIRED)}",
        )
    values = row.per_trajectory.get(metric)
    if not values:
        raise UsageError(
            f"{entry.id[:8]}: holds no values of single trajectories for {row.name}",
            hint="judge the run again with this version: ups eval RUN, then ups leaderboard add",
        )
    return np.array(values, dtype=np.float64)


def _labels(first: tuple[Entry, Row], second: tuple[Entry, Row]) -> tuple[str, str]:
    def label(entry: Entry, row: Row) -> str:
        name = entry.name if row.kind == "model" and row.name == "model" else row.name
        return f"{name} ({entry.id[:8]})"

    return label(*first), label(*second)
