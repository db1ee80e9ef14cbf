"""Divergence of the vector fields of a card."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ups.data.reading.augment import components_of
from ups.physics.derivatives import Scheme, gradient
from ups.physics.grids import UniformGrid
from ups.physics.norms import ROUNDING, mean_square, relative
from ups.registry import DatasetCard


def vectors_of(card: DatasetCard) -> tuple[tuple[int, ...], ...]:
    """Channels of each vector field that has a component along every axis, in the axes' order."""
    axes = [axis.name for axis in card.discretisation.axes]
    components = components_of(card.fields, axes, card.key)
    found = {
        partners
        for axis, partners in zip(components.axis, components.partner, strict=True)
        if axis is not None and None not in partners
    }
    return tuple(tuple(c for c in vector if c is not None) for vector in sorted(found, key=str))


def divergence(
    velocity: Sequence[Float[Tensor, "*batch_and_space"]],
    grid: UniformGrid,
    *,
    scheme: Scheme = "spectral",
) -> Float[Tensor, "*batch_and_space"]:
    """Sum of d v_i / d x_i; one component for each axis."""
    slopes = _slopes(velocity, grid, scheme)
    return torch.stack([slopes[axis][axis] for axis in range(grid.num_dims)]).sum(0)


def relative_divergence(
    fields: Float[Tensor, "batch time *space channel"],
    grid: UniformGrid,
    vector: Sequence[int],
    *,
    scheme: Scheme = "spectral",
) -> Float[Tensor, " batch"]:
    """RMS of the divergence over the RMS of all first derivatives of the vector.

    Dimensionless: 0 for incompressible flow, at most sqrt(num_dims). At ends that are not
    periodic derivatives are one-sided.

    Args:
        vector: Channel of the component along each axis.
    """
    slopes = _slopes([fields[..., channel] for channel in vector], grid, scheme)
    total = torch.stack([slopes[axis][axis] for axis in range(grid.num_dims)]).sum(0)
    each = torch.stack([mean_square(slope) for of_one in slopes for slope in of_one]).sum(0)
    size = torch.stack([mean_square(fields[..., channel]) for channel in vector]).sum(0)
    return relative(mean_square(total), each + (ROUNDING / min(grid.spacing)) ** 2 * size)


def _slopes(velocity: Sequence[Tensor], grid: UniformGrid, scheme: Scheme) -> list[list[Tensor]]:
    """Derivative of every component along every axis."""
    if len(velocity) != grid.num_dims:
        raise ValueError(f"{len(velocity)} components on {grid.num_dims} axes")
    return [gradient(component, grid, scheme=scheme) for component in velocity]
