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

from ups.cache.dtypes import TORCH, as_tensor
from ups.cache.format import LatentCache, repeats_of
from ups.codec.coded import CodedStore
from ups.data.reading.mixing import Rule, TaskOrder
from ups.data.windows import Shards
from ups.models.layout import Given, TokenLayout
from ups.models.surrogate import scale_parameters
from ups.training.residence import Residence
from ups.training.session import TaskData

Array = npt.NDArray[Any]


@dataclass
class LatentTask:
    """Cached tokens of one dataset, with what a model is told besides and the way back to fields.

    Rows count inside a split; frames are stored frames. Where the cache holds the training split
    several times, moved, rows run on through the repeats.

    Attributes:
        cache: None where tokens come from elsewhere: `ups.training.probe`.
        residence: Where tokens are; on the device where nobody has decided.
    """

    data: TaskData
    layout: TokenLayout
    coded: CodedStore
    cache: LatentCache | None
    device: torch.device
    residence: Residence | None = None
    _tokens: dict[str, Shards] = field(default_factory=dict, init=False)
    _resident: dict[str, Tensor] = field(default_factory=dict, init=False)
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
        """Rows of the store that make up a split, without repeats."""
        return self.data.store.split(split)

    def repeats(self, split: str) -> int:
        """How often the cache holds a split."""
        return 1 if self.cache is None else repeats_of(self.cache.manifest.identity, split)

    def num_trajectories(self, split: str) -> int:
        """With repeats."""
        return len(self.members(split)) * self.repeats(split)

    def __len__(self) -> int:
        """Frames of the training split, without repeats."""
        return len(self.members("train")) * len(self.data.frames)

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
            return self._streamed(split, rows, times).float()
        index = torch.from_numpy(rows[:, None] * self.num_frames + times)
        if self.device.type == "cuda" and resident.device.type == "cpu":
            found = self._pinned((index.numel(), *resident.shape[1:]), resident.dtype)
            torch.index_select(resident, 0, index.flatten(), out=found)
            moved = found.to(self.device, non_blocking=True)
            return moved.unflatten(0, tuple(times.shape)).float()
        return resident[index.to(self.device)].float()

    def _streamed(self, split: str, rows: Array, times: Array) -> Tensor:
        """Frames out of memory-mapped shards, on the device."""
        tokens, dtype = self.tokens(split), self._dtype
        if self.device.type != "cuda":
            return as_tensor(tokens.gather_at(rows, times), dtype).to(self.device)
        pinned = self._pinned((*times.shape, *tokens.shape[2:]), TORCH[dtype])
        kept = pinned.view(torch.uint16) if dtype == "bfloat16" else pinned
        tokens.gather_at(rows, times, out=kept.numpy())
        return pinned.to(self.device, non_blocking=True)

    @staticmethod
    def _pinned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory that a GPU copies from while the CPU goes on; torch keeps it until it has."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def given(self, split: str, rows: Array, stride: int | None = None) -> Given:
        """Parameters, context and time step of trajectories."""
        index = torch.from_numpy(rows).to(self.device)
        dt = self.data.dt
        pace = 1.0 if dt is None else dt * (self.stride if stride is None else stride) / self.stride
        context = self._context(split)
        return Given(
            self._scaled_parameters(split)[index % len(self.members(split))],
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

    @property
    def _dtype(self) -> str:
        assert self.cache is not None
        return self.cache.manifest.identity.dtype

    def _resident_tokens(self, split: str) -> Tensor | None:
        """All frames as one (frame, tokens, dim) tensor; None where they stay in their files."""
        if self.residence is not None and self.residence.where == "stream":
            return None
        if split not in self._resident:
            tokens = self.tokens(split)
            in_memory = self.residence is not None and self.residence.where == "memory"
            whole = torch.empty(
                tokens.shape, dtype=TORCH[self._dtype], device="cpu" if in_memory else self.device
            )
            place = 0
            for array in tokens.arrays:
                whole[place : place + len(array)] = as_tensor(np.array(array), self._dtype)
                place += len(array)
            self._resident[split] = whole.flatten(0, 1)
        return self._resident[split]

    def _context(self, split: str) -> Tensor | None:
        if not self.layout.context_dim:
            return None
        if split not in self._contexts:
            assert self.cache is not None
            whole = self.cache.contexts(split).whole()[:, 0]
            self._contexts[split] = as_tensor(whole, self._dtype).to(self.device)
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
