"""Stage `consistency_distill`: the residual model's many steps in one to four."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ups.checkpoint import Checkpoint
from ups.config.stages import ConsistencyStageConfig
from ups.models.corrector import ResidualModel
from ups.models.flow import normal, seeded
from ups.models.flow_map import FlowMap
from ups.models.normalisation import without_mean
from ups.training.ensembles import EnsembleValidation, averaged
from ups.training.loop import StageDefaults
from ups.training.losses import relative_l2
from ups.training.stages.diff_residual import Transitions, TransitionSource, energy_weights
from ups.training.tasks import LatentTask, TaskMixture

MakeCheckpoint = Callable[..., Checkpoint]
_STREAM, _VALID_STREAM = 0x636F6E, 0x636F76
_GROWING = 0.5
_COMPARED = 64


@dataclass(frozen=True)
class Flights:
    """The teacher's trajectories of one batch.

    Shape:
        points: (point, batch, tokens, dim), from noise to sample at equal steps in time
        slopes: (point, batch, tokens, dim), the teacher's velocity at all but the last
    """

    steps: Transitions
    points: Float[Tensor, "point batch tokens dim"]
    slopes: Float[Tensor, "slope batch tokens dim"]


@dataclass(frozen=True)
class Jumps:
    """For each sample, from which point of the teacher's trajectory to which: first <= last."""

    flights: Flights
    first: Int[Tensor, " batch"]
    last: Int[Tensor, " batch"]


