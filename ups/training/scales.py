"""Typical sizes of steps and channels, which models are scaled by."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ups.models.layout import Given
from ups.training.tasks import LatentTask

_TRAJECTORIES = 256
_FRAMES = 20_000
_NUMBERS = 2**26
"""At most, in float32 a quarter of a gigabyte; fitting takes a few times that."""


def statistics_windows(
    task: LatentTask,
) -> tuple[Float[Tensor, "batch frame tokens dim"], Given]:
    """Whole trajectories of the training split, evenly spread over it, at the task's stride."""
    first, count = task.data.frames.start, task.num_trajectories("train")
    length = (len(task.data.frames) - 1) // task.stride + 1
    frames = min(_FRAMES, _NUMBERS // (task.layout.num_tokens * task.layout.latent_dim))
    number = max(1, min(_TRAJECTORIES, count, frames // length))
    rows = np.linspace(0, count - 1, number).astype(int)
    windows = task.windows("train", rows, np.full_like(rows, first), length)
    return windows, task.given("train", rows)


@torch.no_grad()
def fit_scales(model: Any, task: LatentTask) -> None:
    """Let an operator take its scales from the training split."""
    windows, given = statistics_windows(task)
    model.fit_scales(task.name, windows, given)
