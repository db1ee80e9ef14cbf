"""Boundary conditions that a card states, and how far fields are from them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ups.physics.derivatives import Condition, Ends, at_end
from ups.physics.equations import BoundaryTable
from ups.physics.grids import UniformGrid
from ups.physics.norms import ROUNDING, mean_square, relative, root
from ups.physics.table import equation_of
from ups.registry import DatasetCard, FieldSpec

_NO_SLOPE = Condition(0.0, 1.0)
_ZERO = Condition()


def conditions_of(card: DatasetCard, grid: UniformGrid) -> dict[str, tuple[Ends, ...]]:
    """What is known of every field at the lower and upper end of each axis.

    'neumann' is no slope, 'wall' is no velocity across; the values of 'dirichlet' and 'robin'
    are known for the equations of `ups.physics.table`; 'outflow' imposes nothing. The grid says
    which condition holds where: a version may differ from the card in that.
    """
    equation = equation_of(card)
    known = equation.ends(grid) if equation else {}
    axes = [axis.name for axis in card.discretisation.axes]
    return {
        spec.name: tuple(
            (_condition(spec, lower, name, known), _condition(spec, upper, name, known))
            for name, (lower, upper) in zip(axes, grid.boundaries, strict=True)
        )
        for spec in card.fields
    }


def _condition(spec: FieldSpec, boundary: str, axis: str, known: BoundaryTable) -> Condition | None:
    stated = known.get(spec.name, {}).get(boundary)
    if stated is not None:
        return stated
    if boundary == "neumann":
        return _NO_SLOPE
    return _ZERO if boundary == "wall" and spec.component == axis else None


def has_conditions(conditions: Mapping[str, tuple[Ends, ...]], grid: UniformGrid) -> bool:
    """Whether there is anything to violate."""
    known = any(end for ends in conditions.values() for pair in ends for end in pair)
    return known or any(grid.periodic)


def boundary_violation(
    fields: Float[Tensor, "batch time *space channel"],
    grid: UniformGrid,
    conditions: Mapping[str, tuple[Ends, ...]],
) -> Float[Tensor, " batch"]:
    """How far fields are from their boundary conditions, RMS over conditions, fields and ends.

    A condition value * u + slope * du/dn = right is evaluated at the end of the domain from the
    three nearest points, and its error is taken relative to the field's and its slopes' RMS. On a
    periodic axis it is the jump between both sides of the seam over the field's RMS. Not zero on
    true data: sampled fields are extrapolated by half a cell.

    Args:
        conditions: One entry for each channel, in their order.
    Raises:
        ValueError: There is no condition at all.
    """
    squares = []
    for values, ends in zip(fields.unbind(-1), conditions.values(), strict=True):
        for axis, pair in enumerate(ends):
            if grid.periodic[axis]:
                squares.append(_seam(values, grid, axis))
                continue
            found = enumerate(pair)
            squares += [_violation(values, grid, axis, e, c) for e, c in found if c is not None]
    if not squares:
        raise ValueError("no boundary condition is known")
    return root(torch.stack(squares).mean(0))


def _seam(values: Tensor, grid: UniformGrid, axis: int) -> Tensor:
    before, _ = at_end(values, grid, axis, 1)
    after, _ = at_end(values, grid, axis, 0)
    return relative(mean_square(before - after), mean_square(values)).square()


def _violation(
    values: Tensor, grid: UniformGrid, axis: int, end: int, condition: Condition
) -> Tensor:
    value, slope = at_end(values, grid, axis, end)
    error = condition.value * value + condition.slope * slope - condition.right
    size = mean_square(values)
    whole = condition.value**2 * size + condition.right**2
    if condition.slope:
        steps = mean_square(values.diff(dim=axis - grid.num_dims)) + ROUNDING**2 * size
        whole = whole + (condition.slope / grid.spacing[axis]) ** 2 * steps
    return relative(mean_square(error), whole).square()
