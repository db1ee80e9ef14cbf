"""Stage `operator`: advance cached tokens, differentiating through several steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ups.checkpoint import Checkpoint
from ups.config.schema import DataConfig
from ups.config.stages import OperatorStageConfig
from ups.data.windows import WindowSampler
from ups.errors import DataError
from ups.models.layout import Given
from ups.training.curriculum import Curriculum
from ups.training.distributed import portion, rank
from ups.training.noise import noisy_tokens
from ups.training.stages.decoded import LossTerms, Unrolled
from ups.training.stages.fresh import FreshWindows
from ups.training.tasks import LatentTask, TaskMixture
from ups.training.validation import rollout_errors, summary

Array = npt.NDArray[Any]
MakeCheckpoint = Callable[..., Checkpoint]
_NOISE, _STRIDE = 2, 3
"""Set the random numbers apart from those of the windows' places."""


@dataclass(frozen=True)
class Windows:
    """A batch of one task.

    Attributes:
        tokens: Frames of each window, (batch, history + steps, tokens, dim).
        rows: Trajectories, counted inside the training split.
        frames: Stored frames that are predicted, (batch, steps).
        fields: Of all frames of each window, where they are at hand, physical units.
    """

    task: LatentTask
    tokens: Float[Tensor, "batch frame tokens dim"]
    given: Given
    rows: Array
    frames: Array
    stride: int
    step: int
    fields: Tensor | None = None


