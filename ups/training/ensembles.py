"""Rollouts with a residual model, and how good they are on the validation split."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ups.evaluation.ensemble import (
    crps_ensemble,
    ensemble_variance,
    ratio_of,
    squared_error_of_mean,
)
from ups.evaluation.metrics import nrmse
from ups.evaluation.rollout import horizon_for
from ups.models.corrector import ResidualModel
from ups.models.flow import seeded
from ups.models.layout import Given
from ups.models.surrogate import padded_history
from ups.training.tasks import LatentTask

GAINS = (0.0, 0.25, 0.5, 0.75, 1.0)
_LARGEST = 1e30
_SPREADS = (0.25, 4.0)
_SAME = 0.02
_STREAM = 0x656E73


@torch.no_grad()
def roll(
    operator: nn.Module,
    residual: ResidualModel | None,
    past: Float[Tensor, "batch frame tokens dim"],
    given: Given,
    task: str,
    steps: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch time tokens dim"]:
    """Step `steps` times; `ResidualModel.correction` is added to each step."""
    past, states = padded_history(past, int(getattr(operator, "history", 1))), []
    for _ in range(steps):
        tokens = operator(past, given, task)
        if residual is not None:
            tokens = tokens + residual.correction(tokens, past[:, -1], given, task, generator)
        states.append(tokens)
        past = torch.cat([past[:, 1:], tokens[:, None]], 1)
    return torch.stack(states, 1)


@dataclass(frozen=True)
class EnsembleScores:
    """Of decoded rollouts, mean over trajectories, frames, points and fields.

    Attributes:
        crps: Fair CRPS over the standard deviation of the field.
        nrmse: Of the ensemble mean.
        spread_skill: Mean over fields.
    """

    crps: float
    nrmse: float
    spread_skill: float


@dataclass
class _Truth:
    """What does not change between validations of one task."""

    rows: npt.NDArray[np.int64]
    frames: list[int]
    past: Tensor
    given: Given
    reference: list[Tensor]
    unit: Float[Tensor, " channel"]
    mae: float
    nrmse: float


@dataclass
class EnsembleValidation:
    """Decoded ensemble rollouts on the validation split, against the operator alone.

    The same noise is used every time. Errors are in units of each field's standard deviation over
    the frames that are predicted, so that fields and tasks can be averaged.

    Args:
        history: True frames given.
        members: Of each ensemble.
        limit: Trajectories, the first ones of the split.
        horizon: Steps at most; None is to the end.
    """

    operator: nn.Module
    history: int
    members: int
    limit: int
    horizon: int | None
    seed: int
    _truths: dict[str, _Truth] = field(default_factory=dict, init=False)

    def calibrated(self, residual: ResidualModel, task: LatentTask) -> dict[str, float]:
        """Choose the task's `gain` and `spread`, and give the scores with them.

        The gain is that of the lowest point-forecast nRMSE. The spread is 1, or what would have
        made spread and skill equal if that lowers the CRPS.

        Returns:
            crps, mae_deterministic, nrmse, nrmse_deterministic, nrmse_point, spread_skill, gain,
            spread.
        """
        truth, port = self._truth(task), residual.port(task.name)
        errors = {gain: self._point(residual, task, gain) for gain in GAINS[1:]}
        errors[0.0] = truth.nrmse
        gain = min(GAINS, key=lambda value: errors[value])
        spread, scores = 1.0, self.scores(residual, task, 1.0)
        other = 1 / scores.spread_skill if scores.spread_skill > 0 else _SPREADS[1]
        other = min(max(other, _SPREADS[0]), _SPREADS[1])
        if abs(other - 1) > _SAME:
            found = self.scores(residual, task, other)
            if found.crps < scores.crps:
                spread, scores = other, found
        port.gain.fill_(gain)
        port.spread.fill_(spread)
        return {
            "crps": scores.crps,
            "mae_deterministic": truth.mae,
            "nrmse": scores.nrmse,
            "nrmse_deterministic": truth.nrmse,
            "nrmse_point": errors[gain],
            "spread_skill": scores.spread_skill,
            "gain": gain,
            "spread": spread,
        }

    @torch.no_grad()
    def scores(self, residual: ResidualModel, task: LatentTask, spread: float) -> EnsembleScores:
        """Scores of an ensemble whose members differ by their noise."""
        truth, number = self._truth(task), self.members
        residual.port(task.name).spread.fill_(spread)
        tokens = roll(
            self.operator, residual, truth.past.repeat_interleave(number, 0),
            truth.given.repeated(number), task.name, len(truth.frames),
            seeded(self.seed, _STREAM),
        ).unflatten(0, (-1, number))  # fmt: skip
        parts = []
        for row, members, reference in zip(truth.rows, tokens, truth.reference, strict=True):
            rows = np.repeat(row, number)
            fields = torch.stack(task.decode(members, "valid", rows, truth.frames)) / truth.unit
            parts.append(_scores(fields, reference / truth.unit))
        crps, variance, square, error = (torch.stack(part) for part in zip(*parts, strict=True))
        pairs = zip(variance.mean(0).tolist(), square.mean(0).tolist(), strict=True)
        ratios = [ratio_of(one, two, number) for one, two in pairs]
        return EnsembleScores(
            _bounded(crps.mean()), _bounded(error.mean()), sum(ratios) / len(ratios)
        )

    def _point(self, residual: ResidualModel, task: LatentTask, gain: float) -> float:
        """nRMSE of the point forecast."""
        truth = self._truth(task)
        residual.port(task.name).gain.fill_(gain)
        steps = len(truth.frames)
        tokens = roll(self.operator, residual, truth.past, truth.given, task.name, steps)
        decoded = task.decode(tokens, "valid", truth.rows, truth.frames)
        return _nrmse(decoded, truth.reference)

    def _truth(self, task: LatentTask) -> _Truth:
        """The truth and the operator's own forecast, computed once."""
        if task.name in self._truths:
            return self._truths[task.name]
        rows = np.arange(min(self.limit, task.num_trajectories("valid")))
        horizon = horizon_for(task.num_frames, history=self.history, stride=task.stride, steps=None)
        frames = list(range(task.num_frames)[horizon.frames])[: self.horizon]
        past = task.windows("valid", rows, np.zeros_like(rows), self.history)
        given = task.given("valid", rows)
        reference = task.reference("valid", rows, frames)
        tokens = roll(self.operator, None, past, given, task.name, len(frames))
        decoded = task.decode(tokens, "valid", rows, frames)
        unit = torch.cat([one.flatten(0, 1) for one in reference]).double().std(0)
        unit = unit.clamp_min(torch.finfo(torch.float32).tiny)
        errors = [((a - b).abs() / unit).mean() for a, b in zip(decoded, reference, strict=True)]
        self._truths[task.name] = _Truth(
            rows, frames, past, given, reference, unit,
            mae=_bounded(torch.stack(errors).mean()), nrmse=_nrmse(decoded, reference),
        )  # fmt: skip
        return self._truths[task.name]


