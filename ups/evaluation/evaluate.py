"""Judge a finished run: roll out, decode, compare with the truth and with trivial predictors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ups import checkpoint as checkpoints
from ups import files, runs
from ups.checkpoint import Checkpoint, TaskIdentity
from ups.codec.coded import CodedStore, coded
from ups.config.schema import EvaluationConfig, GatesConfig
from ups.config.stages import StageName
from ups.crew import Crew
from ups.data.auditing.same_start import nearest_pairs
from ups.data.points import PointStore
from ups.data.splits import SPLITS
from ups.data.store import TrajectoryStore
from ups.data.versions import open_store
from ups.errors import DataError, UsageError
from ups.evaluation.accumulator import MetricAccumulator, Metrics
from ups.evaluation.protocol import Protocol
from ups.evaluation.report import Report, Row, report_path, write_report
from ups.evaluation.rollout import STEADY, Batch, Horizon, horizon_for, predict_split
from ups.models.surrogate import Surrogate
from ups.registry import load_card

Progress = Callable[[int, int], None]
Store = TrajectoryStore | PointStore
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
        metrics: Of each row of the report, by its name.
        times: Of the predicted frames, from the last given one.
        task: Which task of the run was judged.
    """

    report: Report
    path: Path
    metrics: dict[str, Metrics]
    times: npt.NDArray[Any]
    examples: tuple[Example, ...]
    store: Store
    task: str


def evaluate(
    run: Path,
    *,
    task: str | None = None,
    stage: StageName | None = None,
    settings: EvaluationConfig | None = None,
    version: str | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    crew: Crew | None = None,
) -> Evaluation:
    """Roll out a run's models on held-out trajectories and write its report.

    Everything is measured on decoded fields in physical units, in one float64 pass.

    Args:
        task: Which of several tasks.
        stage: Whose checkpoint; None is the last stage that the run has finished.
        settings: Split, history, horizon; None takes those of the run's config.
        version: Another converted version of the dataset to judge on; None is the run's own.
        progress: Called with (trajectories done, trajectories in all).
        crew: Processes that share the trajectories; the first one writes the report.

    Raises:
        CheckpointError: The run holds no usable operator.
        DataError: The data of the run is not here, or has changed since; or the other version has
            another grid or time step, or shares initial states with the training split.
    """
    device = torch.device(device)
    path = runs.checkpoint_path(run, stage or checkpoints.last_stage(run))
    found = checkpoints.load(path, device)
    name = found.task_name(task)
    known = found.tasks[name]
    settings = settings or found.experiment.evaluation
    store = open_store_of(known)
    if version is not None and version != store.metadata.version:
        store = open_unseen(store, version, settings.split)
    elif settings.split == "all":
        raise UsageError(
            "split 'all' would judge on training trajectories",
            hint="ups eval --split test, or --version NAME of other data",
        )
    horizon = STEADY
    if known.dt is not None:
        horizon = horizon_for(
            store.num_frames, history=settings.history, stride=known.stride, steps=settings.horizon
        )
    surrogate = found.surrogate(name).to(device)
    card = load_card(known.dataset)
    seen = coded(store, found.codecs[name], velocity=card.discretisation.velocity)
    members = _members(store, settings.split)
    crew = crew or Crew()
    rows, seconds = _measure(surrogate, seen, members, horizon, settings, device, progress, crew)
    report = Report(
        run=_describe_run(run, path, found, name),
        protocol=_protocol(store, settings, horizon, len(members)),
        rows=_rows(rows, seconds / (len(members) * horizon.steps)),
        environment={**runs.environment(), "device": str(device)},
    )
    first = horizon.first if horizon.history else 0
    times = store.time[horizon.frames] - store.time[first]
    picked = _examples(surrogate, seen, members, horizon, rows[MODEL], device, times)
    single = len(found.tasks) == 1
    written = report_path(run, None if single else name)
    if crew.rank == 0:
        write_report(report, run, None if single else name)
    return Evaluation(report, written, rows, times, tuple(picked), store, name)


def open_store_of(known: TaskIdentity) -> Store:
    """The data that a task was trained on, exactly.

    Raises:
        DataError: That version is not here, or was converted from other values or splits.
    """
    store = open_store(known.dataset, known.version)
    now = (store.metadata.data_sha256, store.metadata.split_hash)
    if now != (known.data_sha256, known.split_hash):
        raise DataError(
            f"{store.path}: values or splits differ from those that the run was trained on",
            hint="convert the run's data again, or train on this version: ups train",
        )
    return store


