"""Errors reduced as PDEBench reduces them, to stand beside its published tables.

PDEBench takes the test split in batches, reduces each of them, adds up, and divides by the index
of the last batch in place of their number N: its figures are N / (N - 1) too large. What is no
mean over trajectories (the maximum, and the roots of batch means in cRMSE and fRMSE) depends on
how large its batches are.

Source:
    Takamoto et al. 2022, arXiv:2210.07182; batch sizes from the settings of its baselines.
    Written from the definitions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import nan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ups.data.store import TrajectoryStore
from ups.evaluation.metrics import boundary_rms, error_shells, frmse_bands
from ups.evaluation.observers import Observer
from ups.evaluation.report import Section
from ups.evaluation.rollout import Batch
from ups.evaluation.unseen import Store
from ups.registry import DatasetCard

BATCH_SIZES = {
    "advection1d": 50,
    "burgers1d": 50,
    "reaction_diffusion1d": 50,
    "diffusion_sorption1d": 50,
    "compressible_ns1d": 100,
    "darcy2d": 50,
    "reaction_diffusion2d": 5,
    "shallow_water2d": 5,
    "compressible_ns2d": 20,
    "compressible_ns3d": 5,
}
"""Trajectories in a batch of PDEBench's baselines."""


def pdebench_observers(card: DatasetCard, store: Store, members: np.ndarray) -> list[Observer]:
    """One observer for the tasks of PDEBench's tables, none for others."""
    if card.key not in BATCH_SIZES or not isinstance(store, TrajectoryStore):
        return []
    return [PdebenchCompatObserver(members, BATCH_SIZES[card.key])]


@dataclass
class _Sums:
    """Of one of PDEBench's batches: sums over its trajectories, (time, channel) each.

    Attributes:
        largest: The maximum, not a sum.
        energy: (time, shell, channel).
    """

    count: int
    rmse: Tensor
    nrmse: Tensor
    mean_square: Tensor
    boundary: Tensor
    energy: Tensor
    largest: Tensor

    @classmethod
    def of(cls, prediction: Tensor, reference: Tensor) -> _Sums:
        error = prediction - reference
        rms, size = _rms(error), _rms(reference)
        return cls(
            count=len(error),
            rmse=rms.sum(0),
            nrmse=(rms / size).sum(0),
            mean_square=error.flatten(2, -2).mean(2, dtype=torch.float64).square().sum(0),
            boundary=boundary_rms(error).sum(0, dtype=torch.float64),
            energy=error_shells(error).sum(0, dtype=torch.float64),
            largest=error.abs().flatten(2, -2).amax(2).amax(0).double(),
        )

    def added(self, other: _Sums) -> _Sums:
        sums = {
            one.name: getattr(self, one.name) + getattr(other, one.name)
            for one in fields(self)
            if one.name != "largest"
        }
        return _Sums(**sums, largest=torch.maximum(self.largest, other.largest))

    def metrics(self, space: tuple[int, ...]) -> dict[str, float]:
        """Those of the batch, mean over frames and channels."""
        bands = frmse_bands(self.energy / self.count, space)
        found = {
            "RMSE": self.rmse / self.count,
            "nRMSE": self.nrmse / self.count,
            "CSV": (self.mean_square / self.count).sqrt(),
            "Max": self.largest,
            "BD": self.boundary / self.count,
            **{f"F_{name}": error for name, error in bands.items()},
        }
        return {name: float(value.mean()) for name, value in found.items()}


def _rms(values: Tensor) -> Tensor:
    return values.square().flatten(2, -2).mean(2, dtype=torch.float64).sqrt()


class PdebenchCompatObserver:
    """Cuts the split into PDEBench's batches, however trajectories arrive.

    Args:
        members: The trajectories of the split, ascending: PDEBench takes them in their order.
        batch_size: PDEBench's for this task.

    Content:
        batch_size, num_batches, divisor (num_batches - 1), metrics (as PDEBench prints them:
        RMSE, nRMSE, CSV = cRMSE, Max, BD = bRMSE, F_low, F_mid, F_high; None with one batch, where
        PDEBench divides by zero), mean (the same divided by num_batches). The domain has length 1
        for fRMSE, as there.
    """

    def __init__(self, members: np.ndarray, batch_size: int) -> None:
        self.members, self.batch_size = members, batch_size
        self._batches: dict[int, _Sums] = {}
        self._space: tuple[int, ...] = ()

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        self._space = tuple(batch.prediction.shape[2:-1])
        places = np.searchsorted(self.members, batch.trajectories) // self.batch_size
        for place in np.unique(places).tolist():
            rows = np.flatnonzero(places == place)
            chosen = (
                slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) == np.ptp(rows) + 1 else rows
            )
            self._add(place, _Sums.of(batch.prediction[chosen], batch.reference[chosen]))

    def absorb(self, other: PdebenchCompatObserver) -> None:
        self._space = self._space or other._space
        for place, sums in other._batches.items():
            self._add(place, sums)

    def _add(self, place: int, sums: _Sums) -> None:
        mine = self._batches.get(place)
        self._batches[place] = sums if mine is None else mine.added(sums)

    def result(self) -> Section:
        each = [one.metrics(self._space) for one in self._batches.values()]
        total = {name: sum(one[name] for one in each) for name in each[0]}
        count = len(each)
        content: dict[str, Any] = {
            "batch_size": self.batch_size,
            "num_batches": count,
            "divisor": count - 1,
            "metrics": {k: v / (count - 1) if count > 1 else nan for k, v in total.items()},
            "mean": {name: value / count for name, value in total.items()},
        }
        return Section(name="pdebench_compat", content=content)
