"""Judge a finished run: roll out, decode, compare with the truth and with trivial predictors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import ups
from ups import files, runs
from ups.config.baselines import is_baseline
from ups.config.loading import to_yaml
from ups.config.schema import GatesConfig
from ups.crew import Crew
from ups.evaluation.accumulator import MetricAccumulator, Metrics
from ups.evaluation.context import Context
from ups.evaluation.gates import Gate
from ups.evaluation.observers import Observer
from ups.evaluation.provenance import data_section
from ups.evaluation.report import LIMIT, OWN, Kind, Report, Row, Section, write_report
from ups.evaluation.rollout import Batch
from ups.evaluation.unseen import Store, members_of

Progress = Callable[[int, int], None]
MODEL, PERSISTENCE, SPATIAL_MEAN = "model", "persistence", "spatial mean"
TRAINING_MEAN = "training mean"
"""The trivial predictor of steady problems: each field's mean over the training split."""


@dataclass(frozen=True)
class Example:
    """One trajectory as predicted and as it is, (time, *space, channel), for pictures."""

    title: str
    trajectory: int
    times: npt.NDArray[Any]
    prediction: npt.NDArray[Any]
    reference: npt.NDArray[Any]


@dataclass(frozen=True)
class Evaluation:
    """A report, with what pictures of it need.

    Attributes:
        path: Of the report's file.
        metrics: Of each row of the report, by its name.
        times: Of the predicted frames, from the last given one.
    """

    report: Report
    path: Path
    metrics: dict[str, Metrics]
    times: npt.NDArray[Any]
    examples: tuple[Example, ...]
    context: Context

    @property
    def store(self) -> Store:
        return self.context.store

    @property
    def task(self) -> str:
        return self.context.task


def evaluate(
    context: Context,
    *,
    observers: Sequence[Observer] = (),
    progress: Progress | None = None,
    crew: Crew | None = None,
) -> Evaluation:
    """Roll out a run's models on held-out trajectories and write its report.

    Everything is measured on decoded fields in physical units, in one float64 pass.

    Args:
        observers: Look at the same pass; each adds a section.
        progress: Called with (trajectories done, trajectories in all).
        crew: Processes that share the trajectories; the first one writes the report.
    """
    crew = crew or Crew()
    metrics, observers, seconds = _measure(context, list(observers), progress, crew)
    members, steps = context.members, context.horizon.steps
    report = Report(
        run=describe_run(context),
        protocol=context.protocol(),
        protocol_name=context.protocol_name,
        rows=_rows(context, metrics, seconds / (len(members) * steps)),
        trajectories=tuple(members.tolist()),
        environment={**runs.environment(), "device": str(context.device)},
    )
    report = report.extended(
        (*(one.result() for one in observers), data_section(context), *_limit_section(context))
    )
    if context.protocol_name == OWN:  # the config's limits are for its own protocol
        report = report.with_gates(accuracy_gates(report, context.settings.gates))
    examples = tuple(_examples(context, metrics[MODEL]))
    path = context.run
    if crew.rank == 0:
        path = write_report(report, context.run)
    return Evaluation(report, path, metrics, context.times, examples, context)


def _limit_section(context: Context) -> Iterator[Section]:
    """Says that only some trajectories of the split were judged."""
    whole = len(members_of(context.store, context.settings.split))
    if len(context.members) < whole:
        yield Section(name=LIMIT, content={"first": len(context.members), "of": whole})


def _measure(
    context: Context, observers: list[Observer], progress: Progress | None, crew: Crew
) -> tuple[dict[str, Metrics], list[Observer], float]:
    """Metrics of the model and of the trivial predictors, what observers saw, and wall time."""
    meta = context.store.metadata
    trivial = (TRAINING_MEAN,) if context.is_steady else (PERSISTENCE, SPATIAL_MEAN)
    sums = {
        name: MetricAccumulator(
            dt=context.dt,
            extents=[high - low for low, high in meta.bounds],
            channels=meta.fields,
            ragged=not context.is_grid,
        )
        for name in (MODEL, *trivial)
    }
    mean = torch.from_numpy(context.store.statistics["mean"]).float()
    seconds, done = 0.0, 0
    own = np.array_split(context.members, crew.size)[crew.rank]
    for batch in context.predict(own):
        for name, prediction in _predictions(batch, mean):
            sums[name].update(prediction, batch.reference)
        for observer in observers:
            observer.update(batch)
        seconds += batch.seconds
        done += len(batch.trajectories)
        if progress:
            progress(done, len(own))
    if crew.size > 1:
        shares = crew.gather([(sums, observers, seconds)])
        sums, observers, seconds = shares[0]
        for other_sums, other_observers, spent in shares[1:]:
            for name, one in sums.items():
                one.absorb(other_sums[name])
            for mine, other in zip(observers, other_observers, strict=True):
                mine.absorb(other)
            seconds += spent
    return {name: one.result() for name, one in sums.items()}, observers, seconds


