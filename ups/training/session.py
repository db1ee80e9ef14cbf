"""An experiment with its data opened: what every stage is built from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ups import registry
from ups.config.models import Family
from ups.config.schema import Experiment, TaskConfig
from ups.config.stages import StageName
from ups.data.points import PointStore
from ups.data.store import TrajectoryStore
from ups.data.versions import open_store
from ups.errors import DataError, UsageError
from ups.registry import DatasetCard
from ups.training.distributed import local_device

Store = TrajectoryStore | PointStore


@dataclass(frozen=True)
class TaskData:
    """One dataset of a run, opened.

    Attributes:
        config: Resolved: `version` is the version that was opened.
    """

    config: TaskConfig
    card: DatasetCard
    store: Store

    @property
    def name(self) -> str:
        return self.config.key

    @property
    def stride(self) -> int:
        return self.config.stride

    @property
    def frames(self) -> range:
        """Stored frames that are trained on."""
        last = self.store.num_frames - 1
        chosen = self.config.last_frame
        return range(self.config.first_frame, (last if chosen is None else min(chosen, last)) + 1)

    @property
    def family(self) -> Family:
        return family_of(self.card)

    @property
    def is_steady(self) -> bool:
        return self.store.metadata.dt is None

    @property
    def dt(self) -> float | None:
        """The time that one operator step advances, in the card's unit."""
        dt = self.store.metadata.dt
        return None if dt is None else dt * self.stride


@dataclass(frozen=True)
class Session:
    """An experiment with its data opened and its device chosen.

    Attributes:
        experiment: Resolved: every task names the version that was opened.
    """

    experiment: Experiment
    tasks: tuple[TaskData, ...]
    device: torch.device

    def task(self, name: str | None = None) -> TaskData:
        """One task by name; None is the only one.

        Raises:
            UsageError: There is no such task, or there are several and none was named.
        """
        names = [task.name for task in self.tasks]
        if name is None and len(names) == 1:
            return self.tasks[0]
        if name not in names:
            what = "which task?" if name is None else f"no task '{name}'"
            raise UsageError(f"{what} This experiment has {', '.join(names)}")
        return self.tasks[names.index(name)]

    @property
    def stages(self) -> tuple[StageName, ...]:
        """What `ups train` runs when no stage is named."""
        order = self.experiment.stages.order
        if order is not None:
            return order
        last: StageName = "steady_prior" if self.is_steady else "operator"
        return ("codec", last)

    @property
    def is_steady(self) -> bool:
        """Whether no task has a time to step through."""
        return all(task.is_steady for task in self.tasks)

    @property
    def all_stages(self) -> tuple[StageName, ...]:
        """Every stage that these tasks can be trained in."""
        if self.is_steady:
            return ("codec", "steady_prior")
        return ("codec", "operator", "diff_residual", "consistency_distill")


def open_session(experiment: Experiment, *, device: torch.device | None = None) -> Session:
    """Open the data of an experiment and write down which version it is.

    Raises:
        DataError: There is no such dataset or version.
        UsageError: The device does not exist.
    """
    tasks = tuple(open_task(config) for config in experiment.data.tasks)
    if experiment.threads:
        torch.set_num_threads(experiment.threads)
    data = experiment.data
    if data.dataset is None:
        data = data.model_copy(update={"task": tuple(task.config for task in tasks)})
    else:
        data = data.model_copy(update={"version": tasks[0].config.version})
    resolved = experiment.model_copy(update={"data": data})
    return Session(resolved, tasks, device or local_device(experiment.device))


def open_task(config: TaskConfig) -> TaskData:
    """Open one dataset of an experiment."""
    card = registry.load_card(config.dataset)
    store = open_store(config.dataset, config.version)
    task = TaskData(config.model_copy(update={"version": store.metadata.version}), card, store)
    if len(task.frames) <= (0 if task.is_steady else config.stride):
        raise DataError(
            f"{store.name}: frames {config.first_frame} to {task.frames.stop - 1} of "
            f"{store.num_frames}, at stride {config.stride}: no step fits",
            hint="look at data.stride, data.first_frame and data.last_frame",
        )
    return task


def family_of(card: DatasetCard) -> Family:
    """The family of discretisations of a dataset, by which its codec is chosen."""
    kind = card.discretisation.kind
    if kind != "grid":
        return kind
    families: tuple[Family, ...] = ("grid1d", "grid2d", "grid3d")
    return families[card.num_dims - 1]
