"""One training whose cost is measured, and its judgement: a row of a comparison."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups import paths, runs
from ups.config.schema import Experiment
from ups.evaluation.gates import failed
from ups.evaluation.report import Report
from ups.evaluation.report import Row as ReportRow
from ups.pipeline.budget import flops_of
from ups.pipeline.judge import Request, judge, own_reports
from ups.pipeline.scratch import own_caches
from ups.training.run import StageOutcome, train
from ups.training.session import open_session
from ups.training.tracking import Tracker

Progress = Callable[[str, int, int, str], None]
_CRITERION = "valid_nrmse"


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        seconds: Wall time of codec, cache, all steps and all validations.
        steps: Taken in each stage.
        flops: Of all steps, counted on random tokens.
        valid_nrmse: Of the last stage that has one; None where none has.
    """

    run: Path
    seconds: float
    steps: dict[str, int]
    flops: float
    valid_nrmse: float | None


def train_alone(
    experiment: Experiment,
    *,
    progress: Progress | None = None,
    watchers: Sequence[Tracker] = (),
) -> Training:
    """Train as if nothing had been trained before, with a cache of its own.

    A training that takes its codec from another one (`stages.order` without codec) uses the home's
    cache: call it outside of `own_caches`. Everything else belongs inside.
    """
    session = open_session(experiment)
    outcomes: list[StageOutcome] = []

    def done(outcome: Any) -> None:
        if isinstance(outcome, StageOutcome):
            outcomes.append(outcome)

    began = time.perf_counter()
    folder = train(session, progress=progress, done=done, watchers=watchers)
    seconds = time.perf_counter() - began
    errors = [one.fit.best[_CRITERION] for one in outcomes if _CRITERION in one.fit.best]
    return Training(
        run=folder,
        seconds=seconds,
        steps={one.stage: one.fit.steps for one in outcomes},
        flops=flops_of(session, session.stages),
        valid_nrmse=errors[-1] if errors else None,
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one training came to.

    Attributes:
        run: `name/id`.
        nrmse, nrmse_median: Over trajectories, by the protocol of the config; of several tasks
            their mean. None where a rollout blew up.
        trivial, trivial_nrmse: The predictor that learned nothing, and its error: persistence, or
            the mean of a steady problem.
        infer_seconds: Of one trajectory to the end of the horizon, in batches.
        latency_seconds: Of one step of one trajectory; None where it was not measured.
        train_seconds, train_flops: As `Training`.
        failed_gates: Names of those that the row does not pass.
        is_sound: No gate of health failed: a row that is not does not count.
        protocol: Ids by which it was judged; rows of others are not comparable.
        horizon: Frames predicted.
        history: Frames given.
        protocols: nRMSE mean by every protocol that was judged.
    """

    run: str
    seed: int
    dataset: str
    nrmse: float | None
    nrmse_median: float | None
    trivial: str
    trivial_nrmse: float | None
    infer_seconds: float | None
    latency_seconds: float | None
    num_parameters: int
    train_seconds: float
    train_flops: float
    steps: dict[str, int]
    failed_gates: tuple[str, ...]
    is_sound: bool
    protocol: str
    horizon: int
    history: int
    device: str
    protocols: dict[str, float | None]


def train_and_judge(
    experiment: Experiment, *, brief: bool = False, progress: Progress | None = None
) -> Row:
    """Train in a cache of its own, judge, and sum up.

    Args:
        brief: Errors under the config's own protocol only; nothing is drawn.
    """
    home_runs = paths.runs_dir().resolve()
    request = Request(brief=True, protocols=("own",)) if brief else Request()
    with own_caches(keep_runs=True):
        training = train_alone(experiment, progress=progress)
        run = home_runs / training.run.relative_to(paths.runs_dir())
        device = open_session(experiment).device
        found = judge(run, request, device=device, progress=progress)
    return _row(training, runs.run_id(run), found, own_reports(found), str(device))


def _row(
    training: Training, run: str, found: Sequence[Any], own: Sequence[Report], device: str
) -> Row:
    first = own[0]
    seconds = [_of(report, "seconds_per_step") for report in own]
    horizon = first.protocol.horizon
    missed = [gate for report in own for gate in failed(report.gates)]
    each = _mean(seconds)
    trivial = [_trivial(report) for report in own]
    protocols: dict[str, list[float | None]] = {}
    for judged in found:
        protocols.setdefault(judged.report.protocol_name, []).append(judged.report.headline)
    latencies = [report.sections.get("cost", {}).get("latency_seconds") for report in own]
    return Row(
        run=run,
        seed=int(first.run["seed"]),
        dataset=", ".join(f"{one.protocol.dataset}/{one.protocol.version}" for one in own),
        nrmse=_mean([report.headline for report in own]),
        nrmse_median=_mean([report.rows[0].value("nrmse", "median") for report in own]),
        trivial=trivial[0].name if trivial[0] else "",
        trivial_nrmse=_mean([one.value("nrmse") if one else None for one in trivial]),
        infer_seconds=None if each is None else each * max(horizon, 1),
        latency_seconds=_mean(latencies),
        num_parameters=int(first.run["num_parameters"]),
        train_seconds=training.seconds,
        train_flops=training.flops,
        steps=training.steps,
        failed_gates=tuple(gate.name for gate in missed),
        is_sound=not any(gate.kind == "health" for gate in missed),
        protocol=" ".join(report.protocol.id for report in own),
        horizon=horizon,
        history=first.protocol.history,
        device=device,
        protocols={name: _mean(values) for name, values in protocols.items()},
    )


def _of(report: Report, name: str) -> float | None:
    value: float | None = getattr(report.rows[0], name)
    return value


def _trivial(report: Report) -> ReportRow | None:
    return next((row for row in report.rows if row.kind == "trivial"), None)


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one is missing."""
    found = [value for value in values if value is not None]
    return statistics.mean(found) if found and len(found) == len(values) else None
