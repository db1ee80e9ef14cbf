"""Whether predictions obey the physics of their dataset as well as the data themselves do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ups.data.points import PointStore
from ups.data.store import TrajectoryStore
from ups.evaluation.context import Context
from ups.evaluation.gates import Gate
from ups.evaluation.observers import Observer
from ups.evaluation.pdebench_compat import pdebench_observers
from ups.evaluation.physics_energy import EnergyObserver, energies_of
from ups.evaluation.physics_grid import (
    Boundary,
    Divergence,
    EquationResidual,
    few_of,
    grid_of,
)
from ups.evaluation.physics_measures import Measure, Positivity, conserved_by
from ups.evaluation.physics_points import (
    CellDivergence,
    CellWeights,
    has_simplices,
    node_boundary,
)
from ups.evaluation.report import Section
from ups.evaluation.rollout import Batch, Horizon
from ups.evaluation.spectra import SpectraObserver
from ups.evaluation.unseen import Store
from ups.physics.boundary import conditions_of, has_conditions
from ups.physics.divergence import vectors_of
from ups.physics.norms import ROUNDING
from ups.physics.residuals import residual_for
from ups.physics.table import why_no_residual
from ups.registry import DatasetCard

MARGIN = 2.0
"""How many times as much as the worst true trajectory predictions may miss a requirement."""

MEANINGFUL = 0.5
"""A requirement that the truth itself misses by more than this is not asked of predictions."""


def physics_observers(context: Context) -> list[Observer]:
    """What looks at the physics of a context's rollouts: requirements, energies, spectra, and
    PDEBench's own numbers for PDEBench's data."""
    card, store, horizon = context.card, context.store, context.horizon
    measures, absent = measures_of(card, store, horizon, context.members)
    times = context.times.tolist()
    found: list[Observer] = [PhysicsObserver(measures, absent, times)]
    if not context.is_steady:
        found.append(EnergyObserver(energies_of(card, store), times))
    if isinstance(store, TrajectoryStore):
        found.append(SpectraObserver.of(store, times))
    return [*found, *pdebench_observers(card, store, context.members)]


def measures_of(
    card: DatasetCard, store: Store, horizon: Horizon, members: np.ndarray
) -> tuple[list[Measure], dict[str, str]]:
    """The requirements that can be judged, and why each of the others cannot.

    Args:
        horizon: With history 0 for a steady problem.
        members: Trajectories that will be looked at, rows of the store.
    """
    steady = horizon.history == 0
    if isinstance(store, TrajectoryStore):
        found = _on_grid(card, store, horizon, members)
    else:
        found = _on_points(card, store)
    if not steady:
        weighted = isinstance(store, PointStore) and has_simplices(store)
        weights = CellWeights(store) if weighted and isinstance(store, PointStore) else None
        found = [*conserved_by(card, store.metadata.periodic, weights=weights), *found]
    positive = tuple(spec.positive for spec in card.fields)
    if any(positive):
        found.append(Positivity(positive))
    return found, _absent(card, {one.name for one in found}, steady)


def _on_grid(
    card: DatasetCard, store: TrajectoryStore, horizon: Horizon, members: np.ndarray
) -> list[Measure]:
    grid = grid_of(store)
    conditions, vectors = conditions_of(card, grid), vectors_of(card)
    found: list[Measure] = []
    if has_conditions(conditions, grid):
        found.append(Boundary(grid, conditions))
    if _is_incompressible(card) and vectors:
        found.append(Divergence(grid, vectors))
    residual = residual_for(card)
    if residual is not None:
        dt = None if store.metadata.dt is None else store.metadata.dt * horizon.stride
        chosen = few_of(members, horizon.steps, store)
        found.append(EquationResidual(residual, grid, store, dt, chosen))
    return found


def _on_points(card: DatasetCard, store: PointStore) -> list[Measure]:
    walls, vectors = node_boundary(card, store), vectors_of(card)
    found: list[Measure] = [] if walls is None else [walls]
    if _is_incompressible(card) and vectors and has_simplices(store):
        found.append(CellDivergence(store, vectors))
    return found


def _is_incompressible(card: DatasetCard) -> bool:
    return "div v = 0" in card.pde.equation or "div u = 0" in card.pde.equation


def _absent(card: DatasetCard, found: set[str], steady: bool) -> dict[str, str]:
    """Why requirements are not judged."""
    conserved = any(name.startswith("conservation") for name in found)
    reasons = {
        "conservation": None if conserved else
        "a steady problem" if steady else "the card names nothing that is conserved",
        "boundary": "no boundary value is known",
        "divergence": "the card states no incompressible flow",
        "positivity": "no field is positive by nature",
        "pde_residual": why_no_residual(card),
    }  # fmt: skip
    return {name: why for name, why in reasons.items() if name not in found and why}


class PhysicsObserver:
    """Judges predictions and truth alike by the same measures; the truth sets the tolerance.

    The number of a measure is the RMS over predicted frames, mean over trajectories. What is
    tolerated is `MARGIN` times the number of the worst true trajectory plus the measure's
    allowance, so the truth itself always passes, and predictions within what true trajectories
    show do too. A requirement is absent where the truth's own number is above `MEANINGFUL`: an
    equation that stored frames are too far apart for, for example.

    Args:
        absent: Requirements that cannot be judged, and why.
        times: Of the predicted frames.

    Content:
        Of each requirement: what, prediction, reference, ratio (None where the reference is
        rounding), tolerance, allowance, margin, num_trajectories, spread ('prediction' and
        'reference': median, p90, max over trajectories), times and per_step ('prediction' and
        'reference': RMS over trajectories in each frame); or only absent: why it is not judged.
    """

    def __init__(
        self, measures: Sequence[Measure], absent: Mapping[str, str], times: Sequence[float]
    ) -> None:
        self.measures, self.absent, self.times = list(measures), dict(absent), list(times)
        self._seen: dict[str, list[tuple[Tensor, Tensor]]] = {one.name: [] for one in measures}

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        for measure in self.measures:
            self._seen[measure.name].append(measure(batch))

    def absorb(self, other: PhysicsObserver) -> None:
        for name, parts in other._seen.items():
            self._seen[name] += parts

    def result(self) -> Section:
        content: dict[str, Any] = {}
        gates = []
        for measure in self.measures:
            entry = self._entry(measure)
            content[measure.name] = entry
            if "absent" not in entry:
                gates.append(_gate(measure, entry))
        content |= {name: {"absent": why} for name, why in self.absent.items()}
        return Section(name="physics", content=content, gates=tuple(gates))

    def _entry(self, measure: Measure) -> dict[str, Any]:
        found = zip(*self._seen[measure.name], strict=True)
        prediction, truth = (torch.cat(parts) for parts in found)
        ours, true = (each.square().mean(1).sqrt() for each in (prediction, truth))
        own = float(true.mean())
        if not own <= MEANINGFUL:
            return {"absent": f"the truth itself misses it by {own:.2g}: stored frames do not "
                              "resolve it, or the data do not obey it"}  # fmt: skip
        value, steps = float(ours.mean()), truth.shape[1]
        return {
            "what": measure.what,
            "prediction": value,
            "reference": own,
            "ratio": value / own if own > ROUNDING else None,
            "tolerance": MARGIN * float(true.max()) + measure.allowance,
            "allowance": measure.allowance,
            "margin": MARGIN,
            "num_trajectories": len(ours),
            "spread": {"prediction": _spread(ours), "reference": _spread(true)},
            "times": self.times[:steps],
            "per_step": {
                "prediction": prediction.square().mean(0).sqrt().tolist(),
                "reference": truth.square().mean(0).sqrt().tolist(),
            },
        }


def _spread(values: Tensor) -> dict[str, float]:
    return {
        "median": float(values.quantile(0.5)),
        "p90": float(values.quantile(0.9)),
        "max": float(values.max()),
    }


def _gate(measure: Measure, entry: Mapping[str, Any]) -> Gate:
    value, limit = entry["prediction"], entry["tolerance"]
    finite = math.isfinite(value)
    passed = finite and value <= limit
    shown = f"{value:.3g}" if finite else "not finite"
    return Gate(
        name=measure.name,
        kind="physics",
        passed=passed,
        detail=f"{measure.what} is {shown}, {'within' if passed else 'above'} the "
        f"tolerance of {limit:.3g} (the truth's own is {entry['reference']:.3g}, at worst "
        f"{entry['spread']['reference']['max']:.3g})",
        value=value if finite else None,
        limit=limit,
    )
