"""Stage `steady_prior`: solutions of steady problems from what is given with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ups.checkpoint import Checkpoint
from ups.config.stages import SteadyPriorStageConfig
from ups.data.windows import WindowSampler
from ups.errors import ConfigError
from ups.models.flow import normal, seeded
from ups.models.layout import Given
from ups.models.steady import SteadyPrior
from ups.training.distributed import portion
from ups.training.loop import StageDefaults
from ups.training.losses import relative_l2
from ups.training.stages.fresh import FreshWindows
from ups.training.tasks import LatentTask, TaskMixture
from ups.training.validation import TaskErrors, errors_of, summary

MakeCheckpoint = Callable[..., Checkpoint]
_STREAM = 0x737470
_STATISTICS_SAMPLES = 1024
_BATCH = 64
_LARGEST = 1e30


@dataclass(frozen=True)
class Problems:
    """Solutions with what is given, the evaluation that each trains, and its noise."""

    task: LatentTask
    target: Float[Tensor, "batch tokens dim"]
    given: Given
    level: Int[Tensor, " batch"]
    noise: Float[Tensor, "batch tokens dim"]


@dataclass
class SteadyPriorStage(StageDefaults):
    """Teach prediction and refinements together: each sample trains one evaluation.

    Both losses are relative L2: of the solution, and of the noise in it. Validation decodes after
    each evaluation, and chooses how many are in use: refinements that do not help are left out.

    Raises:
        ConfigError: A task is not steady.
    """

    name: ClassVar[str] = "steady_prior"
    criterion: ClassVar[str] = "valid_nrmse"
    config: SteadyPriorStageConfig
    mixture: TaskMixture
    prior: SteadyPrior
    device: torch.device
    seed: int
    make_checkpoint: MakeCheckpoint
    augment: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.trainable: nn.Module = self.prior
        self._fresh = {
            task.name: FreshWindows(task, self.augment, self.device, self.seed)
            for task in self.mixture.tasks
            if self.augment
        }
        for task in self.mixture.tasks:
            if not task.layout.is_steady:
                raise ConfigError(
                    f"{task.name}: steps in time, and stage steady_prior is for steady problems",
                    hint="leave it out of data.task, or train stage operator",
                )
            rows = np.arange(min(task.num_trajectories("train"), _STATISTICS_SAMPLES))
            targets = task.windows("train", rows, np.zeros_like(rows), 1)[:, 0]
            self.prior.fit_scales(task.name, targets, task.given("train", rows))

    def batch(self, step: int, micro: int) -> Problems:
        """This process' share of batch `step`."""
        task, number = self.mixture.draw(step)
        size = self.config.batch_size
        sampler = WindowSampler(
            num_trajectories=task.num_trajectories("train"), num_frames=1, length=1,
            batch_size=size, seed=self.seed,
        )  # fmt: skip
        index = portion(np.arange(size), micro, self.config.accumulate)
        rows, starts = (part[index] for part in sampler.draw(number))
        if task.name in self._fresh:
            tokens, given, _ = self._fresh[task.name].read(rows, starts, 1, 1, step, micro)
        else:
            tokens, given = task.windows("train", rows, starts, 1), task.given("train", rows)
        target = tokens[:, 0]
        generator = seeded(self.seed, step, _STREAM)
        level = self._levels(generator)[index].to(self.device)
        noise = normal((size, *target.shape[1:]), generator, "cpu")[index].to(self.device)
        return Problems(task, target, given, level, noise)

    def _levels(self, generator: torch.Generator) -> Int[Tensor, " batch"]:
        """0 for the share that trains the prediction, any refinement for the others; shuffled."""
        size, last = self.config.batch_size, self.prior.config.refinement_steps - 1
        if last == 0:
            return torch.zeros(size, dtype=torch.long)
        level = torch.randint(1, last + 1, (size,), generator=generator)
        order = torch.randperm(size, generator=generator)
        return torch.where(order < self.config.first_share * size, 0, level)

    def losses(self, batch: Problems, progress: float) -> dict[str, Tensor]:
        """Relative L2 of predicted solutions and of the noise found, by their share of samples."""
        prior, name = self.prior, batch.task.name
        port = prior.port(name)
        with torch.autocast(self.device.type, enabled=False):
            sigma = prior.noise_level(batch.level, name)[:, None, None]
            x = batch.target - port.average + sigma * batch.noise
        found = prior(x, batch.level, batch.given, name)
        with torch.autocast(self.device.type, enabled=False):
            found, is_first = found.float(), batch.level == 0
            terms = {}
            if bool(is_first.any()):
                solution = port.average + port.size * found[is_first]
                terms["prediction"] = relative_l2(solution, batch.target[is_first])
            if bool((~is_first).any()):
                terms["refinement"] = relative_l2(found[~is_first], batch.noise[~is_first])
            share = is_first.float().mean()
            weights = {"prediction": share, "refinement": 1 - share}
            return {key: weights[key] * value for key, value in terms.items()}

    def validate(self) -> dict[str, float]:
        """Decoded nRMSE on the validation split, with the best number of evaluations."""
        found = {task.name: self._validated(task) for task in self.mixture.tasks}
        means = zip(*(errors for errors, _ in found.values()), strict=True)
        after = [sum(one.nrmse for one in column) / len(column) for column in means]
        steps = {f"valid_nrmse_after_{n}": value for n, value in enumerate(after, start=1)}
        chosen = {name: errors[number - 1] for name, (errors, number) in found.items()}
        used = sum(number for _, number in found.values()) / len(found)
        return summary(chosen) | steps | {"valid_evaluations": used}

    @torch.no_grad()
    def _validated(self, task: LatentTask) -> tuple[list[TaskErrors], int]:
        """Errors after each evaluation, and the number that is best and now in use."""
        limit = min(self.config.validation_trajectories, task.num_trajectories("valid"))
        parts = [np.arange(limit)[start : start + _BATCH] for start in range(0, limit, _BATCH)]
        number = self.prior.config.refinement_steps
        found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(number)]
        for rows in parts:
            given = task.given("valid", rows)
            states = self.prior.stages(given, task.name, evaluations=number)
            for place, tokens in zip(found, states, strict=True):
                place.append(errors_of(task, "valid", rows, tokens[:, None], [0], None))
        errors = [_over_trajectories(place) for place in found]
        best = 1 + min(range(number), key=lambda place: errors[place].nrmse)
        self.prior.port(task.name).evaluations.fill_(best)
        return errors, best

    def checkpoint(self, step: int, metrics: dict[str, float]) -> Checkpoint:
        return self.make_checkpoint(self.name, step, metrics, prior=self.prior)


def _over_trajectories(parts: list[tuple[Tensor, Tensor]]) -> TaskErrors:
    model, trivial = (torch.cat(side) for side in zip(*parts, strict=True))
    model = model.nan_to_num(nan=_LARGEST, posinf=_LARGEST).clamp_max(_LARGEST)
    return TaskErrors(float(model.mean()), float(model.median()), float(trivial.mean()))
