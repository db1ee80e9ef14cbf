"""Stage `diff_residual`: what the frozen operator leaves over, as a distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ups.checkpoint import Checkpoint
from ups.config.stages import ConsistencyStageConfig, DiffResidualStageConfig
from ups.data.windows import WindowSampler
from ups.errors import ConfigError
from ups.models.corrector import ResidualModel
from ups.models.flow import draw_tau, normal, seeded
from ups.models.layout import Given
from ups.models.normalisation import without_mean
from ups.training.distributed import portion
from ups.training.ensembles import EnsembleValidation, averaged
from ups.training.loop import StageDefaults
from ups.training.stages.fresh import FreshWindows
from ups.training.tasks import LatentTask, TaskMixture

Array = npt.NDArray[Any]
MakeCheckpoint = Callable[..., Checkpoint]
_STREAM = 0x726573
_STATISTICS_WINDOWS = 256


@dataclass(frozen=True)
class Transitions:
    """Steps of the frozen operator beside the truth, of one task.

    Attributes:
        previous, prediction, target: State, what the operator makes of it, and what it should be.
        index: Places of these samples in the global batch.
    """

    task: LatentTask
    previous: Float[Tensor, "batch tokens dim"]
    prediction: Float[Tensor, "batch tokens dim"]
    target: Float[Tensor, "batch tokens dim"]
    given: Given
    index: Array


class TransitionSource:
    """Batches of `Transitions` from the training split, as a pure function of the step.

    Raises:
        ConfigError: A task is steady.
    """

    def __init__(
        self,
        config: DiffResidualStageConfig | ConsistencyStageConfig,
        mixture: TaskMixture,
        operator: nn.Module,
        seed: int,
        augment: Sequence[str] = (),
    ) -> None:
        self.config, self.mixture, self.seed = config, mixture, seed
        self.operator = operator.eval().requires_grad_(False)
        self.history = int(getattr(operator, "history", 1))
        for task in mixture.tasks:
            if task.layout.is_steady:
                raise ConfigError(
                    f"{task.name}: a steady problem has no residual of a step",
                    hint="leave it out of data.task, or train stage steady_prior",
                )
        self._fresh = {
            task.name: FreshWindows(task, augment, task.device, seed)
            for task in mixture.tasks
            if augment
        }

    def batch(self, step: int, micro: int) -> Transitions:
        """This process' share of batch `step`."""
        task, number = self.mixture.draw(step)
        rows, starts = self._sampler(task, self.config.batch_size).draw(number)
        index = portion(np.arange(len(rows)), micro, self.config.accumulate)
        rows, starts = rows[index], self._first(task) + starts[index]
        length = self.history + 1
        if task.name in self._fresh:
            fresh = self._fresh[task.name]
            windows, given, _ = fresh.read(rows, starts, length, task.stride, step, micro)
        else:
            windows = task.windows("train", rows, starts, length)
            given = task.given("train", rows)
        return self._stepped(task, windows, given, index)

    def sample(self, task: LatentTask, split: str, number: int) -> Transitions:
        """Steps of one task, for statistics."""
        rows, starts = self._sampler(task, number, split).draw(0)
        windows = task.windows(split, rows, self._first(task) + starts, self.history + 1)
        return self._stepped(task, windows, task.given(split, rows), np.arange(number))

    @torch.no_grad()
    def _stepped(
        self, task: LatentTask, windows: Tensor, given: Given, index: Array
    ) -> Transitions:
        """The operator's step from the first frames of each window."""
        prediction = self.operator(windows[:, :-1], given, task.name).float()
        return Transitions(task, windows[:, -2], prediction, windows[:, -1], given, index)

    def _first(self, task: LatentTask) -> int:
        """The first frame at which a window may begin; before frame 0 that one is repeated."""
        first = task.data.frames.start
        return first if task.name in self._fresh else first - (self.history - 1) * task.stride

    def _sampler(self, task: LatentTask, batch_size: int, split: str = "train") -> WindowSampler:
        length = self.history + 1 if task.name in self._fresh else 2
        return WindowSampler(
            num_trajectories=task.num_trajectories(split),
            num_frames=len(task.data.frames),
            length=length,
            stride=task.stride,
            batch_size=batch_size,
            early_bias=self.config.early_bias,
            seed=self.seed,
        )


