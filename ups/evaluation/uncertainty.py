"""How good an ensemble is as a probability forecast, on decoded fields in physical units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ups import runs
from ups.evaluation.accumulator import MetricAccumulator
from ups.evaluation.calibration import calibration_content, fit_spread, spread_gate
from ups.evaluation.context import Context
from ups.evaluation.ensemble import (
    LEVELS,
    calibration_error,
    coverage,
    crps_ensemble,
    ensemble_variance,
    rank_histogram,
    ratio_of,
    reliability,
    squared_error_of_mean,
    widened,
)
from ups.evaluation.forecasts import Ensemble, Forecast, ensemble_of, forecasts
from ups.evaluation.gates import Gate
from ups.evaluation.intervals import bootstrap, paired_difference
from ups.evaluation.report import Row, Section

INTERVALS = (0.5, 0.9)
"""Probabilities of the central intervals whose coverage is given."""
_KEPT = ("crps", "mae_deterministic", "variance", "squared_error")


class EnsembleSums:
    """Takes forecasts one by one, then tells what the ensemble is worth.

    A trajectory counts alike however many nodes it has. CRPS and MAE over all fields are in units
    of each field's standard deviation.

    Args:
        names: Of the fields.
        unit: Standard deviation of each field.
        factor: On the deviation of members from their mean, for each field.
    """

    def __init__(
        self,
        names: Sequence[str],
        unit: Float64[Tensor, " channel"],
        factor: Float64[Tensor, " channel"],
    ) -> None:
        self.names, self.unit, self.factor = tuple(names), unit, factor
        self._values: dict[str, list[Tensor]] = {name: [] for name in _KEPT}
        self._histogram: Tensor | None = None
        self._members = 0

    def update(self, forecast: Forecast) -> None:
        """Add one trajectory."""
        found = [self._scored(part.members, part.point, part.reference) for part in forecast.parts]
        for name, values in self._values.items():
            values.append(torch.cat([scores[name] for scores, _ in found]))
        histogram = torch.cat([ranks for _, ranks in found])
        self._histogram = histogram if self._histogram is None else self._histogram + histogram
        self._members = len(forecast.parts[0].members)

    def _scored(
        self,
        members: Float[Tensor, "member time *space channel"],
        point: Float[Tensor, "time *space channel"],
        reference: Float[Tensor, "time *space channel"],
    ) -> tuple[dict[str, Tensor], Float64[Tensor, "time channel rank"]]:
        """Means over space, (time, channel) each, and ranks."""
        if (self.factor != 1).any():
            members = widened(members, self.factor.to(members))
        values = {
            "crps": crps_ensemble(members, reference),
            "mae_deterministic": (point.double() - reference.double()).abs(),
            "variance": ensemble_variance(members),
            "squared_error": squared_error_of_mean(members, reference),
        }
        scores = {name: value.flatten(1, -2).mean(1).cpu() for name, value in values.items()}
        ranks = rank_histogram(
            members.flatten(2, -2).movedim(-1, 2), reference.flatten(1, -2).movedim(-1, 1)
        )
        return scores, ranks.cpu()

    def content(self) -> dict[str, Any]:
        """`all` and `fields` (name -> the same), plain JSON values.

        Each holds crps, mae_deterministic, spread_skill, coverage_50, coverage_90,
        calibration_error, reliability (nominal, observed), rank_histogram (shares) and per_step
        (of the numbers, one value per predicted frame); `all` also per_step.rank_histogram and
        intervals (95 % bootstrap over trajectories; crps_minus_mae is paired).
        """
        assert self._histogram is not None
        values = {name: torch.stack(parts) for name, parts in self._values.items()}
        histogram = self._histogram / len(values["crps"])
        square = self.unit.square()
        units = {"crps": self.unit, "mae_deterministic": self.unit}
        scaled = {name: value / units.get(name, square) for name, value in values.items()}
        whole = self._summary(scaled, histogram)
        whole["per_step"]["rank_histogram"] = histogram.mean(1).tolist()
        whole["intervals"] = _intervals(scaled)
        fields = {
            name: self._summary(
                {key: value[..., [c]] for key, value in values.items()}, histogram[:, [c]]
            )
            for c, name in enumerate(self.names)
        }
        return {"all": whole, "fields": fields}

    def _summary(
        self,
        values: dict[str, Float64[Tensor, "trajectory time channel"]],
        histogram: Float64[Tensor, "time channel rank"],
    ) -> dict[str, Any]:
        steps = {name: value.mean((0, 2)) for name, value in values.items()}
        every = histogram.mean(1)
        moments = zip(steps["variance"].tolist(), steps["squared_error"].tolist(), strict=True)
        over_time = {
            "crps": steps["crps"].tolist(),
            "mae_deterministic": steps["mae_deterministic"].tolist(),
            "spread_skill": [ratio_of(one, two, self._members) for one, two in moments],
            **_of_ranks(every),
        }
        together = every.mean(0)
        means = {name: value.mean().item() for name, value in steps.items()}
        return {
            "crps": means["crps"],
            "mae_deterministic": means["mae_deterministic"],
            "spread_skill": ratio_of(means["variance"], means["squared_error"], self._members),
            **_of_ranks(together),
            "reliability": {"nominal": list(LEVELS), "observed": reliability(together).tolist()},
            "rank_histogram": together.tolist(),
            "per_step": over_time,
        }


def _of_ranks(histogram: Float64[Tensor, "*group rank"]) -> dict[str, Any]:
    found = {f"coverage_{level * 100:.0f}": coverage(histogram, level) for level in INTERVALS}
    found["calibration_error"] = calibration_error(histogram)
    return {name: value.tolist() for name, value in found.items()}


def _intervals(scaled: dict[str, Tensor]) -> dict[str, Any]:
    """How sure the means are, over trajectories."""
    crps, mae = (scaled[name].mean((1, 2)).numpy() for name in _KEPT[:2])
    found: dict[str, Any] = {
        name: list(ends)
        for name, values in (("crps", crps), ("mae_deterministic", mae))
        if (ends := bootstrap(values).get("mean"))
    }
    if len(crps) > 1 and np.isfinite(crps - mae).all():
        found["crps_minus_mae"] = list(paired_difference(crps, mae))
    return found


def uncertainty_section(
    context: Context,
    *,
    members: int,
    partners: Sequence[Context] = (),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Section:
    """Judge an ensemble as a probability forecast, as it is and with its spread calibrated.

    The spread is fitted on the validation split (`ups.evaluation.calibration`); the split that is
    judged is seen once, afterwards. Adds the row of the ensemble mean, which calibration does not
    change, and the gate `spread_skill`.

    Args:
        members: Drawn from the residual model of each run; 0 takes each run's point forecast.
        partners: Other runs on the same data under the same protocol: seeds.
        progress: Called with (trajectories done, trajectories in all).

    Content:
        members, drawn_per_run, source ('residual model', 'seeds' or both), runs, seed,
        num_trajectories, times; calibration (split, num_trajectories, factors and spread_skill
        before, by field); before, after: see `EnsembleSums.content`.

    Raises:
        CheckpointError, UsageError, DataError: See `ensemble_of` and `validation_of`.
    """
    ensemble = ensemble_of(context, members, partners, seed)
    meta = context.store.metadata
    calibration = fit_spread(ensemble)
    unit = torch.from_numpy(np.asarray(context.store.statistics["std"], dtype=np.float64))
    unit = torch.where(unit > 0, unit, torch.ones_like(unit))
    before = EnsembleSums(meta.fields, unit, torch.ones_like(unit))
    after = EnsembleSums(meta.fields, unit, calibration.factors)
    mean = MetricAccumulator(
        dt=context.dt,
        extents=[high - low for low, high in meta.bounds],
        channels=meta.fields,
        ragged=not context.is_grid,
    )
    seconds, rows = 0.0, context.members
    for done, forecast in enumerate(forecasts(ensemble, rows), 1):
        before.update(forecast)
        after.update(forecast)
        mean.update(
            torch.cat([part.members.mean(0) for part in forecast.parts])[None],
            torch.cat([part.reference for part in forecast.parts])[None],
        )
        seconds += forecast.seconds
        if progress:
            progress(done, len(rows))
    content = {
        **_description(ensemble),
        "num_trajectories": len(rows),
        "times": np.asarray(context.times).tolist(),
        "calibration": calibration_content(calibration, meta.fields),
        "before": before.content(),
        "after": after.content(),
    }
    row = Row.of(
        f"ensemble mean ({ensemble.size} members)", "model", mean.result().to_dict(),
        seconds_per_step=seconds / (len(rows) * context.horizon.steps),
    )  # fmt: skip
    return Section(
        name="uncertainty", content=content, gates=(_gate(content["after"]),), rows=(row,)
    )


def _description(ensemble: Ensemble) -> dict[str, Any]:
    return {
        "members": ensemble.size,
        "drawn_per_run": ensemble.drawn,
        "source": ensemble.source,
        "runs": [runs.run_id(one.run) for one in ensemble.contexts],
        "seed": ensemble.seed,
    }


def _gate(after: dict[str, Any]) -> Gate:
    ratios = {name: scores["spread_skill"] for name, scores in after["fields"].items()}
    return spread_gate(
        {name: ratio if math.isfinite(ratio) else None for name, ratio in ratios.items()}
    )