def _predictions(batch: Batch, training_mean: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield MODEL, batch.prediction
    if batch.given is None:
        yield TRAINING_MEAN, training_mean.expand_as(batch.reference)
        return
    last = batch.given[:, None]
    yield PERSISTENCE, last.expand_as(batch.reference)
    space = tuple(range(2, last.ndim - 1))
    yield SPATIAL_MEAN, last.mean(space, keepdim=True).expand_as(batch.reference)


def _rows(
    context: Context, metrics: dict[str, Metrics], seconds_per_step: float
) -> tuple[Row, ...]:
    kind: Kind = "baseline" if is_baseline(context.checkpoint.experiment) else "model"
    model = Row.of(MODEL, kind, metrics[MODEL].to_dict(), seconds_per_step=seconds_per_step)
    others = [name for name in metrics if name != MODEL]
    return (model, *(Row.of(name, "trivial", metrics[name].to_dict()) for name in others))


def describe_run(context: Context) -> dict[str, Any]:
    """Who is judged, enough to find, verify and repeat it."""
    found, run = context.checkpoint, context.run
    count = sum(w.numel() for module in found.modules.values() for w in module.parameters())
    several = {"task": context.task} if len(found.tasks) > 1 else {}
    return {
        "name": run.parent.name,
        "id": runs.run_id(run),
        **several,
        "model": found.experiment.operator.kind,
        "stage": found.stage,
        "seed": found.identity.seed,
        "commit": found.identity.commit,
        "version": ups.__version__,
        "step": found.step,
        "checkpoint_sha256": files.sha256_file(context.checkpoint_path),
        "config_sha256": files.sha256_json(found.experiment.model_dump(mode="json")),
        "config": to_yaml(found.experiment),
        "codec_fingerprint": found.tasks[context.task].codec_fingerprint,
        "num_parameters": count,
        "valid_nrmse": found.metrics.get("valid_nrmse"),
    }


def _examples(context: Context, metrics: Metrics) -> Iterator[Example]:
    """The median, the worst and the best trajectory; once where they are the same."""
    labels: dict[int, str] = {}
    for quantile, label in ((0.5, "median"), (1.0, "worst"), (0.0, "best")):
        labels.setdefault(metrics.trajectory_at(quantile), label)
    for position, label in labels.items():
        error = float(metrics.per_trajectory["nrmse"][position])
        chosen = context.members[position : position + 1]
        for batch in context.predict(chosen, batch_size=1):
            yield Example(
                title=f"{label} trajectory ({int(chosen[0])}): nRMSE {error:.4f}",
                trajectory=int(chosen[0]),
                times=context.times,
                prediction=batch.prediction[0].numpy(),
                reference=batch.reference[0].numpy(),
            )


def accuracy_gates(report: Report, gates: GatesConfig) -> list[Gate]:
    """The limits that the config sets on errors, and whether the model meets them."""
    model = report.row(MODEL)
    assert model is not None
    found = []
    for reduction in ("mean", "median"):
        limit: float | None = getattr(gates, f"nrmse_{reduction}")
        if limit is not None:
            value = model.value("nrmse", reduction)
            found.append(Gate(
                name=f"nrmse_{reduction}", kind="accuracy",
                passed=value is not None and value <= limit,
                detail=f"nRMSE {reduction} is {_shown(value)}, the gate is {limit:g}",
                value=value, limit=limit,
            ))  # fmt: skip
    ratio, least = persistence_ratio(report), gates.persistence_ratio
    if least is not None:
        found.append(Gate(
            name="persistence_ratio", kind="accuracy", passed=ratio is not None and ratio >= least,
            detail=f"persistence is {_shown(ratio)} times worse, the gate is {least:g}",
            value=ratio, limit=least,
        ))  # fmt: skip
    return found


def persistence_ratio(report: Report) -> float | None:
    """Persistence nRMSE / model nRMSE, of the means; of steady problems the training mean's."""
    model, trivial = report.row(MODEL), report.row(PERSISTENCE) or report.row(TRAINING_MEAN)
    if model is None or trivial is None:
        return None
    ours, theirs = model.value("nrmse"), trivial.value("nrmse")
    return theirs / ours if ours and theirs else None


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def measure(context: Context, *, progress: Progress | None = None) -> tuple[Row, ...]:
    """The rows of a report, the model's first, without writing one."""
    metrics, _, seconds = _measure(context, [], progress, Crew())
    return _rows(context, metrics, seconds / (len(context.members) * context.horizon.steps))
