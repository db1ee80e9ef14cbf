"""Derivatives along one axis of fields on a uniform grid.

Periodic axes: by Fourier transform, or central differences of order 2, 4 or 6. Others: central
differences on points continued beyond the ends by a polynomial through the outermost points and,
where one is known, the boundary condition at the end of the domain. The same polynomials give
values and slopes at the ends themselves.

Fields are (..., *space): space last, no channel.

Source:
    Difference weights: Fornberg 1988, Math. Comput. 51, 699 (here from the moment equations).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ups.models.normalisation import at_least_float32
from ups.physics.grids import UniformGrid

Scheme: TypeAlias = Literal["spectral", 2, 4, 6]
Fields = Float[Tensor, "*batch_and_space"]


@dataclass(frozen=True)
class Condition:
    """value * u + slope * du/dn = right at one end of an axis, n pointing out of the domain."""

    value: float = 1.0
    slope: float = 0.0
    right: float = 0.0


Ends: TypeAlias = tuple[Condition | None, Condition | None]
FREE: Ends = (None, None)
"""Nothing is known at either end."""


def derivative(
    values: Fields,
    grid: UniformGrid,
    axis: int,
    order: int = 1,
    *,
    scheme: Scheme = "spectral",
    ends: Ends = FREE,
) -> Fields:
    """The derivative of order 1 or 2 along a space axis.

    Args:
        axis: Number of the space axis.
        scheme: 'spectral', which is 4 on axes that are not periodic, or the order of accuracy.
            At ends one order is lost.
        ends: What is known at the lower and upper end; of no meaning on a periodic axis.
    """
    if order not in (1, 2):
        raise ValueError(f"derivatives of order 1 and 2, not {order}")
    along = at_least_float32(values).movedim(axis - grid.num_dims, -1)
    if grid.periodic[axis] and scheme == "spectral":
        found = _fourier(along, grid.spacing[axis], order)
    else:
        accuracy = 4 if scheme == "spectral" else scheme
        reach = accuracy // 2
        if grid.periodic[axis]:
            along = torch.cat([along[..., -reach:], along, along[..., :reach]], -1)
        else:
            along = continued(along, grid, axis, reach, degree=accuracy + order - 2, ends=ends)
        found = _central(along, order, accuracy) / grid.spacing[axis] ** order
    return found.movedim(-1, axis - grid.num_dims)


def gradient(values: Fields, grid: UniformGrid, *, scheme: Scheme = "spectral") -> list[Tensor]:
    """First derivatives along all axes."""
    return [derivative(values, grid, axis, scheme=scheme) for axis in range(grid.num_dims)]


def laplacian(
    values: Fields,
    grid: UniformGrid,
    *,
    scheme: Scheme = "spectral",
    ends: Sequence[Ends] | None = None,
) -> Fields:
    """Sum of the second derivatives."""
    ends = ends or [FREE] * grid.num_dims
    parts = [
        derivative(values, grid, axis, 2, scheme=scheme, ends=ends[axis])
        for axis in range(grid.num_dims)
    ]
    return torch.stack(parts).sum(0)


def at_end(
    values: Fields, grid: UniformGrid, axis: int, end: int, *, degree: int = 2
) -> tuple[Tensor, Tensor]:
    """Value and outward slope at an end of the domain, from the `degree + 1` nearest points.

    Args:
        end: 0 for the lower one, 1 for the upper one.
    Shape:
        output: that of `values` without the axis, twice
    """
    along = at_least_float32(values).movedim(axis - grid.num_dims, -1)
    nearest = _from_end(along, end, degree + 1)
    places = torch.arange(nearest.shape[-1], dtype=torch.float64).tolist()
    end_of_domain = -grid.gaps[axis][end] / grid.spacing[axis]
    weights = (_weights(places, end_of_domain, order) for order in (0, 1))
    value, slope = ((nearest * nearest.new_tensor(row)).sum(-1) for row in weights)
    return value, -slope / grid.spacing[axis]


def continued(
    along: Float[Tensor, "*batch point"],
    grid: UniformGrid,
    axis: int,
    reach: int,
    *,
    degree: int,
    ends: Ends = FREE,
) -> Float[Tensor, "*batch longer"]:
    """`reach` points more at both ends of the last axis, by polynomials of this degree."""
    lower, upper = (_ghosts(along, grid, axis, end, reach, degree, ends[end]) for end in (0, 1))
    return torch.cat([lower.flip(-1), along, upper], -1)


def _ghosts(
    along: Tensor,
    grid: UniformGrid,
    axis: int,
    end: int,
    reach: int,
    degree: int,
    condition: Condition | None,
) -> Tensor:
    """Values beyond an end, the nearest first."""
    nearest = _from_end(along, end, degree + (condition is None))
    points = nearest.shape[-1]
    spacing, gap = grid.spacing[axis], grid.gaps[axis][end] / grid.spacing[axis]
    value, slope = (condition.value, condition.slope / spacing) if condition else (0.0, 0.0)
    table = _ghost_weights(points, reach, gap, value, slope, condition is not None)
    weights = along.new_tensor(table)
    ghosts = (nearest[..., None] * weights[:points]).sum(-2)  # a product would be autocast
    return ghosts + condition.right * weights[points] if condition else ghosts


@lru_cache(maxsize=256)
def _ghost_weights(
    points: int, reach: int, gap: float, value: float, slope: float, conditioned: bool
) -> tuple[tuple[float, ...], ...]:
    """What each point, and last the right side of the condition, gives to each ghost.

    The polynomial takes the values at places 0, 1, ... and obeys the condition at -gap; ghosts lie
    at -1, -2, ...; the outward slope is minus the derivative.
    """
    size = points + conditioned
    powers = np.arange(size)
    rows = [np.power(float(place), powers) for place in range(points)]
    if conditioned:
        slopes = powers * np.power(-gap, np.maximum(powers - 1, 0))
        rows.append(value * np.power(-gap, powers) - slope * slopes)
    inverse = np.linalg.inv(np.array(rows))
    ghosts = np.array([np.power(-float(place), powers) for place in range(1, reach + 1)])
    return tuple(tuple(row) for row in (ghosts @ inverse).T.tolist())


def _weights(places: Sequence[float], at: float, order: int) -> list[float]:
    """Weights of the values at `places` in the derivative of their polynomial at one place."""
    powers = np.arange(len(places))
    moments = np.power(np.asarray(places)[None] - at, powers[:, None])
    right = np.zeros(len(places))
    right[order] = math.factorial(order)
    return np.linalg.solve(moments, right).tolist()


def _central(along: Tensor, order: int, accuracy: int) -> Tensor:
    """Central difference at unit spacing; `accuracy // 2` points are lost at both ends."""
    reach = accuracy // 2
    kept = along.shape[-1] - 2 * reach
    total = torch.zeros_like(along[..., :kept])
    for shift, weight in enumerate(_central_weights(reach, order)):
        if weight:
            total = total + weight * along[..., shift : shift + kept]
    return total


@lru_cache(maxsize=16)
def _central_weights(reach: int, order: int) -> tuple[float, ...]:
    found = _weights([float(place) for place in range(-reach, reach + 1)], 0.0, order)
    return tuple(0.0 if abs(weight) < 1e-12 else weight for weight in found)


def _fourier(along: Tensor, spacing: float, order: int) -> Tensor:
    """Exact for what the grid resolves; the highest mode of an even grid has no slope."""
    size = along.shape[-1]
    modes = torch.arange(size // 2 + 1, dtype=along.dtype, device=along.device)
    waves = 2 * math.pi / (size * spacing) * modes
    spectrum = torch.fft.rfft(along)
    if order == 2:
        return torch.fft.irfft(-waves.square() * spectrum, n=size)
    if size % 2 == 0:
        waves[-1] = 0
    return torch.fft.irfft(1j * waves * spectrum, n=size)


def _from_end(along: Tensor, end: int, wanted: int) -> Tensor:
    """The points nearest to the lower (0) or upper (1) end, or all if there are fewer."""
    points = min(wanted, along.shape[-1])
    return along[..., :points] if end == 0 else along[..., -points:].flip(-1)
