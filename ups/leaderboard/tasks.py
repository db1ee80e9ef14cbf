"""Runs of several tasks: a column for each task, ranked by the average over them.

Only runs judged on the same tasks by the same protocols are ranked together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ups.evaluation.protocol import Protocol
from ups.leaderboard.entries import Entry
from ups.leaderboard.lines import TRIVIAL, Line, Measure, joined, lines_of, mean_of
from ups.leaderboard.table import Selection, check_measure


@dataclass(frozen=True, kw_only=True)
class TaskLine:
    """One predictor over several tasks.

    Attributes:
        rank: None for trivial predictors and where a task has no number or missed a health gate.
        tasks: Id of the task's protocol -> its line; of several seeds the joined one.
        macro: Mean of the values of all tasks, each task counting the same.
        low, high: Range of it over seeds; None with one.
        vs_persistence: Mean over tasks of nRMSE / nRMSE of persistence.
    """

    rank: int | None = None
    label: str
    kind: str
    tasks: Mapping[str, Line]
    macro: int | float | None
    low: int | float | None = None
    high: int | float | None = None
    vs_persistence: int | float | None
    unranked: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        lines = {key: line.to_dict() for key, line in self.tasks.items()}
        return asdict(self) | {"tasks": lines}


@dataclass(frozen=True)
class TaskRanking:
    """Runs that were judged on the same tasks, best first."""

    protocols: tuple[Protocol, ...]
    lines: tuple[TaskLine, ...]
    measure: Measure

    @property
    def title(self) -> str:
        """The tasks in one line of words."""
        return f"{len(self.protocols)} tasks: " + ", ".join(self.headings.values())

    @property
    def headings(self) -> dict[str, str]:
        """Protocol id -> what to call it here: the dataset, with more where it occurs twice."""
        names = [one.dataset for one in self.protocols]
        return {
            one.id: one.dataset if names.count(one.dataset) == 1 else f"{one.dataset} {one.version}"
            for one in self.protocols
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return {
            "title": self.title,
            "protocols": [{"id": one.id, **one.to_dict()} for one in self.protocols],
            "metric": self.measure.metric,
            "statistic": self.measure.statistic,
            "lines": [line.to_dict() for line in self.lines],
        }


def rank_tasks(
    entries: Iterable[Entry],
    *,
    dataset: str | None = None,
    split: str | None = None,
    protocol: str | None = None,
    run: str | None = None,
    metric: str = "nrmse",
    statistic: str = "mean",
) -> list[TaskRanking]:
    """One ranking for each set of tasks that a run was judged on; seeds of one config are joined.

    Args:
        dataset: Only rankings that hold this dataset.
        split, protocol, run: See `Selection`.
        metric, statistic: As `table.rank`.
    Raises:
        UsageError: No entry has such a metric or statistic.
    """
    found = Selection(split=split, protocol=protocol, run=run).of(entries)
    measure = Measure(metric, statistic)
    check_measure(found, measure)
    groups: dict[tuple[str, ...], list[dict[str, Entry]]] = {}
    for judged in _by_run(found):
        if len(judged) > 1:
            groups.setdefault(tuple(sorted(judged)), []).append(judged)
    rankings = []
    for group in groups.values():
        protocols = sorted((one.protocol for one in group[0].values()), key=_place)
        if dataset is None or dataset in {one.dataset for one in protocols}:
            lines = _ranked(_lines(group, measure), measure)
            rankings.append(TaskRanking(tuple(protocols), lines, measure))
    return sorted(rankings, key=lambda one: one.title)


def _place(protocol: Protocol) -> tuple[str, str, str]:
    return protocol.dataset, protocol.version, protocol.id


def _by_run(entries: Sequence[Entry]) -> list[dict[str, Entry]]:
    """For each checkpoint and name of a protocol: protocol id -> its newest entry."""
    found: dict[tuple[str, str], dict[str, Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.created):
        checkpoint = str(entry.run.get("checkpoint_sha256") or entry.run.get("id") or entry.id)
        found.setdefault((checkpoint, entry.protocol_name), {})[entry.protocol.id] = entry
    return list(found.values())


def _lines(group: Sequence[dict[str, Entry]], measure: Measure) -> list[TaskLine]:
    """Each row that all tasks have; trivial ones once, seeds of one config joined."""
    by_row: dict[tuple[str, ...], list[dict[str, Line]]] = {}
    for judged in group:
        lines = {
            key: {line.row: line for line in lines_of(entry, measure)}
            for key, entry in judged.items()
        }
        first = next(iter(lines.values()))
        for name in first:
            if all(name in rows for rows in lines.values()):
                row = {key: rows[name] for key, rows in lines.items()}
                by_row.setdefault(_key(first[name]), []).append(row)
    return [
        _line(found[:1] if key[0] == TRIVIAL else found, measure) for key, found in by_row.items()
    ]


def _key(line: Line) -> tuple[str, ...]:
    if line.kind == TRIVIAL:
        return TRIVIAL, line.row
    return line.kind, line.recipe or line.run, line.stage, line.row, line.unranked


def _line(seeds: Sequence[Mapping[str, Line]], measure: Measure) -> TaskLine:
    """One predictor from the lines of each of its seeds."""
    macros = [mean_of([line.value for line in lines.values()]) for lines in seeds]
    ratios = [mean_of([line.vs_persistence for line in lines.values()]) for lines in seeds]
    known = [value for value in macros if value is not None]
    tasks = {key: joined([lines[key] for lines in seeds], measure) for key in seeds[0]}
    first = next(iter(seeds[0].values()))
    several = len(known) > 1
    reasons = [f"{line.task}: {line.unranked}" for line in tasks.values() if line.unranked]
    return TaskLine(
        label=f"{first.label} ({len(seeds)} seeds)" if len(seeds) > 1 else first.label,
        kind=first.kind,
        tasks=tasks,
        macro=mean_of(macros),
        low=min(known) if several else None,
        high=max(known) if several else None,
        vs_persistence=mean_of(ratios),
        unranked="; ".join(reasons),
    )


def _ranked(lines: Sequence[TaskLine], measure: Measure) -> tuple[TaskLine, ...]:
    out, place = [], 0
    for line in sorted(lines, key=lambda line: (measure.badness(line.macro), line.label)):
        if line.kind != TRIVIAL and not line.unranked and line.macro is not None:
            place += 1
            line = replace(line, rank=place)
        out.append(line)
    return tuple(out)
