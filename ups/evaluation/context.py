"""A run opened to be judged: its models, its data, and which frames are given and predicted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ups import checkpoint as checkpoints
from ups import runs
from ups.checkpoint import Checkpoint, TaskIdentity
from ups.codec.coded import CodedStore, coded
from ups.config.schema import EvaluationConfig
from ups.config.stages import StageName
from ups.data.store import TrajectoryStore
from ups.evaluation.protocol import Protocol
from ups.evaluation.report import OWN
from ups.evaluation.rollout import STEADY, Batch, Horizon, horizon_for, predict_split
from ups.evaluation.unseen import Store, members_of, store_to_judge_on
from ups.models.surrogate import Surrogate
from ups.registry import DatasetCard, load_card

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Context:
    """Everything that a judgement of one task of a run under one protocol needs.

    Attributes:
        checkpoint_path: Whose weights are judged.
        task: Its name in the run.
        settings: Split, history, horizon, batch size.
        horizon: `STEADY` for a steady problem.
        protocol_name: What the protocol is called, see `Report.protocol_name`.
        limit: Judge on the first so many trajectories of the split only; None is all of them.
    """

    run: Path
    checkpoint_path: Path
    checkpoint: Checkpoint
    task: str
    card: DatasetCard
    surrogate: Surrogate
    coded: CodedStore
    settings: EvaluationConfig
    horizon: Horizon
    device: torch.device
    protocol_name: str = OWN
    limit: int | None = None

    @property
    def store(self) -> Store:
        return self.coded.store

    @property
    def identity(self) -> TaskIdentity:
        """The data that the task was trained on."""
        return self.checkpoint.tasks[self.task]

    @property
    def is_steady(self) -> bool:
        return self.horizon is STEADY

    @property
    def is_grid(self) -> bool:
        return isinstance(self.store, TrajectoryStore)

    @property
    def dt(self) -> float:
        """Time of one predicted frame; 1 for a steady problem."""
        return (self.store.metadata.dt or 1.0) * self.horizon.stride

    @cached_property
    def members(self) -> Array:
        """The trajectories to judge on, rows of the store, ascending."""
        return members_of(self.store, self.settings.split)[: self.limit]

    @property
    def times(self) -> Array:
        """Of the predicted frames, from the last given one."""
        first = self.horizon.first if self.horizon.history else 0
        return self.store.time[self.horizon.frames] - self.store.time[first]

    def predict(self, members: Array, *, batch_size: int | None = None) -> Iterator[Batch]:
        """Roll out the given trajectories, batch by batch."""
        return predict_split(
            self.surrogate, self.coded, members, self.horizon,
            batch_size=batch_size or self.settings.batch_size, device=self.device,
        )  # fmt: skip

    def some_of(self, split: str, limit: int) -> Array:
        """At most `limit` trajectories of a split of this store, evenly spaced."""
        found = members_of(self.store, split)
        if len(found) <= limit:
            return found
        return found[np.linspace(0, len(found) - 1, limit).round().astype(int)]

    def protocol(self) -> Protocol:
        """What the numbers of this judgement are measured on."""
        meta, store = self.store.metadata, self.store
        resolution = store.space if isinstance(store, TrajectoryStore) else (0,) * len(meta.bounds)
        return Protocol(
            dataset=meta.dataset,
            version=meta.version,
            split=self.settings.split,
            split_hash=meta.split_hash,
            data_sha256=meta.data_sha256,
            resolution=resolution,
            domain=meta.bounds,
            stride_x=meta.stride_x,
            stride_t=meta.stride_t,
            dt=meta.dt,
            stride=self.horizon.stride,
            history=self.horizon.history,
            horizon=self.horizon.steps,
            num_trajectories=len(self.members),
        )


def open_context(
    run: Path,
    *,
    task: str | None = None,
    stage: StageName | None = None,
    settings: EvaluationConfig | None = None,
    protocol_name: str = OWN,
    version: str | None = None,
    limit: int | None = None,
    device: torch.device | str = "cpu",
) -> Context:
    """Open a run to judge one of its tasks.

    Args:
        task: Which of several tasks.
        stage: Whose checkpoint; None is the last stage that the run has finished.
        settings: Split, history, horizon; None takes those of the run's config.
        version: Another converted version of the dataset to judge on; None is the run's own.
        limit: Only the first so many trajectories of the split.

    Raises:
        CheckpointError: The run holds no usable operator.
        DataError: The data of the run is not here, or has changed since; or the other version has
            another grid or time step, or shares initial states with the training split.
        UsageError: History and horizon do not fit the trajectories.
    """
    device = torch.device(device)
    path = runs.checkpoint_path(run, stage or checkpoints.last_stage(run))
    found = checkpoints.load(path, device)
    if found.experiment.threads:
        torch.set_num_threads(found.experiment.threads)
    name = found.task_name(task)
    known = found.tasks[name]
    settings = settings or found.experiment.evaluation
    store = store_to_judge_on(known, version, settings.split)
    horizon = STEADY
    if known.dt is not None:
        horizon = horizon_for(
            store.num_frames, history=settings.history, stride=known.stride, steps=settings.horizon
        )
    card = load_card(known.dataset)
    return Context(
        run=run,
        checkpoint_path=path,
        checkpoint=found,
        task=name,
        card=card,
        surrogate=found.surrogate(name).to(device),
        coded=coded(store, found.codecs[name], velocity=card.discretisation.velocity),
        settings=settings,
        horizon=horizon,
        device=device,
        protocol_name=protocol_name,
        limit=limit,
    )
