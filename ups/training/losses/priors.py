"""What physics asks of decoded fields, as loss terms of one task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ups.physics.grids import UniformGrid
from ups.physics.measures import Fields, Measure, Measures
from ups.registry import DatasetCard
from ups.training.losses.fields import excess


@dataclass(frozen=True)
class PhysicsPriors:
    """The terms divergence, conservation, boundary, positivity and pde_residual of a grid task.

    Each is what the predicted frames violate beyond what the true frames do (`excess`): data are
    sampled and rounded, and are not asked to be better than they are.

    Attributes:
        card: Says which priors hold, see `ups.physics.measures`.
        grid: Of the decoded fields.
    """

    card: DatasetCard
    grid: UniformGrid

    @property
    def available(self) -> frozenset[str]:
        """Names of the terms that the card allows."""
        return Measures(self.card, self.grid).available

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
        measures = Measures(self.card, self.grid).functions(
            dt=dt, parameters=parameters, inputs=inputs
        )
        return {
            name: partial(_excess_of, measure, prediction, truth)
            for name, measure in measures.items()
        }


def _excess_of(measure: Measure, prediction: Tensor, truth: Tensor) -> Tensor:
    with torch.no_grad():
        own = measure(truth)
    return excess(measure(prediction), own)
