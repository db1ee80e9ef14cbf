"""Predict forward from given frames, in physical fields."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from ups.codec.coded import CodedGrid, CodedStore
from ups.errors import UsageError
from ups.models.surrogate import Surrogate


@dataclass(frozen=True)
class Horizon:
    """Which frames are given and which are predicted.

    Attributes:
        history: True frames given, the last one at stored frame `(history - 1) * stride`.
        steps: Frames predicted.
        stride: Stored frames per predicted frame.
    """

    history: int
    steps: int
    stride: int

    @property
    def first(self) -> int:
        """Stored frame from which the prediction starts."""
        return (self.history - 1) * self.stride

    @property
    def frames(self) -> slice:
        """The stored frames that are predicted."""
        start = self.first + self.stride
        return slice(start, start + (self.steps - 1) * self.stride + 1, self.stride)


def horizon_for(num_frames: int, *, history: int, stride: int, steps: int | None) -> Horizon:
    """Fit history and horizon into a trajectory; `steps=None` predicts to its end.

    Raises:
        UsageError: They do not fit.
    """
    available = (num_frames - 1 - (history - 1) * stride) // stride
    if available < 1 or (steps is not None and steps > available):
        wanted = f"history {history} and horizon {steps or 1} at stride {stride}"
        raise UsageError(
            f"{wanted} do not fit into {num_frames} frames",
            hint=f"with this history the longest horizon is {max(available, 0)}",
        )
    return Horizon(history, steps or available, stride)


STEADY = Horizon(history=0, steps=1, stride=1)
"""Of a steady problem: nothing is given, and its one frame is predicted."""


@torch.no_grad()
def rollout(
    surrogate: Surrogate,
    initial: Float[Tensor, "batch *space channel"],
    parameters: Float[Tensor, "batch parameter"],
    steps: int,
) -> Float[Tensor, "batch time *space channel"]:
    """Apply the operator `steps` times and decode every state, on the codec's grid.

    Args:
        initial: Physical fields.
        parameters: Physical PDE parameters.
    Returns:
        The predicted frames, physical; the initial one is not among them.
    """
    given = surrogate.given(parameters)
    states = surrogate.roll(surrogate.codec.encode(initial)[:, None], given)
    pairs = zip(range(steps), states, strict=False)
    return torch.stack([surrogate.codec.decode(tokens) for _, tokens in pairs], 1)


@dataclass(frozen=True)
class Batch:
    """Predictions for some trajectories beside the truth, (batch, time, *space, channel).

    Of meshes and particles a batch is one trajectory, (1, time, node, channel).

    Attributes:
        given: The last given frame, (batch, *space, channel); None for a steady problem.
    """

    trajectories: npt.NDArray[Any]
    given: Tensor | None
    prediction: Float[Tensor, "batch time *space channel"]
    reference: Float[Tensor, "batch time *space channel"]
    seconds: float


@torch.no_grad()
def predict_split(
    surrogate: Surrogate,
    coded: CodedStore,
    trajectories: npt.NDArray[Any],
    horizon: Horizon,
    *,
    batch_size: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Roll out the given trajectories of a store, batch by batch.

    `seconds` is the wall time of encoding, stepping and decoding, with the device synchronised.
    """
    frames = range(coded.num_frames)[horizon.frames]
    for start in range(0, len(trajectories), batch_size):
        chosen = trajectories[start : start + batch_size]
        began = clock(device)
        tokens = predicted_tokens(surrogate, coded, chosen, horizon)
        fields = coded.decode(tokens, chosen, frames)
        seconds = clock(device) - began
        truth = coded.reference(chosen, frames)
        given = None
        if horizon.history:
            given = [one[0] for one in coded.reference(chosen, [horizon.first])]
        yield from _batches(coded, chosen, given, fields, truth, seconds)


def predicted_tokens(
    surrogate: Surrogate,
    coded: CodedStore,
    members: npt.NDArray[Any],
    horizon: Horizon,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "trajectory time tokens dim"]:
    """Tokens of every predicted frame, from the true frames that the horizon gives."""
    parameters = torch.from_numpy(coded.store.parameters[members])
    given = surrogate.given(parameters, coded.context(members))
    if not horizon.history:
        return surrogate.solve(given, generator=generator)[:, None]
    first = max(0, horizon.history - surrogate.history)
    frames = range(first * horizon.stride, horizon.first + 1, horizon.stride)
    history = coded.encode(members, frames)
    states = surrogate.roll(history, given, generator=generator)
    return torch.stack([tokens for _, tokens in zip(range(horizon.steps), states, strict=False)], 1)


def _batches(
    coded: CodedStore,
    chosen: npt.NDArray[Any],
    given: list[Tensor] | None,
    fields: list[Tensor],
    truth: list[Tensor],
    seconds: float,
) -> Iterator[Batch]:
    if isinstance(coded, CodedGrid):
        last = None if given is None else torch.stack(given)
        yield Batch(chosen, last, torch.stack(fields).cpu(), torch.stack(truth), seconds)
        return
    for index in range(len(chosen)):
        last = None if given is None else given[index][None]
        yield Batch(
            chosen[index : index + 1], last, fields[index][None].cpu(), truth[index][None],
            seconds / len(chosen),
        )  # fmt: skip


def clock(device: torch.device) -> float:
    """Seconds, when the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