def open_unseen(trained: Store, version: str, split: str) -> Store:
    """Another version of the dataset at the same times, unseen in training.

    On another grid it is the same raw data in other detail, divided alike: its test split shows
    what the model makes of points between those it was trained on (zero-shot super-resolution).

    Raises:
        DataError: Spacing, time step or fields differ, an initial state of the other version is
            one of the training split, or the grid differs and so does the division into splits.
    """
    other = open_store(trained.metadata.dataset, version)
    for what, ours, theirs in (
        ("time step", trained.metadata.dt, other.metadata.dt),
        ("fields", trained.metadata.fields, other.metadata.fields),
        ("domain", trained.metadata.bounds, other.metadata.bounds),
    ):  # fmt: skip
        if ours != theirs:
            raise DataError(
                f"{other.name}: {what} {theirs} differs from {ours}, which the run was trained on",
                hint=f"convert it alike: ups data convert {other.metadata.dataset} --stride-x N",
            )
    if isinstance(trained, PointStore) or isinstance(other, PointStore):
        _check_digests(trained, other)
        return other
    if trained.space != other.space:
        alike = trained.metadata.split_hash == other.metadata.split_hash
        if not alike or split == "all":
            raise DataError(
                f"{other.name}: grid {other.space} differs from {trained.space}, which the run was "
                f"trained on, and {'all' if alike else 'it'} may share trajectories with training",
                hint="convert the same raw files with another --stride-x, and judge on --split "
                "test; or convert them alike",
            )
        return other
    given = trained.inputs if trained.metadata.dt is None else trained.fields[:, 0]
    held = other.inputs if other.metadata.dt is None else other.fields[:, 0]
    assert given is not None
    shared = nearest_pairs(
        given, trained.split("train"), _members(other, "all"), held_states=held
    )  # fmt: skip
    for _, index, _ in shared:
        raise DataError(f"{other.name}: trajectory {index} starts as one that the run trained on")
    return other


def _is_grid(store: Store) -> bool:
    return isinstance(store, TrajectoryStore)


def _check_digests(trained: Store, other: Store) -> None:
    """Refuse trajectories that are, to the bit, among those trained on."""
    seen = {trained.digests[row].tobytes() for row in trained.split("train")}
    for row in _members(other, "all"):
        if other.digests[row].tobytes() in seen:
            raise DataError(f"{other.name}: trajectory {row} is one that the run trained on")


def _members(store: Store, split: str) -> npt.NDArray[Any]:
    if split == "all":
        return np.sort(np.concatenate([store.split(name) for name in SPLITS]))
    return store.split(split)


def _measure(
    surrogate: Surrogate,
    seen: CodedStore,
    members: npt.NDArray[Any],
    horizon: Horizon,
    settings: EvaluationConfig,
    device: torch.device,
    progress: Progress | None,
    crew: Crew,
) -> tuple[dict[str, Metrics], float]:
    """Metrics of the model and of the trivial predictors, and the model's wall time."""
    meta = seen.store.metadata
    names = (MODEL, PERSISTENCE, SPATIAL_MEAN) if horizon.history else (MODEL, TRAINING_MEAN)
    sums = {
        name: MetricAccumulator(
            dt=(meta.dt or 1.0) * horizon.stride,
            extents=[high - low for low, high in meta.bounds],
            channels=meta.fields,
            ragged=not _is_grid(seen.store),
        )
        for name in names
    }
    mean = torch.from_numpy(seen.store.statistics["mean"]).float()
    seconds, done = 0.0, 0
    own = np.array_split(members, crew.size)[crew.rank]
    for batch in predict_split(
        surrogate, seen, own, horizon, batch_size=settings.batch_size, device=device
    ):
        for name, prediction in _predictions(batch, mean):
            sums[name].update(prediction, batch.reference)
        seconds += batch.seconds
        done += len(batch.trajectories)
        if progress:
            progress(done, len(own))
    if crew.size > 1:
        shares = crew.gather([(sums, seconds)])
        sums, seconds = shares[0][0], sum(spent for _, spent in shares)
        for others, _ in shares[1:]:
            for name, one in sums.items():
                one.absorb(others[name])
    return {name: one.result() for name, one in sums.items()}, seconds


