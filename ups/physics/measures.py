"""Which physical requirements a card states for its fields, and by how much fields miss each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ups.physics.boundary import boundary_violation, conditions_of, has_conditions
from ups.physics.divergence import relative_divergence, vectors_of
from ups.physics.grids import UniformGrid
from ups.physics.invariants import conservation_drift
from ups.physics.positivity import negativity
from ups.physics.residuals import residual_for
from ups.registry import DatasetCard

Fields = Float[Tensor, "batch time *space channel"]
Measure: TypeAlias = Callable[[Tensor], Tensor]
"""Consecutive frames -> one dimensionless number for each sample, 0 where nothing is missed."""


@dataclass(frozen=True)
class Measures:
    """Divergence, conservation, boundary, positivity and pde_residual of fields on a grid.

    Attributes:
        card: Says which hold: incompressible families, conserved and positive fields, known
            boundary conditions, known equations.
        grid: Of the fields.
    """

    card: DatasetCard
    grid: UniformGrid

    @property
    def available(self) -> frozenset[str]:
        """Names of the measures that the card allows."""
        holds = {
            "divergence": bool(self._solenoidal),
            "conservation": bool(self.card.pde.conserved) and self.card.time.step is not None,
            "boundary": has_conditions(conditions_of(self.card, self.grid), self.grid),
            "positivity": any(field.positive for field in self.card.fields),
            "pde_residual": residual_for(self.card) is not None,
        }
        return frozenset(name for name, there in holds.items() if there)

    def functions(
        self,
        *,
        dt: Float[Tensor, " batch"] | None,
        parameters: Float[Tensor, "batch parameter"],
        inputs: Float[Tensor, "batch *space input"] | None = None,
    ) -> dict[str, Measure]:
        """The available measures, each a function of consecutive frames in physical units.

        Args:
            dt: Time between frames, in the card's unit; None for a steady problem.
            parameters, inputs: As stored.
        """
        card, grid = self.card, self.grid
        conserved = [name in card.pde.conserved for name in card.field_names]
        found: dict[str, Measure] = {
            "divergence": lambda fields: _root_mean_square(
                [relative_divergence(fields, grid, v, scheme=4) for v in self._solenoidal]
            ),
            "conservation": lambda fields: conservation_drift(fields, conserved),
            "boundary": lambda fields: boundary_violation(fields, grid, conditions_of(card, grid)),
            "positivity": lambda fields: negativity(fields, [f.positive for f in card.fields]),
        }
        residual = residual_for(card)
        if residual is not None:
            found["pde_residual"] = partial(
                residual, grid=grid, dt=dt, parameters=parameters, inputs=inputs
            )
        return {name: measure for name, measure in found.items() if name in self.available}

    @property
    def _solenoidal(self) -> tuple[tuple[int, ...], ...]:
        """Vector fields without divergence: those of incompressible flow."""
        incompressible = "div v = 0" in self.card.pde.equation
        return vectors_of(self.card) if incompressible else ()


def _root_mean_square(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).square().mean(0).sqrt()