def draw_jumps(
    generator: np.random.Generator,
    batch_size: int,
    intervals: int,
    student_steps: int,
    progress: float,
    schedule: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Points between which the flow map is trained, (batch_size,) each, first <= last.

    'uniform': any pair alike. 'from_short': lengths up to a limit that grows from one interval to
    all of them over the first half of the run; in the second half a growing share are the jumps
    that the student will make, at the end nearly all. Points may be equal, where the mean velocity
    is the teacher's velocity.
    """
    longest = intervals
    if schedule == "from_short":
        grown = min(progress / _GROWING, 1.0)
        longest = 1 + round((intervals - 1) * grown)
    length = generator.integers(0, longest + 1, size=batch_size)
    first = generator.integers(0, intervals - np.maximum(length, 1) + 1)
    last = first + length
    if schedule == "from_short" and progress > _GROWING:
        share = 0.9 * (progress - _GROWING) / (1 - _GROWING)
        is_own = generator.random(batch_size) < share
        ends = np.round(np.linspace(0, intervals, student_steps + 1)).astype(np.int64)
        own = generator.integers(student_steps, size=batch_size)
        first, last = np.where(is_own, ends[own], first), np.where(is_own, ends[own + 1], last)
    return first, last


@dataclass
class ConsistencyStage(StageDefaults):
    """Teach a flow map to jump along the trajectories of the frozen residual model.

    The teacher's trajectory from noise to sample is computed once for `micro_batches` updates,
    each of which takes other pairs of times from it. The loss is the squared error of the mean
    velocity between them, known from the trajectory: (x_j - x_i) / (tau_j - tau_i), or the
    velocity itself where i = j.

    Source:
        Boffi et al. 2024, arXiv:2406.07507 (flow map matching by distillation); Song et al. 2023,
        arXiv:2303.01469 (few-step sampling).
    """

    name: ClassVar[str] = "consistency_distill"
    criterion: ClassVar[str] = "valid_crps"
    config: ConsistencyStageConfig
    mixture: TaskMixture
    operator: nn.Module
    teacher: ResidualModel
    student: FlowMap
    device: torch.device
    seed: int
    given_frames: int
    make_checkpoint: MakeCheckpoint
    augment: tuple[str, ...] = ()
    _flights: dict[tuple[int, int], Flights] = field(default_factory=dict, init=False)
    _progress: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.trainable: nn.Module = self.student
        self.teacher.eval().requires_grad_(False)
        self._source = TransitionSource(
            self.config, self.mixture, self.operator, self.seed, self.augment
        )
        self._validation = EnsembleValidation(
            self.operator, self.given_frames, self.config.ensemble,
            self.config.validation_trajectories, self.config.validation_horizon, self.seed,
        )  # fmt: skip
        self._teacher_scores: dict[str, float] = {}

    def batch(self, step: int, micro: int) -> Jumps:
        """Other pairs of times at each step, from the same trajectories `micro_batches` times."""
        key = (step // self.config.micro_batches, micro)
        if key not in self._flights:
            if any(number != key[0] for number, _ in self._flights):
                self._flights.clear()
            self._flights[key] = self._fly(*key)
        flights = self._flights[key]
        first, last = draw_jumps(
            np.random.default_rng([self.seed, step, _STREAM]), self.config.batch_size,
            len(flights.slopes), self.config.student_steps, step / self.config.steps,
            self.config.tau_schedule,
        )  # fmt: skip
        index = flights.steps.index
        pair = (torch.from_numpy(points[index]).to(self.device) for points in (first, last))
        return Jumps(flights, *pair)

    @torch.no_grad()
    def _fly(self, number: int, micro: int) -> Flights:
        steps = self._source.batch(number, micro)
        shape = (self.config.batch_size, *steps.target.shape[1:])
        noise = normal(shape, seeded(self.seed, number, _STREAM), "cpu")
        return self._flown(steps, noise[steps.index].to(self.device))

    def _flown(self, steps: Transitions, noise: Tensor) -> Flights:
        """The teacher's trajectories from noise."""
        name = steps.task.name
        situation = self.teacher.situation(steps.prediction, steps.previous, steps.given, name)
        x = without_mean(noise, steps.task.layout)
        points, slopes = self.teacher.trajectory(x, situation, self.config.teacher_steps)
        return Flights(steps, torch.stack(points), torch.stack(slopes))

    def losses(self, batch: Jumps, progress: float) -> dict[str, Tensor]:
        """Squared error of the mean velocity, weighted as in stage `diff_residual`."""
        self._progress = progress
        flights, steps = batch.flights, batch.flights.steps
        intervals, sample = len(flights.slopes), torch.arange(len(batch.first), device=self.device)
        start, end = (flights.points[place, sample] for place in (batch.first, batch.last))
        tau, until = batch.first / intervals, batch.last / intervals
        is_instant = (batch.first == batch.last)[:, None, None]
        width = torch.where(is_instant, 1.0, (until - tau)[:, None, None])
        target = torch.where(is_instant, flights.slopes[batch.first, sample], (end - start) / width)
        found = self.student(
            start, tau, steps.prediction, steps.previous, steps.given, steps.task.name, until
        )
        error = (found.float() - target).square() * energy_weights(self.student, steps.task.name)
        return {"jump": error.mean() / self.student.path.speed**2}

    def is_reached(self, loss: float) -> bool:
        """Whether the loss is low enough to stop, once jumps have their full length."""
        target, schedule = self.config.target_loss, self.config.tau_schedule
        is_grown = schedule == "uniform" or self._progress >= _GROWING
        return target is not None and is_grown and loss <= target

    def validate(self) -> dict[str, float]:
        """Ensemble rollouts of student and teacher, and how far apart their samples are.

        `gain_kept` is the student's share of the teacher's gain in CRPS over the operator's
        absolute error, 0 where the teacher has none; `endpoint_error` the relative L2 between
        their samples from the same noise.
        """
        return averaged({task.name: self._validated(task) for task in self.mixture.tasks})

    def _validated(self, task: LatentTask) -> dict[str, float]:
        found = self._validation.calibrated(self.student, task)
        if task.name not in self._teacher_scores:
            spread = self.teacher.port(task.name).spread.item()
            scores = self._validation.scores(self.teacher, task, spread)
            self._teacher_scores[task.name] = scores.crps
        mae, taught = found["mae_deterministic"], self._teacher_scores[task.name]
        return found | {
            "crps_teacher": taught,
            "gain_kept": (mae - found["crps"]) / (mae - taught) if taught < mae else 0.0,
            "endpoint_error": self._endpoint_error(task),
        }

    @torch.no_grad()
    def _endpoint_error(self, task: LatentTask) -> float:
        """Relative L2 between samples of student and teacher from the same noise."""
        steps = self._source.sample(task, "valid", _COMPARED)
        shape = tuple(steps.target.shape)
        noise = normal(shape, seeded(self.seed, _VALID_STREAM), self.device)
        arguments = (steps.prediction, steps.previous, steps.given, task.name)
        situation = self.teacher.situation(*arguments)
        x = without_mean(noise, task.layout)
        taught = self.teacher.endpoint(x, situation, self.config.teacher_steps)
        learned = self.student.endpoint(x, situation, self.config.student_steps)
        return float(relative_l2(learned * situation.unit, taught * situation.unit))

    def checkpoint(self, step: int, metrics: dict[str, float]) -> Checkpoint:
        return self.make_checkpoint(
            self.name, step, metrics,
            operator=self.operator, residual=self.teacher, flow_map=self.student,
        )  # fmt: skip
