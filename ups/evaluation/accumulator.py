"""All metrics of one split in one pass, whatever the batches.

Nothing is averaged before the last batch is in: values per trajectory are kept, and what needs the
whole split (crmse, frmse) is summed in float64. A mean of batch means would weigh a short last
batch like a full one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from ups.evaluation import metrics
from ups.evaluation.metrics import Fields


@dataclass(frozen=True, eq=False)
class Metrics:
    """What a prediction of a split is worth.

    Attributes:
        nrmse: Every value of the headline metric, (trajectory, time, channel).
        per_trajectory: 'nrmse', 'rmse', 'vrmse', 'brmse' (means over predicted frames and
            channels), 'relative_l2', 'correlation_time' (means over channels) and 'max_error'
            (maximum over both), (trajectory,) each.
        reduced: Of each of those, 'mean', 'median', 'p90' and 'max' over trajectories
            ('correlation_time', where low is bad: 'mean', 'median', 'p10' and 'min'); of 'crmse',
            'frmse_low', 'frmse_mid', 'frmse_high', which have no value per trajectory, the 'mean'
            over predicted frames and channels.
        per_step: (time,) each. 'nrmse', 'vrmse', 'correlation': mean over trajectories and
            channels. 'crmse': mean over channels. 'nrmse_median', 'nrmse_p10', 'nrmse_p90': over
            trajectories, of the mean over channels.
        per_channel: For each name in `reduced`, the value of each channel: the mean over
            trajectories and frames, the maximum for 'max_error'. With fields in different units,
            only these numbers of 'rmse', 'crmse', 'frmse', 'brmse' and 'max_error' have a unit.
    """

    nrmse: Float64[Tensor, "trajectory time channel"]
    per_trajectory: dict[str, Tensor]
    reduced: dict[str, dict[str, float]]
    per_step: dict[str, Tensor]
    per_channel: dict[str, dict[str, float]]

    @property
    def num_trajectories(self) -> int:
        return len(self.nrmse)

    @property
    def headline(self) -> float:
        """nRMSE, mean over trajectories, predicted frames and channels."""
        return self.reduced["nrmse"]["mean"]

    @property
    def nrmse_curves(self) -> Float64[Tensor, "trajectory time"]:
        """nRMSE over time, mean over channels."""
        return self.nrmse.mean(-1)

    def trajectory_at(self, quantile: float) -> int:
        """The trajectory at a quantile of nRMSE: 0 the best, 0.5 the median, 1 the worst."""
        order = self.per_trajectory["nrmse"].argsort(stable=True)
        return int(order[math.floor(quantile * (len(order) - 1))])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON numbers; what is NaN or infinite becomes None, 'there is no such number'."""
        return {
            "num_trajectories": self.num_trajectories,
            "metrics": _plain(self.reduced),
            "per_step": _plain(self.per_step),
            "per_channel": _plain(self.per_channel),
            "per_trajectory": _plain(self.per_trajectory),
        }


