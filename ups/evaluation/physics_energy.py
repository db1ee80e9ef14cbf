"""Energies over time: whether a rollout gains or loses what the truth keeps or spends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ups.data.store import TrajectoryStore
from ups.evaluation.physics_grid import grid_of
from ups.evaluation.physics_measures import gas_energy, kinetic_energy
from ups.evaluation.report import Section
from ups.evaluation.rollout import Batch
from ups.evaluation.unseen import Store
from ups.physics.derivatives import derivative
from ups.physics.divergence import vectors_of
from ups.physics.grids import UniformGrid
from ups.physics.invariants import energy
from ups.registry import DatasetCard

Fields = Float[Tensor, "batch time *space channel"]


@dataclass(frozen=True)
class Energies:
    """Energies of a dataset's frames, means over space.

    Attributes:
        names: Of the fields: half the mean square of each.
        vectors: Channels of its vector fields; the first one is the velocity: kinetic energy, and
            in the plane on a grid the enstrophy, half the mean square of the vorticity.
        gas: Channels of density and pressure: the kinetic energy is per volume, and there is the
            total energy.
    """

    names: tuple[str, ...]
    vectors: tuple[tuple[int, ...], ...]
    gas: tuple[int, int] | None
    grid: UniformGrid | None

    @property
    def what(self) -> dict[str, str]:
        """Each energy in words."""
        found = {name: f"half the mean square of {name}" for name in self.names}
        if self.vectors:
            found["kinetic"] = "mean of rho v^2 / 2" if self.gas else "mean of v^2 / 2"
        if self.vectors and self.gas:
            found["total"] = "mean of p / (gamma - 1) + rho v^2 / 2"
        if self._turns:
            found["enstrophy"] = "half the mean square of the vorticity"
        return found

    @property
    def _turns(self) -> bool:
        return bool(self.vectors) and self.grid is not None and self.grid.num_dims == 2

    def __call__(self, fields: Fields) -> dict[str, Float[Tensor, "batch time"]]:
        found = dict(zip(self.names, energy(fields).unbind(-1), strict=True))
        if not self.vectors:
            return found
        velocity = self.vectors[0]
        density = self.gas[0] if self.gas else None
        found["kinetic"] = _mean(kinetic_energy(fields, density=density, velocity=velocity))
        if self.gas:
            rho, pressure = self.gas
            total = gas_energy(fields, density=rho, pressure=pressure, velocity=velocity)
            found["total"] = _mean(total)
        if self._turns and self.grid is not None:
            u, v = (fields[..., number] for number in velocity)
            spin = derivative(v, self.grid, 0, scheme=2) - derivative(u, self.grid, 1, scheme=2)
            found["enstrophy"] = 0.5 * _mean(spin.square()[..., None])
        return found


def _mean(values: Float[Tensor, "batch time *space 1"]) -> Float[Tensor, "batch time"]:
    return values.flatten(2).mean(2)


def energies_of(card: DatasetCard, store: Store) -> Energies:
    """The energies that a card's fields have; on points, means over nodes."""
    names = card.field_names
    gas = None
    if card.pde.family == "compressible_ns" and {"density", "pressure"} <= set(names):
        gas = (names.index("density"), names.index("pressure"))
    vectors = vectors_of(card) if card.num_dims > 1 or gas else ()
    grid = grid_of(store) if isinstance(store, TrajectoryStore) else None
    return Energies(names, vectors, gas, grid)


class EnergyObserver:
    """Energies of prediction and truth in every predicted frame.

    Args:
        energies: What is summed up.
        times: Of the predicted frames.

    Content:
        times; num_trajectories; quantities: name -> what, initial (mean of the last given frame),
        prediction and reference ('mean', 'p10', 'median', 'p90' over trajectories, one value per
        frame each), relative_error (mean over trajectories of |prediction - reference|, over the
        mean reference, one value per frame).
    """

    def __init__(self, energies: Energies, times: Sequence[float]) -> None:
        self.energies, self.times = energies, list(times)
        self._seen: list[tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]] = []

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        assert batch.given is not None
        self._seen.append((
            self.energies(batch.prediction),
            self.energies(batch.reference),
            self.energies(batch.given[:, None]),
        ))  # fmt: skip

    def absorb(self, other: EnergyObserver) -> None:
        self._seen += other._seen

    def result(self) -> Section:
        quantities = {}
        for name, what in self.energies.what.items():
            prediction, reference, given = (
                torch.cat([seen[kind][name] for seen in self._seen]).double() for kind in range(3)
            )
            error = (prediction - reference).abs().mean(0) / reference.mean(0)
            quantities[name] = {
                "what": what,
                "initial": float(given.mean()),
                "prediction": _over_trajectories(prediction),
                "reference": _over_trajectories(reference),
                "relative_error": error.tolist(),
            }
        content: dict[str, Any] = {
            "times": self.times,
            "num_trajectories": sum(len(next(iter(seen[0].values()))) for seen in self._seen),
            "quantities": quantities,
        }
        return Section(name="energy", content=content)


def _over_trajectories(values: Float[Tensor, "trajectory time"]) -> dict[str, list[float]]:
    p10, median, p90 = values.quantile(values.new_tensor([0.1, 0.5, 0.9]), 0)
    found = {"mean": values.mean(0), "p10": p10, "median": median, "p90": p90}
    return {name: one.tolist() for name, one in found.items()}
