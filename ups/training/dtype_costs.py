"""What rounding tokens to each number type costs, in decoded fields and in bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ups.cache.dtypes import TORCH, stored_dtype
from ups.cache.format import Manifest
from ups.codec.coded import CodedStore
from ups.evaluation.metrics import max_error, nrmse
from ups.training.session import TaskData

_TRAJECTORIES, _FRAMES = 4, 32


@dataclass(frozen=True)
class DtypeCost:
    """One number type, against tokens in float32.

    Attributes:
        size_bytes: Of the whole cache.
        nrmse: Of fields decoded from rounded tokens, the mean over trajectories, frames, fields.
        largest: Largest absolute error of each field, in its unit.
    """

    dtype: str
    size_bytes: int
    nrmse: float
    largest: dict[str, float]


@torch.no_grad()
def dtype_costs(task: TaskData, coded: CodedStore, manifest: Manifest) -> tuple[DtypeCost, ...]:
    """What each number type costs on some frames of a few trajectories of the validation split.

    The training split stands in for one that is empty.

    Args:
        manifest: Of the cache, for its size.
    """
    split = next(name for name in ("valid", "train") if len(task.store.split(name)))
    rows = task.store.split(split)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, _TRAJECTORIES).astype(int))]
    step = max(1, task.store.num_frames // _FRAMES)
    frames = range(0, task.store.num_frames, step)
    exact = coded.encode(rows, frames).float()
    truth = coded.decode(exact, rows, frames)
    unit = manifest.size_bytes / stored_dtype(manifest.identity.dtype).itemsize
    return tuple(
        _cost(name, coded.decode(exact.to(kind).float(), rows, frames), truth,
              round(unit * stored_dtype(name).itemsize), task.card.field_names)
        for name, kind in TORCH.items()
    )  # fmt: skip


def _cost(
    name: str, found: list[Tensor], truth: list[Tensor], size: int, fields: tuple[str, ...]
) -> DtypeCost:
    pairs = [(one[None].cpu(), true[None].cpu()) for one, true in zip(found, truth, strict=True)]
    errors = torch.stack([nrmse(one, true).mean() for one, true in pairs])
    largest = torch.stack([max_error(one, true).amax((0, 1)) for one, true in pairs]).amax(0)
    return DtypeCost(
        name, size, float(errors.mean()), dict(zip(fields, largest.tolist(), strict=True))
    )
