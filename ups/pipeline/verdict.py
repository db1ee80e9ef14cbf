"""What a benchmark asks of a run, and whether it is met: one gate for each question."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import numpy as np

from ups.evaluation.evaluate import PERSISTENCE, TRAINING_MEAN
from ups.evaluation.gates import Gate
from ups.evaluation.intervals import paired_difference
from ups.leaderboard.entries import Entry
from ups.pipeline.champion import Champion, Score
from ups.pipeline.contest import Candidate, SmallEvaluation, numbers
from ups.pipeline.rules import Benchmark, MeasureGate


def small_gate(small: SmallEvaluation, benchmark: Benchmark, champion: Champion | None) -> Gate:
    """Whether a full evaluation is worth its time."""
    ours, margin = float(small.values.mean()), benchmark.proxy.margin
    score = champion.score(small.place) if champion else None
    if score is None:
        theirs, who = float(small.trivial.mean()), "the trivial predictor's"
    else:
        theirs, who = _on_the_same(score, small.trajectories), "the champion's"
        theirs *= 1 + margin
        who += f" and {margin:.0%}" if margin else ""
    return Gate(
        name=f"small evaluation: {small.place}", kind="accuracy", passed=ours <= theirs,
        detail=f"{benchmark.metric} {ours:.4g} on {len(small.values)} trajectories, at most "
        f"{theirs:.4g} ({who})",
        value=ours if math.isfinite(ours) else None, limit=theirs,
    )  # fmt: skip


def _on_the_same(score: Score, trajectories: Sequence[int]) -> float:
    """The champion's mean over these trajectories, over all where it lacks one."""
    known = dict(zip(score.trajectories, score.values, strict=True))
    values = [known.get(one) for one in trajectories]
    held = [value for value in values if value is not None]
    return sum(held) / len(held) if held and len(held) == len(values) else score.value


def score_of(candidate: Candidate, benchmark: Benchmark) -> Score:
    """What is kept of a candidate that becomes champion."""
    report, row = candidate.report, candidate.report.rows[0]
    measures = {one.value: candidate.measure(one.value) for one in benchmark.gates.measures}
    return Score(
        place=candidate.place.name,
        entry=Entry.of(report).id,
        protocol=report.protocol.id,
        value=float(row.value(benchmark.metric) or math.nan),
        trajectories=report.trajectories,
        values=tuple(row.per_trajectory[benchmark.metric]),
        measures={name: value for name, value in measures.items() if value is not None},
    )


def gates_of(
    candidates: Sequence[Candidate], benchmark: Benchmark, champion: Champion | None
) -> list[Gate]:
    """Everything that the benchmark asks, and whether it is met."""
    found: list[Gate] = []
    for one in candidates:
        score = champion.score(one.place.name) if champion else None
        found += _accuracy(one, benchmark, score)
        found += _of_the_report(one, benchmark)
        found += [_measured(one, rule, score) for rule in benchmark.gates.measures]
    if champion is not None:
        found.append(_overall(candidates, benchmark, champion))
    return found


def _accuracy(one: Candidate, benchmark: Benchmark, score: Score | None) -> Iterator[Gate]:
    rule, metric, place = benchmark.gates.accuracy, benchmark.metric, one.place.name
    ours = one.report.rows[0].value(metric)
    trivial = one.report.row(PERSISTENCE) or one.report.row(TRAINING_MEAN)
    other = trivial.value(metric) if trivial else None
    if rule.persistence_ratio is not None and other is not None:
        ratio = other / ours if ours else None
        passed = ratio is not None and ratio >= rule.persistence_ratio
        yield Gate(name=f"trivial: {place}", kind="accuracy", passed=passed, value=ratio,
                   limit=rule.persistence_ratio,
                   detail=f"the trivial predictor is {_shown(ratio)} times worse, at least "
                          f"{rule.persistence_ratio:g}")  # fmt: skip
    if rule.limit is not None:
        yield Gate(name=f"limit: {place}", kind="accuracy", value=ours, limit=rule.limit,
                   passed=ours is not None and ours <= rule.limit,
                   detail=f"{metric} {_shown(ours)}, at most {rule.limit:g}")  # fmt: skip
    if score is not None:
        yield _against(one, benchmark, score)


