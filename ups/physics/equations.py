"""Which equation a card states, as balances that can be evaluated from its fields.

A card states an equation by its text: a dataset of the same family in other units or with other
constants has another text, and no residual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from ups.physics.derivatives import FREE, Condition, Ends, Scheme, derivative, laplacian
from ups.physics.grids import UniformGrid
from ups.registry import DatasetCard

BoundaryTable: TypeAlias = Mapping[str, Mapping[str, Condition]]
"""Field -> name of a boundary condition -> what it says of the field."""


@dataclass(frozen=True)
class Frames:
    """Consecutive frames of a batch, by name, and how to differentiate them.

    Attributes:
        velocity: Names of the components of the velocity, in the order of the axes.
        conditions: What is known of a field at the ends of each axis.

    Shape:
        fields: (batch, time, *space) each
        inputs: (batch, 1, *space) each
        parameters: (batch, 1, *ones) each
    """

    grid: UniformGrid
    scheme: Scheme
    fields: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor]
    velocity: tuple[str, ...]
    conditions: Mapping[str, tuple[Ends, ...]]

    def slope(self, field: str | Tensor, axis: int, order: int = 1) -> Tensor:
        """Derivative of a stored field, or of a quantity made of some, along an axis."""
        ends = self.conditions[field][axis] if isinstance(field, str) else FREE
        values = self.fields[field] if isinstance(field, str) else field
        return derivative(values, self.grid, axis, order, scheme=self.scheme, ends=ends)

    def laplacian(self, field: str | Tensor) -> Tensor:
        if isinstance(field, str):
            ends = self.conditions[field]
            return laplacian(self.fields[field], self.grid, scheme=self.scheme, ends=ends)
        return laplacian(field, self.grid, scheme=self.scheme)


@dataclass(frozen=True)
class Balance:
    """quantity_t + sum of terms = 0 in every cell; without a quantity, sum of terms = 0.

    Attributes:
        margin: Cells at ends that are not periodic where it is not taken.

    Shape:
        quantity, terms: (batch, time, *space) each, of a vector (batch, time, component, *space);
            terms may have one frame for all
    """

    quantity: Tensor | None
    terms: tuple[Tensor, ...]
    margin: int = 0


def _unknown_ends(grid: UniformGrid) -> BoundaryTable:
    return {}


@dataclass(frozen=True)
class Equation:
    """An equation of the registry.

    Attributes:
        text: As the cards spell it.
        balances: Its terms, from frames.
        fields, parameters: Names that it needs.
        scheme: Of derivatives.
        ends: Boundary values that the cards' notes state.
        is_steady: Has no time derivative.
        caveat: Where the published data are known not to satisfy it.
    """

    text: str
    balances: Callable[[Frames], list[Balance]]
    fields: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    scheme: Scheme = "spectral"
    ends: Callable[[UniformGrid], BoundaryTable] = _unknown_ends
    is_steady: bool = False
    caveat: str = ""

    def stated_by(self, card: DatasetCard) -> bool:
        return (
            card.discretisation.kind == "grid"
            and " ".join(card.pde.equation.split()) == self.text
            and set(self.fields) <= set(card.field_names)
            and set(self.parameters) <= set(card.parameter_names)
        )