class MetricAccumulator:
    """Takes batches of any size, then tells what the whole split is worth.

    Args:
        dt: Time between predicted frames; the unit of 'correlation_time'.
        extents: Domain length per space axis, for frmse; 1 without it.
        channels: Names of the fields; '0', '1', ... without it.
        eps: See `metrics.nrmse`.
        ragged: Trajectories have nodes, not always as many: fields are (batch, time, node,
            channel), and there is no 'brmse' and no 'frmse'.
    """

    def __init__(
        self,
        *,
        dt: float = 1.0,
        extents: Sequence[float] | None = None,
        channels: Sequence[str] | None = None,
        eps: float = metrics.EPS,
        ragged: bool = False,
    ) -> None:
        self.dt, self.channels, self.eps, self.ragged = dt, channels, eps, ragged
        self.extents = None if ragged else extents
        self._shape: tuple[int, ...] = ()
        self._values: dict[str, list[Tensor]] = {}
        self._energy: Tensor | None = None

    def update(self, prediction: Fields, reference: Fields) -> None:
        """Add some trajectories; only predicted frames, in physical units.

        Raises:
            ValueError: The two shapes differ, or differ from earlier ones beyond the batch.
        """
        self._check(tuple(prediction.shape[1:]))
        prediction, reference = prediction.double(), reference.double()
        correlations = metrics.correlation(prediction, reference)
        values = {
            "nrmse": metrics.nrmse(prediction, reference, eps=self.eps),
            "rmse": metrics.rmse(prediction, reference),
            "vrmse": metrics.vrmse(prediction, reference, eps=self.eps),
            "max_error": metrics.max_error(prediction, reference),
            "mean_error": metrics.mean_error(prediction, reference),
            "relative_l2": metrics.relative_l2(prediction, reference, eps=self.eps),
            "correlation": correlations,
            "correlation_time": metrics.time_above(correlations, dt=self.dt),
        }
        if not self.ragged:
            values["brmse"] = metrics.brmse(prediction, reference)
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.cpu())
        if self.ragged:
            return
        energy = metrics.shell_energy(prediction, reference).sum(0).cpu()
        self._energy = energy if self._energy is None else self._energy + energy

    def absorb(self, other: MetricAccumulator) -> None:
        """Add what another one has seen, after one's own."""
        for name, parts in other._values.items():
            self._values.setdefault(name, []).extend(parts)
        self._shape = self._shape or other._shape
        if other._energy is not None:
            mine = self._energy
            self._energy = other._energy if mine is None else mine + other._energy

    def result(self) -> Metrics:
        """The metrics of everything seen so far.

        Raises:
            ValueError: Nothing has been seen.
        """
        if not sum(map(len, self._values.get("nrmse", []))):
            raise ValueError("no trajectory to evaluate")
        values = {name: torch.cat(parts) for name, parts in self._values.items()}
        whole = self._whole_split(values.pop("mean_error"))
        correlations = values.pop("correlation")
        per_trajectory = {name: _per_trajectory(name, value) for name, value in values.items()}
        reduced = {name: _reduce(name, value) for name, value in per_trajectory.items()}
        curves = values["nrmse"].mean(-1)
        return Metrics(
            nrmse=values["nrmse"],
            per_trajectory=per_trajectory,
            reduced=reduced | {name: {"mean": float(v.mean())} for name, v in whole.items()},
            per_step={
                "nrmse": curves.mean(0),
                "nrmse_median": curves.quantile(0.5, 0),
                "nrmse_p10": curves.quantile(0.1, 0),
                "nrmse_p90": curves.quantile(0.9, 0),
                "vrmse": values["vrmse"].mean((0, 2)),
                "correlation": correlations.mean((0, 2)),
                "crmse": whole["crmse"].mean(-1),
            },
            per_channel={
                name: self._by_channel(name, value) for name, value in (values | whole).items()
            },
        )

    def _check(self, shape: tuple[int, ...]) -> None:
        if self.ragged:
            shape = (shape[0], shape[-1])
        if self._shape and shape != self._shape:
            raise ValueError(f"a batch of {shape} after batches of {self._shape}")
        names, extents = self.channels, self.extents
        if names is not None and len(names) != shape[-1]:
            raise ValueError(f"{len(names)} names {list(names)} for {shape[-1]} channels")
        if extents is not None and len(extents) != len(shape) - 2:
            raise ValueError(f"{len(extents)} domain lengths for {len(shape) - 2} space axes")
        self._shape = shape

    def _whole_split(self, mean_error: Tensor) -> dict[str, Tensor]:
        """Metrics that need every trajectory, (time, channel) each."""
        crmse = mean_error.square().mean(0).sqrt()
        if self._energy is None:
            return {"crmse": crmse}
        energy = self._energy / len(mean_error)
        bands = metrics.frmse_bands(energy, self._shape[1:-1], self.extents)
        return {"crmse": crmse} | {f"frmse_{band}": error for band, error in bands.items()}

    def _by_channel(self, name: str, value: Tensor) -> dict[str, float]:
        """One number per channel of a value whose last axis is the channel."""
        rows = value.flatten(0, -2)
        numbers = rows.amax(0) if name == "max_error" else rows.mean(0)
        names = self.channels or [str(index) for index in range(len(numbers))]
        return dict(zip(names, numbers.tolist(), strict=True))


def _per_trajectory(name: str, value: Tensor) -> Tensor:
    rows = value.flatten(1)
    return rows.amax(1) if name == "max_error" else rows.mean(1)


def _reduce(name: str, value: Tensor) -> dict[str, float]:
    mean, median = float(value.mean()), float(value.quantile(0.5))
    if name == "correlation_time":
        low, least = float(value.quantile(0.1)), float(value.min())
        return {"mean": mean, "median": median, "p10": low, "min": least}
    high, most = float(value.quantile(0.9)), float(value.max())
    return {"mean": mean, "median": median, "p90": high, "max": most}


def _plain(value: Any) -> Any:
    """Tensors and floats as JSON numbers, None where they are not finite."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value if math.isfinite(value) else None
