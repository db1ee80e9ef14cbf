"""The spread of an ensemble, fitted on the validation split and nowhere else.

What is fitted is one factor for each field on the deviation of members from their mean, decoded
and in physical units. The residual model has a `spread` of its own, which its stage has chosen; it
acts inside of every step, so that another value would need other rollouts, and ensembles of seeds
have none. The factor serves both, leaves the ensemble mean as it is, and is known in closed form:
spread over skill is proportional to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from ups.codec.coded import coded
from ups.errors import DataError, UsageError
from ups.evaluation.context import Context
from ups.evaluation.ensemble import ensemble_variance, ratio_of, squared_error_of_mean
from ups.evaluation.forecasts import Ensemble, forecasts
from ups.evaluation.gates import Gate
from ups.evaluation.rollout import Horizon, horizon_for
from ups.evaluation.unseen import open_store_of

TRAJECTORIES = 64
"""Of the validation split, at most, evenly spaced."""
FACTORS = (1 / 8, 8.0)
CALIBRATED = (0.8, 1.25)
"""Spread over skill of an ensemble that knows how much it errs."""


@dataclass(frozen=True)
class Calibration:
    """What the validation split says of the spread.

    Attributes:
        factors: For each field, on the deviation of members from their mean.
        spread_skill: For each field, before.
    """

    factors: Float64[Tensor, " channel"]
    spread_skill: tuple[float, ...]
    num_trajectories: int


def validation_of(context: Context) -> Context:
    """The validation split of the run's own data, under the same protocol.

    Raises:
        UsageError: It is what is judged, so that nothing may be fitted on it.
        DataError: There is none.
    """
    known, meta = context.identity, context.store.metadata
    is_own = (meta.data_sha256, meta.split_hash) == (known.data_sha256, known.split_hash)
    if is_own and context.settings.split == "valid":
        raise UsageError(
            "the validation split is judged: there is nothing left to calibrate on",
            hint="ups eval --split test",
        )
    found = replace(context, settings=context.settings.model_copy(update={"split": "valid"}))
    if not is_own:
        found = replace(found, coded=coded(
            open_store_of(known), context.coded.codec, velocity=context.card.discretisation.velocity
        ))  # fmt: skip
        if not context.is_steady:
            found = replace(found, horizon=_fitting(context, found.store.num_frames))
    if not len(found.members):
        raise DataError(
            f"{found.store.name}: has no validation trajectories to calibrate on",
            hint=f"convert it again with a validation split: ups data convert {meta.dataset}",
        )
    return found


def _fitting(context: Context, num_frames: int) -> Horizon:
    """The horizon of a context, no longer than other trajectories are."""
    history, stride = context.horizon.history, context.horizon.stride
    longest = horizon_for(num_frames, history=history, stride=stride, steps=None)
    return replace(longest, steps=min(longest.steps, context.horizon.steps))


def fit_spread(ensemble: Ensemble, limit: int = TRAJECTORIES) -> Calibration:
    """The factors that make spread equal skill on the validation split.

    Factors stay within 1/8 and 8, and are 1 where spread or error are zero or not finite.

    Raises:
        UsageError, DataError: See `validation_of`.
    """
    held = replace(ensemble, contexts=tuple(validation_of(one) for one in ensemble.contexts))
    first = held.contexts[0]
    rows = first.some_of("valid", limit)
    moments = []
    for forecast in forecasts(held, rows):
        parts = [
            torch.stack([
                ensemble_variance(part.members).flatten(1, -2).mean(1),
                squared_error_of_mean(part.members, part.reference).flatten(1, -2).mean(1),
            ])
            for part in forecast.parts
        ]  # fmt: skip
        moments.append(torch.cat(parts, 1).mean(1).cpu())
    means = torch.stack(moments).mean(0).T.tolist()
    ratios = tuple(ratio_of(variance, square, ensemble.size) for variance, square in means)
    factors = torch.tensor([_factor(ratio) for ratio in ratios], dtype=torch.float64)
    return Calibration(factors, ratios, len(rows))


def _factor(ratio: float) -> float:
    if not math.isfinite(ratio) or ratio <= 0:
        return 1.0
    return min(max(1 / ratio, FACTORS[0]), FACTORS[1])


def spread_gate(ratios: Mapping[str, float | None]) -> Gate:
    """Spread over skill of every field within `CALIBRATED`, judged by the worst one."""
    low, high = CALIBRATED
    name, worst = max(ratios.items(), key=lambda pair: _distance(pair[1]))
    shown = "not finite" if worst is None else f"{worst:.3g}"
    is_high = worst is not None and worst > 1
    return Gate(
        name="spread_skill",
        kind="calibration",
        passed=worst is not None and low <= worst <= high,
        detail=f"spread over skill of {name} is {shown} after calibration on validation, "
        f"the gate is {low:g} to {high:g}",
        value=worst,
        limit=high if is_high else low,
    )


def _distance(ratio: float | None) -> float:
    """From 1, the same for twice and half."""
    return abs(math.log(ratio)) if ratio else math.inf


def calibration_content(calibration: Calibration, names: Sequence[str]) -> dict[str, Any]:
    """Plain JSON values."""
    return {
        "split": "valid",
        "num_trajectories": calibration.num_trajectories,
        "factors": dict(zip(names, calibration.factors.tolist(), strict=True)),
        "spread_skill": dict(zip(names, calibration.spread_skill, strict=True)),
    }