def _scores(
    members: Float[Tensor, "member time point channel"],
    reference: Float[Tensor, "time point channel"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """CRPS; variance and squared error of the mean for each channel; nRMSE of the mean."""
    return (
        crps_ensemble(members, reference).mean(),
        ensemble_variance(members).mean((0, 1)),
        squared_error_of_mean(members, reference).mean((0, 1)),
        nrmse(members.mean(0)[None], reference[None]).mean(),
    )


def _nrmse(decoded: list[Tensor], reference: list[Tensor]) -> float:
    pairs = zip(decoded, reference, strict=True)
    return _bounded(torch.stack([nrmse(a[None], b[None]).mean() for a, b in pairs]).mean())


def _bounded(value: Tensor) -> float:
    """A forecast that is no longer finite is very bad."""
    return float(value.nan_to_num(nan=_LARGEST, posinf=_LARGEST).clamp_max(_LARGEST))


def averaged(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """`valid_<metric>`, the mean over tasks, and `<task>/<metric>` where there are several."""
    tasks = list(found.values())
    means = {f"valid_{key}": math.fsum(one[key] for one in tasks) / len(tasks) for key in tasks[0]}
    return means | (dict(_named(found)) if len(found) > 1 else {})


def _named(found: dict[str, dict[str, float]]) -> Iterator[tuple[str, float]]:
    for task, values in found.items():
        for key, value in values.items():
            yield f"{task}/{key}", value
