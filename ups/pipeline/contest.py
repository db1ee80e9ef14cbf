"""A run on a benchmark: where it is judged, on a few trajectories, and on all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ups import runs
from ups.errors import CheckpointError, UsageError
from ups.evaluation.accumulator import MetricAccumulator
from ups.evaluation.context import Context, open_context
from ups.evaluation.evaluate import PERSISTENCE, TRAINING_MEAN
from ups.evaluation.gates import Gate
from ups.evaluation.protocols import find_protocol
from ups.evaluation.report import OWN, Report
from ups.pipeline.judge import Request, judge
from ups.pipeline.parts import Progress, present_reports
from ups.pipeline.rules import Benchmark
from ups.registry import load_card

Array = npt.NDArray[np.float64]
_TABLE = "model"


@dataclass(frozen=True)
class Place:
    """One task of a run under one protocol of a benchmark.

    Attributes:
        name: 'burgers1d, ic'.
        protocol: Its name for `judge`; `own` of a steady problem.
        version: To judge on, where it is not the one that was trained on.
        context: Opened.
    """

    name: str
    task: str
    protocol: str
    version: str | None
    context: Context

    @property
    def protocol_id(self) -> str:
        return self.context.protocol().id


@dataclass(frozen=True)
class Candidate:
    """What a run reached at one place.

    Attributes:
        path: Of the report under the benchmark's protocol.
        own: The report under the config's own protocol, which holds some gates and sections alone.
    """

    place: Place
    path: Path
    report: Report
    own: Report | None

    @property
    def gates(self) -> list[Gate]:
        known = {gate.name: gate for gate in (self.own.gates if self.own else ())}
        return list((known | {gate.name: gate for gate in self.report.gates}).values())

    def measure(self, path: str) -> float | None:
        """A number of the report by its place in the sections, or in the model's row."""
        first, *keys = path.split(".")
        found: Any
        for report in (self.report, self.own):
            if report is None:
                continue
            found = report.rows[0].metrics if first == _TABLE else report.sections.get(first)
            found = reduce(_inside, keys, found)
            if isinstance(found, int | float) and not isinstance(found, bool):
                return float(found)
        return None


def _inside(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, dict) else None


def places_of(run: Path, benchmark: Benchmark, device: torch.device | str) -> list[Place]:
    """Every task of the benchmark under each of its protocols, as the run can be judged.

    Raises:
        UsageError: The run was not trained on one of the datasets.
    """
    experiment = runs.run_experiment_of(run)
    found = []
    for wanted in benchmark.tasks:
        alike = [one for one in experiment.data.tasks if one.dataset == wanted.dataset]
        if not alike:
            raise UsageError(
                f"{runs.run_id(run)}: not trained on {wanted.dataset}, as benchmark "
                f"'{benchmark.name}' asks",
                hint=f"ups runs show {runs.run_id(run)}",
            )
        exact = [one for one in alike if wanted.version in (None, one.version)]
        task = (exact or alike)[0]
        version = None if exact else wanted.version
        settings = experiment.evaluation.model_copy(update={"split": "test"})
        for name in benchmark.protocols:
            protocol = find_protocol(name, load_card(task.dataset))
            context = open_context(
                run, task=task.key, settings=protocol.applied(settings),
                protocol_name=protocol.name, version=version, device=device,
            )  # fmt: skip
            chosen = OWN if context.is_steady else name
            shown = "steady" if context.is_steady else protocol.name
            found.append(Place(f"{wanted.label}, {shown}", task.key, chosen, version, context))
            if context.is_steady:
                break
    return found


def candidate_at(run: Path, place: Place) -> Candidate | None:
    """The full evaluation of the run's present checkpoint at a place, if there is one."""
    found: tuple[Path, Report] | None = None
    own = None
    for path, report in present_reports(run):
        if report.run.get("task") not in (None, place.task):
            continue
        if report.protocol_name == OWN:
            own = report
        if report.protocol.id == place.protocol_id:
            found = found or (path, report)
    return Candidate(place, *found, own) if found else None


def evaluate_fully(run: Path, place: Place, progress: Progress | None = None) -> Candidate:
    """Judge the run at a place with everything that a report holds, and read what was found."""
    own = open_context(run, task=place.task, device=place.context.device)
    names = [OWN if own.protocol().id == place.protocol_id else place.protocol]
    if place.version is None and OWN not in names and not _has_own(run, place):
        names.insert(0, OWN)
    request = Request(tasks=(place.task,), protocols=tuple(names), version=place.version)
    judge(run, request, device=place.context.device, progress=progress)
    found = candidate_at(run, place)
    if found is None:
        raise CheckpointError(
            f"{runs.run_id(run)}: its reports are not of {place.name}: "
            f"{place.context.protocol().describe()}",
            hint="set evaluation.split of its config to test",
        )
    return found


def _has_own(run: Path, place: Place) -> bool:
    return any(
        report.protocol_name == OWN and report.run.get("task") in (None, place.task)
        for _, report in present_reports(run)
    )


@dataclass(frozen=True)
class SmallEvaluation:
    """A few trajectories of a split, judged.

    Attributes:
        values, trivial: Metric of the model and of the trivial predictor, (trajectory,) each.
    """

    place: str
    trajectories: tuple[int, ...]
    values: Array
    trivial: Array


def evaluate_small(
    place: Place,
    benchmark: Benchmark,
    *,
    known: Candidate | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SmallEvaluation:
    """Roll a few trajectories out; nothing is written.

    Args:
        known: A full evaluation to take the values from.
    """
    context = place.context
    members = context.some_of(context.settings.split, benchmark.proxy.trajectories)
    if known is not None:
        return _taken_from(known, benchmark.metric, members)
    sums = [MetricAccumulator(ragged=not context.is_grid) for _ in range(2)]
    mean = torch.from_numpy(context.store.statistics["mean"]).float()
    done = 0
    for batch in context.predict(members):
        last = mean if batch.given is None else batch.given[:, None]
        sums[0].update(batch.prediction, batch.reference)
        sums[1].update(last.expand_as(batch.reference), batch.reference)
        done += len(batch.trajectories)
        if progress:
            progress(done, len(members))
    model, trivial = (one.result().per_trajectory[benchmark.metric].numpy() for one in sums)
    return SmallEvaluation(place.name, tuple(members.tolist()), model, trivial)


def _taken_from(
    known: Candidate, metric: str, members: npt.NDArray[np.integer[Any]]
) -> SmallEvaluation:
    """The rows of a full evaluation at `members`."""
    report = known.report
    rows = np.searchsorted(np.array(report.trajectories), members)
    trivial = report.row(PERSISTENCE) or report.row(TRAINING_MEAN)
    model = numbers(report.rows[0].per_trajectory[metric])[rows]
    other = numbers(trivial.per_trajectory[metric])[rows] if trivial else np.full(len(rows), np.inf)
    return SmallEvaluation(known.place.name, tuple(members.tolist()), model, other)


def numbers(values: Sequence[float | None]) -> Array:
    return np.array(values, dtype=np.float64)