@dataclass
class OperatorStage:
    """Teach the operator to advance cached tokens.

    The main loss is relative L2 in the codec's own units; latent numbers are never z-scored in a
    loss. Early frames, where fronts form, are drawn more often. Validation decodes. Steady
    problems are learned as one map from what is given to the solution.
    """

    name: ClassVar[str] = "operator"
    criterion: ClassVar[str] = "valid_nrmse"
    config: OperatorStageConfig
    data: DataConfig
    mixture: TaskMixture
    curriculum: Curriculum
    operator: nn.Module
    device: torch.device
    seed: int
    given_frames: int
    make_checkpoint: MakeCheckpoint
    _next: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.trainable = self.operator
        self.leaves_unused = len(self.mixture.tasks) > 1
        self._history = int(getattr(self.operator, "history", 1))
        self._losses = LossTerms(self.config.losses, self.mixture.tasks, self.seed)
        self._fresh = {
            task.name: FreshWindows(task, self.data.augment, self.device, self.seed)
            for task in self.mixture.tasks
            if self.data.augment
        }
        self._check_lengths()

    def _check_lengths(self) -> None:
        longest = max(self._unrolls())
        for task in self.mixture.tasks:
            frames, span = task.data.frames, longest * self.config.max_stride * task.stride
            if not task.layout.is_steady and len(frames) <= span:
                raise DataError(
                    f"{task.name}: {longest} unrolled steps of {span // longest} frames do not "
                    f"fit into frames {frames[0]} to {frames[-1]}",
                    hint="fewer stages.operator.unroll steps, or a smaller stride",
                )

    def _unrolls(self) -> list[int]:
        """Every number of operator steps that the run may differentiate through."""
        usual = [item.steps for item in self.config.unroll]
        phases = [span.phase.unroll for span in self.curriculum.phases]
        own = [steps for steps in phases if steps is not None]
        return own if phases and len(own) == len(phases) else [*own, *usual]

    def batch(self, step: int, micro: int) -> Windows:
        """This process' share of batch `step`."""
        self._next = step + 1
        self.curriculum.enter(step)
        task, number = self.mixture.draw(step)
        if task.layout.is_steady:
            return self._steady(task, step, number, micro)
        steps, stride = self.unroll_at(step), self._stride(task, step)
        history, first = self._history, task.data.frames[0]
        if task.name in self._fresh:  # no frame stands for one before the trajectory
            first = max(first, (history - 1) * stride)
        sampler = WindowSampler(
            num_trajectories=task.num_trajectories("train"),
            num_frames=task.data.frames.stop - first - steps * stride,
            length=1,
            batch_size=self.config.batch_size,
            early_bias=self.config.early_bias,
            seed=self.seed,
        )
        rows, present = (
            portion(part, micro, self.config.accumulate) for part in sampler.draw(number)
        )
        starts = present + first - (history - 1) * stride
        frames = (present + first)[:, None] + stride * np.arange(1, steps + 1)
        found = self._read(task, rows, starts, history + steps, stride, (step, micro))
        return replace(found, frames=frames, tokens=self._noisy(found.tokens, task, step, micro))

    def _steady(self, task: LatentTask, step: int, number: int, micro: int) -> Windows:
        random = np.random.default_rng([self.seed, number])
        drawn = random.integers(task.num_trajectories("train"), size=self.config.batch_size)
        rows = portion(drawn, micro, self.config.accumulate)
        return self._read(task, rows, np.zeros_like(rows), 1, 1, (step, micro))

    def _read(
        self, task: LatentTask, rows: Array, starts: Array, length: int, stride: int,
        key: tuple[int, int],
    ) -> Windows:  # fmt: skip
        frames = starts[:, None] + stride * np.arange(length)
        if task.name in self._fresh:
            fresh = self._fresh[task.name]
            tokens, given, fields = fresh.read(rows, starts, length, stride, *key)
            return Windows(task, tokens, given, rows, frames, stride, key[0], fields)
        tokens = task.windows("train", rows, starts, length, stride)
        given = task.given("train", rows, stride)
        return Windows(task, tokens, given, rows, frames, stride, key[0])

    def unroll_at(self, step: int) -> int:
        """Operator steps to differentiate through."""
        span = self.curriculum.span_at(step)
        if span is not None and span.phase.unroll is not None:
            return span.phase.unroll
        progress = step / self.config.steps
        return [item.steps for item in self.config.unroll if progress >= item.start][-1]

    def _stride(self, task: LatentTask, step: int) -> int:
        if self.config.max_stride == 1:
            return task.stride
        random = np.random.default_rng([self.seed, step, _STRIDE])
        return task.stride * int(random.integers(1, self.config.max_stride + 1))

    def _noisy(self, tokens: Tensor, task: LatentTask, step: int, micro: int) -> Tensor:
        """Noise on the frames that are given."""
        if not self.data.noise:
            return tokens
        history = self._history
        generator = torch.Generator(self.device).manual_seed(
            int(np.random.default_rng([self.seed, step, micro, rank(), _NOISE]).integers(2**62))
        )
        flat = noisy_tokens(
            tokens[:, :history].flatten(0, 1), self.data.noise, task.layout, generator
        )
        return torch.cat([flat.unflatten(0, (-1, history)), tokens[:, history:]], 1)

    def losses(self, batch: Windows, progress: float) -> dict[str, Tensor]:
        """Every term that has a weight, mean over the predicted states."""
        task = batch.task
        if task.layout.is_steady:
            tokens = self.operator(batch.tokens[:, :0], batch.given, task.name)
            return self._terms(batch, tokens[:, None], None, progress)
        history = self._history
        past, steps = batch.tokens[:, :history], batch.tokens.shape[1] - history
        found = []
        for step in range(steps):
            pushed = self.config.losses.rollout == "pushforward" and step < steps - 1
            with torch.set_grad_enabled(not pushed and torch.is_grad_enabled()):
                tokens = self.operator(past, batch.given, task.name)
            if not pushed:
                found.append(tokens)
            past = torch.cat([past[:, 1:], tokens[:, None]], 1)
        return self._terms(batch, torch.stack(found, 1), -len(found) - 1, progress)

    def _terms(
        self,
        batch: Windows,
        prediction: Float[Tensor, "batch step tokens dim"],
        before: int | None,
        progress: float,
    ) -> dict[str, Tensor]:
        """The terms in full precision.

        Args:
            before: Place in the window of the true state before the first predicted one.
        """
        steps = prediction.shape[1]
        unrolled = Unrolled(
            task=batch.task,
            prediction=prediction.float(),
            truth=batch.tokens[:, -steps:],
            before=None if before is None else batch.tokens[:, before],
            dt=batch.given.dt,
            rows=batch.rows,
            frames=batch.frames[:, -steps:],
            stride=batch.stride,
            step=batch.step,
            fields=None if batch.fields is None else batch.fields[:, -steps:],
        )
        with torch.autocast(self.device.type, enabled=False):
            return self._losses.weighted(unrolled, progress)

    def validate(self) -> dict[str, float]:
        """Decoded rollouts from the given frames to the end, on the validation split."""
        found = {
            task.name: rollout_errors(
                self.operator, task,
                history=self.given_frames, limit=self.config.validation_trajectories,
            )
            for task in self.mixture.tasks
        }  # fmt: skip
        self.curriculum.validated(self._next, {name: one.nrmse for name, one in found.items()})
        return summary(found)

    def checkpoint(self, step: int, metrics: dict[str, float]) -> Checkpoint:
        return self.make_checkpoint(self.name, step, metrics, operator=self.operator)

    def state_dict(self) -> dict[str, Any]:
        return {
            "curriculum": self.curriculum.state_dict(),
            "queries": self._losses.state_dict(),
            "next": self._next,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.curriculum.load_state_dict(state["curriculum"])
        self._losses.load_state_dict(state["queries"])
        self._next = state["next"]

    def is_reached(self, loss: float) -> bool:
        return False