def _against(one: Candidate, benchmark: Benchmark, score: Score) -> Gate:
    """The difference from the champion, within what the rule allows."""
    rule, place = benchmark.gates.accuracy, one.place.name
    name, report = f"accuracy: {place}", one.report
    ours = report.rows[0].value(benchmark.metric)
    if report.protocol.id != score.protocol:
        return Gate(name=name, kind="data", passed=False,
                    detail=f"protocol {report.protocol.id}, the champion's is {score.protocol}: "
                           "not comparable; other data or frames need a benchmark of another "
                           "name")  # fmt: skip
    if ours is None:
        return Gate(name=name, kind="accuracy", passed=False,
                    detail=f"{benchmark.metric} is not finite")  # fmt: skip
    change, allowed = ours / score.value - 1, rule.tolerance
    worst, shown = change, f"{change:+.1%}"
    theirs = numbers(score.values)
    mine = numbers(report.rows[0].per_trajectory[benchmark.metric])
    paired = rule.test == "paired" and report.trajectories == score.trajectories
    if paired and len(mine) > 1 and np.isfinite(mine - theirs).all():
        _, low, high = (part / score.value for part in paired_difference(mine, theirs))
        worst, shown = high, f"{change:+.1%} [{low:+.1%}, {high:+.1%}]"
    return Gate(
        name=name, kind="accuracy", passed=worst <= allowed,
        detail=f"{benchmark.metric} {ours:.4g} against {score.value:.4g}: {shown}, at most "
        f"{allowed:+.1%}",
        value=worst, limit=allowed,
    )  # fmt: skip


def _overall(candidates: Sequence[Candidate], benchmark: Benchmark, champion: Champion) -> Gate:
    """The geometric mean over all places, which must be better."""
    logs = []
    for one in candidates:
        ours, score = one.report.rows[0].value(benchmark.metric), champion.score(one.place.name)
        comparable = score is not None and score.protocol == one.report.protocol.id
        if score is not None and comparable and ours:
            logs.append(math.log(ours / score.value))
    if not logs or len(logs) < len(champion.scores):
        compared = f"{len(logs)} of {len(champion.scores)} places can be compared"
        return Gate(name="better overall", kind="accuracy", passed=False, detail=compared)
    change = math.exp(sum(logs) / len(logs)) - 1
    return Gate(name="better overall", kind="accuracy", passed=change < 0, value=change, limit=0.0,
                detail=f"{change:+.1%} against {champion.run}, over {len(logs)} "
                       f"place{'s' * (len(logs) > 1)}; must fall")  # fmt: skip


def _of_the_report(one: Candidate, benchmark: Benchmark) -> Iterator[Gate]:
    """The report's own gates that the benchmark names."""
    rules, place = benchmark.gates, one.place.name
    for pattern in (*rules.required, *rules.if_measured):
        found = [g for g in one.gates if pattern == g.kind or fnmatchcase(g.name, pattern)]
        for gate in found:
            yield Gate(**{**vars(gate), "name": f"{gate.name}: {place}"})
        if not found and pattern in rules.required:
            yield Gate(name=f"{pattern}: {place}", kind="health", passed=False,
                       detail=f"the report has no gate '{pattern}'")  # fmt: skip


def _measured(one: Candidate, rule: MeasureGate, score: Score | None) -> Gate:
    """A number of the report against its limit and the champion's."""
    name, ours = f"{rule.value}: {one.place.name}", one.measure(rule.value)
    if ours is None:
        return Gate(name=name, kind="physics", passed=False,
                    detail=f"the report has no number {rule.value}")  # fmt: skip
    limits = [rule.limit] if rule.limit is not None else []
    theirs = score.measures.get(rule.value) if score else None
    if theirs is not None and rule.tolerance is not None:
        slack = abs(theirs) * rule.tolerance
        limits.append(theirs + slack if rule.better == "lower" else theirs - slack)
    lower = rule.better == "lower"
    if not limits:
        return Gate(name=name, kind="physics", passed=True, value=ours,
                    detail=f"{ours:.4g}; nothing to hold it against yet")  # fmt: skip
    limit = min(limits) if lower else max(limits)
    return Gate(name=name, kind="physics", passed=ours <= limit if lower else ours >= limit,
                value=ours, limit=limit,
                detail=f"{ours:.4g}, at {'most' if lower else 'least'} {limit:.4g}")  # fmt: skip


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
