"""One task as the stages on tokens see it, and several of them in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from ups.cache.format import LatentCache
from ups.codec.coded import CodedStore
from ups.data.reading.mixing import Rule, TaskOrder
from ups.data.windows import Shards
from ups.models.layout import Given, TokenLayout
from ups.models.surrogate import scale_parameters
from ups.training.session import TaskData

Array = npt.NDArray[Any]
_RESIDENT_BYTES = 4 * 2**30


@dataclass
class LatentTask:
    """Cached tokens of one dataset, with what a model is told besides and the way back to fields.

    Rows count inside a split; frames are stored frames.

    Attributes:
        cache: None where tokens come from elsewhere: `ups.training.probe`.
    """

    data: TaskData
    layout: TokenLayout
    coded: CodedStore
    cache: LatentCache | None
    device: torch.device
    _tokens: dict[str, Shards] = field(default_factory=dict, init=False)
    _resident: dict[str, Tensor | None] = field(default_factory=dict, init=False)
    _contexts: dict[str, Tensor] = field(default_factory=dict, init=False)
    _parameters: dict[str, Tensor] = field(default_factory=dict, init=False)

    @property
    def name(self) -> str:
        return self.data.name

    @property
    def stride(self) -> int:
        return self.data.stride

    @property
    def num_frames(self) -> int:
        return self.data.store.num_frames

    def members(self, split: str) -> Array:
        """Rows of the store that make up a split."""
        return self.data.store.split(split)

    def num_trajectories(self, split: str) -> int:
        return len(self.members(split))

    def __len__(self) -> int:
        """Frames of the training split."""
        return self.num_trajectories("train") * len(self.data.frames)

    def windows(
        self, split: str, rows: Array, starts: Array, length: int, stride: int | None = None
    ) -> Float[Tensor, "batch frame tokens dim"]:
        """Runs of frames, float32 on the device.

        Args:
            starts: First stored frame of each; where it is negative, frame 0 stands for those
                before the trajectory.
            stride: Stored frames between frames; None is the task's.
        """
        step = self.stride if stride is None else stride
        times = np.maximum(starts[:, None] + np.arange(length) * step, 0)
        resident = self._resident_tokens(split)
        if resident is None:
            windows = self.tokens(split).gather_at(rows, times)
            return torch.from_numpy(windows).to(self.device).float()
        index = torch.from_numpy(rows[:, None] * self.num_frames + times).to(self.device)
        return resident[index].float()

    def given(self, split: str, rows: Array, stride: int | None = None) -> Given:
        """Parameters, context and time step of trajectories."""
        index = torch.from_numpy(rows).to(self.device)
        dt = self.data.dt
        pace = 1.0 if dt is None else dt * (self.stride if stride is None else stride) / self.stride
        context = self._context(split)
        return Given(
            self._scaled_parameters(split)[index],
            torch.full((len(rows),), pace, device=self.device),
            None if context is None else context[index].float(),
        )

    def decode(
        self,
        tokens: Float[Tensor, "batch time tokens dim"],
        split: str,
        rows: Array,
        frames: Sequence[int],
    ) -> list[Tensor]:
        """Physical fields of each trajectory, (time, point, channel)."""
        fields = self.coded.decode(tokens, self.members(split)[rows], frames)
        return [one.flatten(1, -2) for one in fields]

    def reference(self, split: str, rows: Array, frames: Sequence[int]) -> list[Tensor]:
        """The truth at the same places, on the device."""
        fields = self.coded.reference(self.members(split)[rows], frames)
        return [one.flatten(1, -2).to(self.device) for one in fields]

    def tokens(self, split: str) -> Shards:
        """Memory-mapped tokens of a split."""
        if split not in self._tokens:
            assert self.cache is not None
            self._tokens[split] = self.cache.tokens(split)
        return self._tokens[split]

    def _resident_tokens(self, split: str) -> Tensor | None:
        """All frames as one (frame, tokens, dim) tensor on the device, if small enough."""
        if split not in self._resident:
            tokens = self.tokens(split)
            size = int(np.prod(tokens.shape)) * tokens.arrays[0].dtype.itemsize
            whole = None
            if size <= _RESIDENT_BYTES:
                whole = torch.from_numpy(tokens.whole()).flatten(0, 1).to(self.device)
            self._resident[split] = whole
        return self._resident[split]

    def _context(self, split: str) -> Tensor | None:
        if not self.layout.context_dim:
            return None
        if split not in self._contexts:
            assert self.cache is not None
            whole = self.cache.contexts(split).whole()[:, 0]
            self._contexts[split] = torch.from_numpy(whole).to(self.device)
        return self._contexts[split]

    def _scaled_parameters(self, split: str) -> Tensor:
        if split not in self._parameters:
            rows = torch.from_numpy(self.data.store.parameters[self.members(split)])
            scaled = scale_parameters(self.data.card.parameters, rows)
            self._parameters[split] = scaled.float().to(self.device)
        return self._parameters[split]


class TaskMixture(TaskOrder[LatentTask]):
    """Which task gives batch `step`, in the proportions of their weights."""

    def draw(self, step: int) -> tuple[LatentTask, int]:
        """The task of batch `step`, and the number of the batch among its own."""
        index, number = self.locate(step)
        return self.tasks[index], number


def mixture_of(tasks: Sequence[LatentTask], rule: Rule, seed: int) -> TaskMixture:
    """The tasks of a stage by the rule of `data.mixing`; 'inverse_nrmse' begins uniformly."""
    mixture = TaskMixture(tasks, seed=seed)
    if rule == "custom":
        mixture.renew(0, rule, {task.name: task.data.config.weight for task in tasks})
    elif rule == "size":
        mixture.renew(0, rule)
    return mixture
