"""The lines of a table: one predictor of one entry, or several seeds of it joined."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from ups.evaluation.gates import failed
from ups.evaluation.report import Row
from ups.leaderboard.entries import Entry

PERSISTENCE, TRAINING_MEAN, MODEL = "persistence", "training mean", "model"
TRIVIAL = "trivial"
HEADLINE, MEAN = "nrmse", "mean"
HIGHER_IS_BETTER = frozenset({"correlation_time"})
_SAME = 1e-5


@dataclass(frozen=True)
class Measure:
    """What a table is ranked by."""

    metric: str = HEADLINE
    statistic: str = MEAN

    def badness(self, value: int | float | None) -> float:
        """What to sort by, best first; infinite where there is no number."""
        if value is None:
            return math.inf
        return -value if self.metric in HIGHER_IS_BETTER else value


@dataclass(frozen=True, kw_only=True)
class Line:
    """One predictor in a table.

    Attributes:
        rank: 1 is best; None for trivial predictors, rollouts that blew up, and entries that
            missed a gate without which a number means nothing.
        label: The run's name, told apart from others of its name; the row's name if trivial.
        kind: 'model', 'baseline' or 'trivial'.
        model: Kind of operator.
        value: What the table is ranked by; of joined lines the mean, of models the best.
        low, high: Its 95 % interval over trajectories; of joined lines their range.
        statistics: 'mean', 'median', 'p90', 'max' of the metric over trajectories.
        vs_persistence: nRMSE / nRMSE of persistence, of steady problems of the training mean, in
            the same report; below 1 is better.
        unranked: Why there is no rank although it is no trivial predictor.
        missed: Gates that were not met, in words.
        train_hours: Wall hours of all stages of the run, on `train_device`.
        members: Ids of the entries that are joined here, best first.
        seeds: Theirs.
        superseded_by: The id of the entry that corrects this one.
    """

    rank: int | None = None
    label: str
    row: str
    kind: str
    model: str
    task: str
    value: int | float | None
    low: int | float | None
    high: int | float | None
    statistics: Mapping[str, int | float | None]
    nrmse_mean: int | float | None
    relative_l2: int | float | None
    vrmse: int | float | None
    vs_persistence: int | float | None
    seconds_per_step: int | float | None
    num_parameters: int | None
    seed: int | None
    date: str
    run: str
    run_id: str
    stage: str
    recipe: str
    checkpoint: str
    entry: str
    commit: str
    version: str
    protocol_name: str
    unranked: str = ""
    missed: tuple[str, ...] = ()
    train_hours: int | float | None = None
    train_device: str = ""
    latency_seconds: int | float | None = None
    trajectories_per_second: int | float | None = None
    peak_memory_bytes: int | None = None
    device: str = ""
    members: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    superseded_by: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {key: list(getattr(self, key)) for key in _TUPLES}


_TUPLES = ("missed", "members", "seeds")


def lines_of(entry: Entry, measure: Measure, superseded_by: str = "") -> list[Line]:
    """The predictors of an entry."""
    floor_row = entry.row(PERSISTENCE) or entry.row(TRAINING_MEAN)
    floor = floor_row.value(HEADLINE) if floor_row else None
    return [_line(entry, row, measure, floor, superseded_by) for row in entry.rows]


def _line(
    entry: Entry, row: Row, measure: Measure, floor: int | float | None, superseded_by: str
) -> Line:
    run, mean = entry.run, row.value(HEADLINE)
    low, high = row.intervals.get(measure.metric, {}).get(measure.statistic, (None, None))
    value = row.value(measure.metric, measure.statistic)
    seed = run.get("seed")
    learned = row.kind != TRIVIAL
    return Line(
        label=_label(entry, row),
        row=row.name,
        kind=row.kind,
        model=str(run.get("model", "")) if learned else "",
        task=entry.task,
        value=value,
        low=low,
        high=high,
        statistics=row.metrics.get(measure.metric, {}),
        nrmse_mean=mean,
        relative_l2=row.value("relative_l2"),
        vrmse=row.value("vrmse"),
        vs_persistence=mean / floor if mean is not None and floor else None,
        seconds_per_step=row.seconds_per_step,
        num_parameters=run.get("num_parameters") if learned else None,
        seed=seed if learned else None,
        date=entry.created[:10],
        run=entry.name,
        run_id=str(run.get("id", "")),
        stage=str(run.get("stage", "")),
        recipe=entry.recipe,
        checkpoint=str(run.get("checkpoint_sha256", "")),
        entry=entry.id,
        commit=str(run.get("commit", "")),
        version=str(run.get("version", "")),
        protocol_name=entry.protocol_name,
        unranked=_unranked(entry, value, superseded_by) if learned else "",
        missed=tuple(_said(gate) for gate in failed(entry.gates)) if learned else (),
        members=(entry.id,),
        seeds=(seed,) if learned and isinstance(seed, int) else (),
        superseded_by=superseded_by,
        **(_cost(entry) if row.name == MODEL else {}),
    )


def _cost(entry: Entry) -> dict[str, Any]:
    cost = entry.sections.get("cost") or {}
    return {
        "train_hours": cost.get("train_hours"),
        "train_device": str(cost.get("train_device") or ""),
        "latency_seconds": cost.get("latency_seconds"),
        "trajectories_per_second": cost.get("trajectories_per_second"),
        "peak_memory_bytes": cost.get("peak_memory_bytes"),
        "device": str(cost.get("device") or entry.environment.get("device") or ""),
    }


def _unranked(entry: Entry, value: int | float | None, superseded_by: str) -> str:
    if superseded_by:
        return f"superseded by {superseded_by[:8]}"
    if entry.disqualified_by:
        return "; ".join(_said(gate) for gate in entry.disqualified_by)
    return (
        "" if value is not None else "no such number: the rollout blew up, or it was not measured"
    )


def _said(gate: Any) -> str:
    return f"{gate.kind} gate {gate.name}: {gate.detail}"


def _label(entry: Entry, row: Row) -> str:
    if row.kind == TRIVIAL:
        return row.name
    return entry.name if row.name in (MODEL, entry.name) else f"{entry.name}: {row.name}"


def without_repeats(lines: Iterable[Line]) -> list[Line]:
    """A trivial predictor, or a checkpoint, measured again with the same result counts once.

    The last one stays, of lines from the oldest on. A difference of rounding is none.
    """
    kept: list[Line] = []
    known: dict[tuple[str, ...], list[Line]] = {}
    for line in reversed(list(lines)):
        key = (line.row, "" if line.kind == TRIVIAL else line.checkpoint or line.entry,
               line.unranked)  # fmt: skip
        same = known.setdefault(key, [])
        if not any(_same(line, other) for other in same):
            same.append(line)
            kept.append(line)
    return kept[::-1]


def _same(one: Line, other: Line) -> bool:
    pairs = ((one.value, other.value), (one.nrmse_mean, other.nrmse_mean))
    return all(
        mine is theirs if mine is None or theirs is None else math.isclose(mine, theirs,
                                                                           rel_tol=_SAME)
        for mine, theirs in pairs
    )  # fmt: skip


def joined(lines: Sequence[Line], measure: Measure) -> Line:
    """Several seeds of one config as one line: mean of every number, range of the value."""
    if len(lines) == 1:
        return lines[0]
    best = sorted(lines, key=lambda line: measure.badness(line.value))
    values = [line.value for line in best if line.value is not None]
    first = best[0]
    seeds = tuple(sorted({seed for line in lines for seed in line.seeds}))
    averages: dict[str, Any] = {
        name: mean_of([getattr(line, name) for line in lines]) for name in _AVERAGED
    }
    return replace(
        first,
        label=f"{first.label} ({_seeds(seeds, len(lines))})",
        value=fmean(values) if values else None,
        low=min(values, default=None),
        high=max(values, default=None),
        statistics={
            name: mean_of([line.statistics.get(name) for line in lines])
            for name in first.statistics
        },
        seed=None,
        members=tuple(line.entry for line in best),
        seeds=seeds,
        missed=tuple(dict.fromkeys(said for line in best for said in line.missed)),
        **averages,
    )


_AVERAGED = (
    "nrmse_mean", "relative_l2", "vrmse", "vs_persistence", "seconds_per_step", "train_hours",
    "latency_seconds", "trajectories_per_second",
)  # fmt: skip


def mean_of(values: Sequence[int | float | None]) -> int | float | None:
    """None where one of the numbers is missing: a mean of the others would flatter."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _seeds(seeds: Sequence[int], number: int) -> str:
    """`3 seeds`; where a seed was trained or judged twice also the number of entries."""
    counted = f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''}"
    return counted if len(seeds) == number else f"{number} entries, {counted}"
