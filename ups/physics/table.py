"""The equations that are known, and why some datasets have no residual."""

from __future__ import annotations

from ups.physics.equations import Equation
from ups.physics.flow_equations import FLOW_EQUATIONS
from ups.physics.scalar_equations import SCALAR_EQUATIONS
from ups.registry import DatasetCard

EQUATIONS = (*SCALAR_EQUATIONS, *FLOW_EQUATIONS)

WITHOUT_RESIDUAL = {
    "shallow_water": "only the depth is stored: no balance closes without the velocity",
    "compressible_navier_stokes": "the cooling and the energy are not those of the published "
    "equation, and a frame lasts longer than the flow needs to change",
    "atmosphere": "observations: there is no closed equation for these fields",
}
"""Why the fields of a family cannot be put into an equation."""


def equation_of(card: DatasetCard) -> Equation | None:
    """The known equation that the card states, if any."""
    return next((equation for equation in EQUATIONS if equation.stated_by(card)), None)


def why_no_residual(card: DatasetCard) -> str | None:
    """One line for people; None where there is a residual."""
    if equation_of(card) is not None:
        return None
    if card.discretisation.kind != "grid":
        return f"strong-form derivatives need a grid, and this is '{card.discretisation.kind}'"
    known = WITHOUT_RESIDUAL.get(card.pde.family)
    return known or f"pde.equation is none of the known ones: '{card.pde.equation}'"