@dataclass(frozen=True)
class NoisedTransitions:
    """Transitions with the noise and the time at which their residual is corrupted."""

    steps: Transitions
    noise: Float[Tensor, "batch tokens dim"]
    tau: Float[Tensor, " batch"]


@dataclass
class DiffResidualStage(StageDefaults):
    """Learn to generate target - operator(history), the operator frozen.

    The loss is the squared error of the predicted velocity, each channel weighted by its share of
    the residual's energy: what it would be in the units of the tokens, with every sample at the
    same amplitude. Before training, channels are white noise of the right size, and so weak ones
    stay that are not worth learning. Validation rolls out ensembles, and chooses `gain` and
    `spread`.

    Source:
        Flow matching, Lipman et al. 2023, arXiv:2210.02747.
    """

    name: ClassVar[str] = "diff_residual"
    criterion: ClassVar[str] = "valid_crps"
    config: DiffResidualStageConfig
    mixture: TaskMixture
    operator: nn.Module
    residual: ResidualModel
    device: torch.device
    seed: int
    given_frames: int
    make_checkpoint: MakeCheckpoint
    augment: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.trainable: nn.Module = self.residual
        self._source = TransitionSource(
            self.config, self.mixture, self.operator, self.seed, self.augment
        )
        self._validation = EnsembleValidation(
            self.operator, self.given_frames, self.config.ensemble,
            self.config.validation_trajectories, self.config.validation_horizon, self.seed,
        )  # fmt: skip
        for task in self.mixture.tasks:
            found = self._source.sample(task, "train", _STATISTICS_WINDOWS)
            self.residual.fit_scales(
                task.name, found.target, found.prediction, found.previous, found.given
            )

    def batch(self, step: int, micro: int) -> NoisedTransitions:
        """This process' share of batch `step`; its noise does not depend on how it is shared."""
        found = self._source.batch(step, micro)
        generator, number = seeded(self.seed, step, _STREAM), self.config.batch_size
        tau = draw_tau(self.config.tau, number, generator)[found.index].to(self.device)
        shape = (number, *found.target.shape[1:])
        noise = normal(shape, generator, "cpu")[found.index].to(self.device)
        return NoisedTransitions(found, noise, tau)

    def losses(self, batch: NoisedTransitions, progress: float) -> dict[str, Tensor]:
        """Weighted squared error of the velocity, 1 or so before training."""
        steps, model = batch.steps, self.residual
        name, path = steps.task.name, model.path
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            situation = model.situation(steps.prediction, steps.previous, steps.given, name)
            data = model.normalised(steps.target, steps.prediction, situation)
            noise = without_mean(batch.noise, steps.task.layout)
            x = path.corrupt(data, noise, batch.tau)
            target = path.velocity(path.target(data, noise, batch.tau))
        found = model(x, batch.tau, steps.prediction, steps.previous, steps.given, name)
        error = (found.float() - target).square() * energy_weights(model, name)
        return {"velocity": error.mean() / path.speed**2}

    def validate(self) -> dict[str, float]:
        """Ensemble rollouts on the validation split, task by task."""
        return averaged(
            {t.name: self._validation.calibrated(self.residual, t) for t in self.mixture.tasks}
        )

    def checkpoint(self, step: int, metrics: dict[str, float]) -> Checkpoint:
        return self.make_checkpoint(
            self.name, step, metrics, operator=self.operator, residual=self.residual
        )


def energy_weights(model: ResidualModel, task: str) -> Float[Tensor, " dim"]:
    """Each channel's share of the residual's energy, mean 1."""
    energy = model.port(task).residual.square()
    return energy / energy.mean()
