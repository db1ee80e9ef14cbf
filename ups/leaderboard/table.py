"""Entries as ranked tables, one for each protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ups.errors import UsageError, did_you_mean
from ups.evaluation.protocol import Protocol
from ups.leaderboard.entries import Entry, current, superseded
from ups.leaderboard.lines import (
    TRIVIAL,
    Line,
    Measure,
    joined,
    lines_of,
    without_repeats,
)

GroupBy = Literal["protocol", "run", "model"]


@dataclass(frozen=True)
class Ranking:
    """All predictors measured under one protocol, best first."""

    protocol: Protocol
    lines: tuple[Line, ...]
    measure: Measure

    @property
    def title(self) -> str:
        """The protocol in one line of words."""
        return self.protocol.describe()

    @property
    def names(self) -> list[str]:
        """What the protocol was called where it was used: 'own', 'ic', 'pdebench', ..."""
        return sorted({line.protocol_name for line in self.lines})

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return {
            "title": self.title,
            "protocol": {"id": self.protocol.id, **self.protocol.to_dict()},
            "metric": self.measure.metric,
            "statistic": self.measure.statistic,
            "lines": [line.to_dict() for line in self.lines],
        }


@dataclass(frozen=True)
class Selection:
    """Which entries are wanted.

    Attributes:
        dataset: Exactly this dataset, or this task of a run.
        split: Exactly this split.
        protocol: Protocols whose id begins so, or that are called exactly so.
        run: Runs whose name contains this.
        all: Superseded entries too.
    """

    dataset: str | None = None
    split: str | None = None
    protocol: str | None = None
    run: str | None = None
    all: bool = False

    def of(self, entries: Iterable[Entry]) -> list[Entry]:
        """The wanted ones."""
        found = list(entries)
        return [entry for entry in (found if self.all else current(found)) if self._wants(entry)]

    def _wants(self, entry: Entry) -> bool:
        about, wanted = entry.protocol, self.protocol or ""
        return (
            self.dataset in (None, about.dataset, entry.task)
            and self.split in (None, about.split)
            and (about.id.startswith(wanted) or entry.protocol_name == wanted)
            and (self.run or "") in entry.name
        )


def rank(
    entries: Iterable[Entry],
    *,
    dataset: str | None = None,
    split: str | None = None,
    protocol: str | None = None,
    run: str | None = None,
    metric: str = "nrmse",
    statistic: str = "mean",
    group_by: GroupBy = "protocol",
    show_all: bool = False,
) -> list[Ranking]:
    """One ranking for each protocol, sorted by dataset, split and protocol id.

    A trivial predictor is listed once per protocol and value, wherever it was measured. Entries
    that missed a health gate are listed, not ranked.

    Args:
        dataset, split, protocol, run, show_all: See `Selection`.
        metric, statistic: What to rank by, `Row.metrics[metric][statistic]`.
        group_by: 'run' joins the seeds of one config into one line, 'model' shows the best line of
            each kind of model.
    Raises:
        UsageError: No entry has such a metric or statistic.
    """
    known = list(entries)
    gone = {old: by.id for old, by in superseded(known).items()}
    wanted = Selection(dataset, split, protocol, run, show_all).of(known)
    measure = Measure(metric, statistic)
    check_measure(wanted, measure)
    groups: dict[str, list[Entry]] = {}
    for entry in wanted:
        groups.setdefault(entry.protocol.id, []).append(entry)
    rankings = []
    for group in groups.values():
        lines = [line for one in group for line in lines_of(one, measure, gone.get(one.id, ""))]
        ranked = _ranked(_GROUPED[group_by](without_repeats(lines), measure), measure)
        rankings.append(Ranking(group[0].protocol, ranked, measure))
    return sorted(rankings, key=_place)


def _place(ranking: Ranking) -> tuple[str, str, str]:
    about = ranking.protocol
    return about.dataset, about.split, about.id


def check_measure(entries: Sequence[Entry], measure: Measure) -> None:
    """Refuse a metric or statistic that no entry has.

    Raises:
        UsageError: Naming the nearest that some have.
    """
    found: dict[str, set[str]] = {}
    for row in (row for entry in entries for row in entry.rows):
        for name, reduced in row.metrics.items():
            found.setdefault(name, set()).update(reduced)
    if not found:
        return
    for option, value, known in (
        ("metric", measure.metric, set(found)),
        ("statistic", measure.statistic, found.get(measure.metric, set())),
    ):
        if value not in known:
            raise UsageError(
                f"--{option} {value}: no entry has it{did_you_mean(value, known)}",
                hint=f"there is {', '.join(sorted(known))}",
            )


def _ranked(lines: Sequence[Line], measure: Measure) -> tuple[Line, ...]:
    """Best first; what has no number last."""
    ordered = sorted(_told_apart(lines), key=lambda line: _key(line, measure))
    out, place = [], 0
    for line in ordered:
        if line.kind != TRIVIAL and not line.unranked:
            place += 1
            line = replace(line, rank=place)
        out.append(line)
    return tuple(out)


def _key(line: Line, measure: Measure) -> tuple[Any, ...]:
    return measure.badness(line.value), line.date, line.entry, line.row


def _each(lines: Sequence[Line], measure: Measure) -> list[Line]:
    return list(lines)


def _by_recipe(lines: Sequence[Line], measure: Measure) -> list[Line]:
    """Seeds of one config joined; what is not ranked stays alone."""
    groups, alone = _grouped(lines, lambda line: (line.recipe or line.run, line.stage, line.row))
    return [*(joined(group, measure) for group in groups), *alone]


def _by_model(lines: Sequence[Line], measure: Measure) -> list[Line]:
    """The best of each kind of model, with how many there are."""
    groups, alone = _grouped(lines, lambda line: (line.model or line.run, line.row))
    return [*(_best(group, measure) for group in groups), *alone]


def _grouped(
    lines: Sequence[Line], key: Callable[[Line], tuple[str, ...]]
) -> tuple[list[list[Line]], list[Line]]:
    """Lines that may be ranked by their key, and the others."""
    groups: dict[tuple[str, ...], list[Line]] = {}
    alone = []
    for line in lines:
        if line.kind == TRIVIAL or line.unranked:
            alone.append(line)
        else:
            groups.setdefault(key(line), []).append(line)
    return list(groups.values()), alone


def _best(lines: Sequence[Line], measure: Measure) -> Line:
    best = min(lines, key=lambda line: measure.badness(line.value))
    of = f", best of {len(lines)}" if len(lines) > 1 else ""
    return replace(best, label=f"{best.model or best.run} ({best.label}{of})")


_GROUPED: Mapping[str, Callable[[Sequence[Line], Measure], list[Line]]] = {
    "protocol": _each, "run": _by_recipe, "model": _by_model,
}  # fmt: skip


def _told_apart(lines: Sequence[Line]) -> list[Line]:
    """Add the seed to labels that occur twice, and the entry's id where that is not enough."""
    with_seed = _suffixed(
        lines, lambda line: f" (seed {line.seed})" if line.seed is not None else ""
    )
    return _suffixed(with_seed, lambda line: f" [{line.entry[:6]}]")


def _suffixed(lines: Sequence[Line], suffix: Callable[[Line], str]) -> list[Line]:
    count = Counter(line.label for line in lines)
    return [
        replace(line, label=line.label + suffix(line)) if count[line.label] > 1 else line
        for line in lines
    ]
