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

from ups.data.store import TrajectoryStore
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


@torch.no_grad()
def rollout(
    surrogate: Surrogate,
    initial: Float[Tensor, "batch *space channel"],
    parameters: Float[Tensor, "batch parameter"],
    steps: int,
) -> Float[Tensor, "batch time *space channel"]:
    """Apply the operator `steps` times and decode every state.

    Args:
        initial: Physical fields on the grid of the surrogate's codec.
        parameters: Physical PDE parameters.
    Returns:
        The predicted frames, physical; the initial one is not among them.
    """
    states = zip(range(steps), surrogate.roll(initial, parameters), strict=False)
    return torch.stack([surrogate.codec.decode(tokens) for _, tokens in states], 1)


@dataclass(frozen=True)
class Batch:
    """Predictions for some trajectories beside the truth, (batch, time, *space, channel)."""

    trajectories: npt.NDArray[Any]
    given: Float[Tensor, "batch *space channel"]
    prediction: Float[Tensor, "batch time *space channel"]
    reference: Float[Tensor, "batch time *space channel"]
    seconds: float


def predict_split(
    surrogate: Surrogate,
    store: TrajectoryStore,
    trajectories: npt.NDArray[Any],
    horizon: Horizon,
    *,
    batch_size: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Roll out the given trajectories of a store, batch by batch.

    `seconds` is the wall time of encoding, stepping and decoding, with the device synchronised.
    """
    for start in range(0, len(trajectories), batch_size):
        chosen = trajectories[start : start + batch_size]
        given = torch.from_numpy(store.fields[chosen, horizon.first]).to(device)
        parameters = torch.from_numpy(store.parameters[chosen]).to(device)
        began = _clock(device)
        prediction = rollout(surrogate, given, parameters, horizon.steps)
        seconds = _clock(device) - began
        reference = torch.from_numpy(store.fields[chosen][:, horizon.frames])
        yield Batch(chosen, given.cpu(), prediction.cpu(), reference, seconds)


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
