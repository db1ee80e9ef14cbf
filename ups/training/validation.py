"""Decoded errors on the validation split, task by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ups.evaluation.metrics import nrmse
from ups.evaluation.rollout import horizon_for
from ups.models.surrogate import padded_history
from ups.training.tasks import LatentTask

_BATCH = 64
_LARGEST = 1e30


@dataclass(frozen=True)
class TaskErrors:
    """nRMSE on decoded fields, over trajectories.

    Attributes:
        persistence: nRMSE of the last given frame; of the training mean, for a steady problem.
    """

    nrmse: float
    median: float
    persistence: float


@torch.no_grad()
def rollout_errors(
    operator: nn.Module, task: LatentTask, *, history: int, limit: int, split: str = "valid"
) -> TaskErrors:
    """Roll out from `history` true frames to the end, and compare decoded fields with the truth.

    Args:
        limit: Trajectories at most, the first ones of the split.
    """
    rows = np.arange(min(limit, task.num_trajectories(split)))
    parts = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
    found = [_errors(operator, task, split, part, history) for part in parts]
    model, trivial = (torch.cat([pair[side] for pair in found]) for side in (0, 1))
    mean = float(model.nan_to_num(nan=float("inf")).mean().clamp_max(_LARGEST))
    median = float(model.nan_to_num(nan=_LARGEST).median())
    return TaskErrors(mean, median, float(trivial.mean()))


def _errors(
    operator: nn.Module, task: LatentTask, split: str, rows: np.ndarray, history: int
) -> tuple[Float[Tensor, " trajectory"], Float[Tensor, " trajectory"]]:
    given = task.given(split, rows)
    if task.layout.is_steady:
        empty = task.windows(split, rows, np.zeros_like(rows), 1)[:, :0]
        tokens = operator(empty, given, task.name)[:, None]
        return errors_of(task, split, rows, tokens, [0], None)
    horizon = horizon_for(task.num_frames, history=history, stride=task.stride, steps=None)
    past = padded_history(
        task.windows(split, rows, np.zeros_like(rows), history),
        int(getattr(operator, "history", 1)),
    )
    states = []
    for _ in range(horizon.steps):
        tokens = operator(past, given, task.name)
        states.append(tokens)
        past = torch.cat([past[:, 1:], tokens[:, None]], 1)
    frames = list(range(task.num_frames)[horizon.frames])
    return errors_of(task, split, rows, torch.stack(states, 1), frames, horizon.first)


def errors_of(
    task: LatentTask,
    split: str,
    rows: np.ndarray,
    tokens: Float[Tensor, "trajectory time tokens dim"],
    frames: list[int],
    last_given: int | None,
) -> tuple[Float[Tensor, " trajectory"], Float[Tensor, " trajectory"]]:
    """nRMSE of decoded tokens and of persistence, each the mean over frames and fields.

    Args:
        last_given: The frame that persistence repeats; None compares with the training mean.
    """
    decoded = task.decode(tokens, split, rows, frames)
    truth = task.reference(split, rows, frames)
    if last_given is None:
        mean = torch.from_numpy(task.data.store.statistics["mean"]).float().to(task.device)
        trivial = [mean.expand_as(one) for one in truth]
    else:
        trivial = task.reference(split, rows, [last_given])
    pairs = zip(decoded, truth, trivial, strict=True)
    both = [(_mean(mine, true), _mean(simple, true)) for mine, true, simple in pairs]
    model, persistence = zip(*both, strict=True)
    return torch.stack(model).cpu(), torch.stack(persistence).cpu()


def _mean(
    prediction: Float[Tensor, "_ point channel"], reference: Float[Tensor, "time point channel"]
) -> Tensor:
    return nrmse(prediction.expand_as(reference)[None], reference[None]).mean()


def summary(found: Mapping[str, TaskErrors]) -> dict[str, float]:
    """Each task's numbers, their macro averages, and the ratio to persistence.

    Of one task, `valid_nrmse` is its nRMSE.
    """
    values: dict[str, float] = {}
    if len(found) > 1:
        for name, one in found.items():
            values[f"{name}/nrmse"] = one.nrmse
            values[f"{name}/nrmse_median"] = one.median
            values[f"{name}/persistence_ratio"] = one.nrmse / one.persistence
    tasks = list(found.values())
    return {
        "valid_nrmse": sum(one.nrmse for one in tasks) / len(tasks),
        "valid_nrmse_median": sum(one.median for one in tasks) / len(tasks),
        "valid_persistence_ratio": sum(o.nrmse / o.persistence for o in tasks) / len(tasks),
        **values,
    }