def _predictions(batch: Batch, training_mean: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield MODEL, batch.prediction
    if batch.given is None:
        yield TRAINING_MEAN, training_mean.expand_as(batch.reference)
        return
    last = batch.given[:, None]
    yield PERSISTENCE, last.expand_as(batch.reference)
    space = tuple(range(2, last.ndim - 1))
    yield SPATIAL_MEAN, last.mean(space, keepdim=True).expand_as(batch.reference)


def _rows(metrics: dict[str, Metrics], seconds_per_step: float) -> tuple[Row, ...]:
    model = Row.of(MODEL, "model", metrics[MODEL].to_dict(), seconds_per_step=seconds_per_step)
    others = [name for name in metrics if name != MODEL]
    return (model, *(Row.of(name, "trivial", metrics[name].to_dict()) for name in others))


def _protocol(store: Store, settings: EvaluationConfig, horizon: Horizon, count: int) -> Protocol:
    meta = store.metadata
    resolution = store.space if isinstance(store, TrajectoryStore) else (0,) * len(meta.bounds)
    return Protocol(
        dataset=meta.dataset,
        version=meta.version,
        split=settings.split,
        split_hash=meta.split_hash,
        data_sha256=meta.data_sha256,
        resolution=resolution,
        domain=meta.bounds,
        stride_x=meta.stride_x,
        stride_t=meta.stride_t,
        dt=meta.dt,
        stride=horizon.stride,
        history=horizon.history,
        horizon=horizon.steps,
        num_trajectories=count,
    )


def _describe_run(run: Path, path: Path, found: Checkpoint, task: str) -> dict[str, Any]:
    count = sum(w.numel() for module in found.modules.values() for w in module.parameters())
    several = {"task": task} if len(found.tasks) > 1 else {}
    return {
        "name": run.parent.name,
        "id": runs.run_id(run),
        **several,
        "stage": found.stage,
        "seed": found.identity.seed,
        "commit": found.identity.commit,
        "step": found.step,
        "checkpoint_sha256": files.sha256_file(path),
        "codec_fingerprint": found.tasks[task].codec_fingerprint,
        "num_parameters": count,
        "valid_nrmse": found.metrics["valid_nrmse"],
    }


def _examples(
    surrogate: Surrogate,
    seen: CodedStore,
    members: npt.NDArray[Any],
    horizon: Horizon,
    metrics: Metrics,
    device: torch.device,
    times: npt.NDArray[Any],
) -> Iterator[Example]:
    """The median and the worst trajectory."""
    for label, quantile in (("median", 0.5), ("worst", 1.0)):
        position = metrics.trajectory_at(quantile)
        error = float(metrics.per_trajectory["nrmse"][position])
        chosen = members[position : position + 1]
        for batch in predict_split(surrogate, seen, chosen, horizon, batch_size=1, device=device):
            yield Example(
                title=f"{label} trajectory ({int(chosen[0])}): nRMSE {error:.4f}",
                trajectory=int(chosen[0]),
                times=times,
                prediction=batch.prediction[0].numpy(),
                reference=batch.reference[0].numpy(),
            )


def failed_gates(report: Report, gates: GatesConfig) -> list[str]:
    """What the report misses of the limits, one sentence each; empty if all are met."""
    model = report.row(MODEL)
    assert model is not None
    failed = []
    for reduction in ("mean", "median"):
        limit: float | None = getattr(gates, f"nrmse_{reduction}")
        value = model.value("nrmse", reduction)
        if limit is not None and (value is None or value > limit):
            failed.append(f"nRMSE {reduction} is {_shown(value)}, the gate is {limit:g}")
    ratio = persistence_ratio(report)
    least = gates.persistence_ratio
    if least is not None and (ratio is None or ratio < least):
        failed.append(f"persistence is {_shown(ratio)} times worse, the gate is {least:g}")
    return failed


def persistence_ratio(report: Report) -> float | None:
    """Persistence nRMSE / model nRMSE, of the means; of steady problems the training mean's."""
    model, trivial = report.row(MODEL), report.row(PERSISTENCE) or report.row(TRAINING_MEAN)
    if model is None or trivial is None:
        return None
    ours, theirs = model.value("nrmse"), trivial.value("nrmse")
    return theirs / ours if ours and theirs else None


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
