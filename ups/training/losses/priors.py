"""What physics asks of decoded fields, as loss terms of one task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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
from ups.training.losses.fields import excess

Fields = Float[Tensor, "batch time *space channel"]
Measure = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PhysicsPriors:
    """The terms divergence, conservation, boundary, positivity and pde_residual of a grid task.

    Each is what the predicted frames violate beyond what the true frames do (`excess`): data are
    sampled and rounded, and are not asked to be better than they are.

    Attributes:
        card: Says which priors hold: incompressible families, conserved and positive fields,
            known boundary conditions, known equations.
        grid: Of the decoded fields.
    """

    card: DatasetCard
    grid: UniformGrid

    @property
    def available(self) -> frozenset[str]:
        """Names of the terms that the card allows."""
        positive = any(field.positive for field in self.card.fields)
        conditions = conditions_of(self.card, self.grid)
        holds = {
            "divergence": bool(self._solenoidal),
            "conservation": bool(self.card.pde.conserved) and self.card.time.step is not None,
            "boundary": has_conditions(conditions, self.grid),
            "positivity": positive,
            "pde_residual": residual_for(self.card) is not None,
        }
        return frozenset(name for name, there in holds.items() if there)

    def terms(
        self,
        prediction: Fields,
        truth: Fields,
        *,
        dt: Float[Tensor, " batch"] | None,
        parameters: Float[Tensor, "batch parameter"],
        inputs: Float[Tensor, "batch *space input"] | None = None,
    ) -> dict[str, Callable[[], Tensor]]:
        """The available terms, for `weighted` to evaluate.

        Args:
            prediction, truth: Consecutive frames, physical units, the last given one first.
            dt: Time between them, in the card's unit; None for a steady problem.
            parameters, inputs: As stored.
        """
        measures = self._measures(dt, parameters, inputs)
        return {
            name: partial(_excess_of, measures[name], prediction, truth) for name in self.available
        }

    def _measures(
        self, dt: Tensor | None, parameters: Tensor, inputs: Tensor | None
    ) -> dict[str, Measure]:
        card, grid = self.card, self.grid
        conserved = [name in card.pde.conserved for name in card.field_names]
        positive = [field.positive for field in card.fields]
        measures: dict[str, Measure] = {
            "divergence": lambda fields: _root_mean_square(
                [relative_divergence(fields, grid, v, scheme=4) for v in self._solenoidal]
            ),
            "conservation": lambda fields: conservation_drift(fields, conserved),
            "boundary": lambda fields: boundary_violation(fields, grid, conditions_of(card, grid)),
            "positivity": lambda fields: negativity(fields, positive),
        }
        residual = residual_for(card)
        if residual is not None:
            measures["pde_residual"] = partial(
                residual, grid=grid, dt=dt, parameters=parameters, inputs=inputs
            )
        return measures

    @property
    def _solenoidal(self) -> tuple[tuple[int, ...], ...]:
        """Vector fields without divergence: those of incompressible flow."""
        incompressible = "div v = 0" in self.card.pde.equation
        return vectors_of(self.card) if incompressible else ()


def _excess_of(measure: Measure, prediction: Tensor, truth: Tensor) -> Tensor:
    with torch.no_grad():
        own = measure(truth)
    return excess(measure(prediction), own)


def _root_mean_square(values: list[Tensor]) -> Tensor:
    return torch.stack(values).square().mean(0).sqrt()
