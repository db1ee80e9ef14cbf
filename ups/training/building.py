"""Codecs, layouts and checkpoints of a session's tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

import ups
from ups import runs
from ups.checkpoint import Checkpoint, Identity, TaskIdentity
from ups.codec.coded import Codec, CodedGrid, CodedPoints, coded, geometry_of
from ups.codec.grid import GridCodec, GridGeometry
from ups.codec.points import PointCodec, point_geometry
from ups.config.models import GridCodecConfig
from ups.data.points import PointStore
from ups.data.reading.batches import boundary_codes
from ups.data.store import TrajectoryStore
from ups.errors import DataError
from ups.models.layout import TokenLayout
from ups.registry import DatasetCard, FieldSpec
from ups.training.session import Session, TaskData

Store = TrajectoryStore | PointStore


def build_codec(session: Session, task: TaskData) -> Codec:
    """A new codec for a task: normalised, and its linear part fitted in one pass over the data."""
    codec = new_codec(session, task)
    if isinstance(codec, PointCodec):
        assert isinstance(task.store, PointStore)
        codec.fit(CodedPoints(task.store, codec).training_frames(task.frames))
    elif codec.needs_fit:
        assert isinstance(task.store, TrajectoryStore)
        codec.fit(CodedGrid(task.store, codec).training_frames(task.frames))
    return codec


def new_codec(session: Session, task: TaskData) -> Codec:
    """A codec for a task, normalised, not fitted."""
    config = session.experiment.codec_for(task.family)
    codec: Codec
    if isinstance(config, GridCodecConfig):
        assert isinstance(task.store, TrajectoryStore)
        codec = GridCodec(config, grid_geometry(task.store, task.card))
    else:
        assert isinstance(task.store, PointStore)
        transforms = [field.transform for field in task.card.fields]
        codec = PointCodec(config, point_geometry(task.store, transforms))
    codec.set_normalisation(*normalisation(task.card.fields, task.store, task.store.statistics))
    if task.card.inputs:
        inputs = normalisation(task.card.inputs, task.store, task.store.input_statistics)
        codec.set_input_normalisation(*inputs)
    return codec.to(session.device)


def grid_geometry(store: TrajectoryStore, card: DatasetCard) -> GridGeometry:
    """Where the store's grid points are, and what stands there."""
    return GridGeometry(
        **geometry_of(store),
        periodic=store.metadata.periodic,
        fields=store.metadata.fields,
        inputs=store.metadata.inputs,
        transforms=tuple(field.transform for field in card.fields),
    )


def normalisation(
    fields: tuple[FieldSpec, ...], store: Store, statistics: Mapping[str, Any]
) -> tuple[list[float], list[float]]:
    """Shift and scale of each channel, by the card's rule, from the training split."""
    shift, scale = [], []
    for index, field in enumerate(fields):
        standard = field.normalisation == "standard"
        shift.append(float(statistics["mean"][index]) if standard else 0.0)
        size = float(statistics["std" if standard else "rms"][index])
        if size <= 0:
            raise DataError(
                f"{store.name}: field '{field.name}' is constant", hint="ups data audit"
            )
        scale.append(size)
    return shift, scale


def layout_of(task: TaskData, codec: Codec) -> TokenLayout:
    """What models must know of a task's tokens."""
    kept = task.card.pde.conserved if isinstance(codec, GridCodec) else ()
    linear = {field.name for field in task.card.fields if field.transform == "none"}
    codes = boundary_codes(task.store.metadata, task.store.name)
    return TokenLayout(
        anchors=codec.anchors,
        periodic=tuple(codec.periodic),
        latent_dim=codec.latent_dim,
        num_fields=codec.num_fields,
        separable=codec.separable,
        points_per_token=codec.points_per_token,
        conserved=tuple(name in kept and name in linear for name in task.card.field_names),
        num_parameters=len(task.card.parameters),
        dt=task.dt,
        weights=codec.weights,
        context_dim=codec.context_dim,
        kind=task.card.discretisation.kind,
        family=task.card.pde.family,
        boundaries=tuple((int(low), int(high)) for low, high in codes),
    )


def coded_task(task: TaskData, codec: Codec) -> Any:
    """The task's store seen through a codec."""
    return coded(task.store, codec, velocity=task.card.discretisation.velocity)


def make_checkpoint(
    session: Session,
    codecs: Mapping[str, Codec],
    earlier: Mapping[Any, str],
    stage: str,
    step: int,
    metrics: dict[str, float],
    **modules: nn.Module,
) -> Checkpoint:
    """The checkpoint of a stage: the modules it stands on and those it trains.

    Args:
        earlier: SHA-256 of the checkpoints of earlier stages.
    """
    return Checkpoint(
        stage=stage,
        step=step,
        experiment=session.experiment,
        identity=Identity(runs.commit(), ups.__version__, session.experiment.seed, dict(earlier)),
        tasks={task.name: identity_of(task, codecs[task.name]) for task in session.tasks},
        codecs=dict(codecs),
        layouts={task.name: layout_of(task, codecs[task.name]) for task in session.tasks},
        modules=dict(modules),
        metrics=metrics,
    )


def identity_of(task: TaskData, codec: Codec) -> TaskIdentity:
    meta = task.store.metadata
    return TaskIdentity(
        dataset=meta.dataset,
        version=meta.version,
        data_sha256=meta.data_sha256,
        split_hash=meta.split_hash,
        stride=task.stride,
        codec_fingerprint=codec.fingerprint(),
        parameters=task.card.parameters,
        dt=task.dt,
    )
