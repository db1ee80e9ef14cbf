"""Judge a run under several protocols, draw what was found, and tell the trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ups import checkpoint as checkpoints
from ups import runs
from ups.config.schema import EvaluationConfig, Experiment
from ups.config.stages import StageName
from ups.crew import Crew
from ups.errors import UsageError
from ups.evaluation.context import Context, open_context
from ups.evaluation.evaluate import Evaluation, evaluate
from ups.evaluation.protocols import find_protocol
from ups.evaluation.report import OWN, Report, Section, write_report
from ups.evaluation.reporting.examples import save_examples
from ups.evaluation.sections import observers_for, sections_of
from ups.pipeline.extras import Extras
from ups.pipeline.pages import publish
from ups.registry import load_card
from ups.training.health import check_health

Progress = Callable[[str, int, int, str], None]
CUSTOM = "custom"
"""The protocol of settings that are neither the config's nor a named protocol's."""


@dataclass(frozen=True)
class Request:
    """What is to be judged, and how thoroughly.

    Attributes:
        tasks: Of several tasks; None is all.
        stage: Whose checkpoint; None is the last that finished.
        settings: Instead of the config's own split, history and horizon: protocol 'custom'.
        protocols: Exactly these, by name; None is the config's own, and `evaluation.protocols`.
        version: Another converted version of the dataset.
        extras: What else is to be measured, under every protocol that is named, else under the
            first.
        brief: Errors only: no further rollouts, no health checks, no pictures.
        limit: Brief, and on the first so many trajectories only; such a report has a name of its
            own, and the leaderboard does not take it.
    """

    tasks: tuple[str, ...] | None = None
    stage: StageName | None = None
    settings: EvaluationConfig | None = None
    protocols: tuple[str, ...] | None = None
    version: str | None = None
    extras: Extras = field(default_factory=Extras)
    brief: bool = False
    limit: int | None = None

    @property
    def is_brief(self) -> bool:
        return self.brief or self.limit is not None


@dataclass(frozen=True)
class Judged:
    """One report, and where it can be looked at.

    Attributes:
        page: None where nothing was drawn.
    """

    evaluation: Evaluation
    report: Report
    page: Path | None


def judge(
    run: Path,
    request: Request | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    crew: Crew | None = None,
) -> list[Judged]:
    """Evaluate every task of a run under its own protocol and the ones beside it.

    The first process of a crew writes the reports and the pages; the others return nothing.

    Raises:
        UsageError: A protocol does not fit the data.
        CheckpointError, DataError: As `open_context`.
    """
    request, crew = request or Request(), crew or Crew()
    experiment = runs.run_experiment_of(run)
    names = request.tasks or tuple(task.key for task in experiment.data.tasks)
    found = []
    for task in names:
        contexts = _contexts(run, experiment, task, request, device)
        for index, context in enumerate(contexts):
            label = " ".join(
                ["eval", *([task] if len(names) > 1 else []),
                 *([context.protocol_name] if context.protocol_name != OWN else [])]
            )  # fmt: skip
            judged = _judged(context, request, label, progress, crew, is_first=index == 0)
            if judged is not None:
                found.append(judged)
    if request.is_brief or not found:
        return found
    page = publish(run)
    return [replace(one, page=page) for one in found]


def _contexts(
    run: Path, experiment: Experiment, task: str, request: Request, device: torch.device | str
) -> Iterator[Context]:
    """The task under its own protocol, then under others that give other frames."""
    settings, own_name = request.settings or experiment.evaluation, OWN
    if settings != experiment.evaluation:
        own_name = CUSTOM

    def opened(chosen: EvaluationConfig, name: str) -> Context:
        return open_context(
            run, task=task, stage=request.stage, settings=chosen,
            protocol_name=_labelled(name, run, request),
            version=request.version, limit=request.limit, device=device,
        )  # fmt: skip

    own = opened(settings, own_name)
    if request.protocols is None or OWN in request.protocols or own.is_steady:
        yield own
    if own.is_steady or (own_name == CUSTOM and request.protocols is None):
        return
    config = next(one for one in experiment.data.tasks if one.key == task)
    seen = {own.protocol().id} if request.protocols is None else set()
    for name in request.protocols or settings.protocols:
        if name == OWN:
            continue
        protocol = find_protocol(name, load_card(config.dataset))
        is_asked = request.protocols is not None
        starts_early = (protocol.history - 1) * config.stride < config.first_frame
        if not is_asked and starts_early:
            continue  # the model has never seen such frames
        try:
            context = opened(protocol.applied(settings), protocol.name)
        except UsageError:
            if is_asked:
                raise
            continue  # trajectories too short for it
        if context.protocol().id not in seen:
            seen.add(context.protocol().id)
            yield context


def _labelled(name: str, run: Path, request: Request) -> str:
    """The protocol's name, with what else differs from the run's last stage on its own data."""
    if request.stage is not None and request.stage != checkpoints.last_stage(run):
        name = f"{name}-{request.stage}"
    if request.limit is not None:
        name = f"{name}-first{request.limit}"
    return f"{name}@{request.version}" if request.version else name


def _judged(
    context: Context,
    request: Request,
    label: str,
    progress: Progress | None,
    crew: Crew,
    *,
    is_first: bool,
) -> Judged | None:
    bar: Any = (lambda done, total: progress(label, done, total, "")) if progress else None
    result = evaluate(context, observers=observers_for(context), progress=bar, crew=crew)
    if crew.rank:
        return None
    report = result.report
    if not request.is_brief:
        report = report.extended(_more(context, request, report, progress, is_first=is_first))
        write_report(report, context.run)
        result = replace(result, report=report)
        save_examples(result)
    return Judged(result, report, page=None)


def _more(
    context: Context,
    request: Request,
    report: Report,
    progress: Progress | None,
    *,
    is_first: bool,
) -> Iterator[Section]:
    """What needs more than the one pass."""
    if is_first:
        yield from sections_of(context, report)
        yield check_health(
            context.run, context.task, device=context.device, report=report, stage=request.stage
        )
    if is_first or request.protocols is not None:
        yield from request.extras.sections(context, progress)


def own_reports(found: Sequence[Judged]) -> list[Report]:
    """The first one of each task: the config's own protocol, unless others were asked for."""
    first: dict[str, Report] = {}
    for one in found:
        first.setdefault(one.evaluation.task, one.report)
    return list(first.values())
