"""Waves that fit the boundary conditions of an axis, as orthonormal matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ups.data.reading.batches import BOUNDARIES
from ups.models.layout import TokenLayout


@dataclass(frozen=True)
class Axis:
    """One axis of a grid of cell centres.

    Attributes:
        fixed_low, fixed_high: Whether fields vanish at that end (Dirichlet); otherwise their
            slope does. Without meaning where the axis wraps.
    """

    points: int
    periodic: bool = False
    fixed_low: bool = False
    fixed_high: bool = False

    def with_points(self, points: int) -> Axis:
        return Axis(points, self.periodic, self.fixed_low, self.fixed_high)


def axes_of(layout: TokenLayout) -> tuple[Axis, ...]:
    """The axes of a layout's anchor grid; ends of unknown condition are taken as no-flux."""
    dirichlet = BOUNDARIES.index("dirichlet")
    ends = layout.boundaries or ((BOUNDARIES.index("neumann"),) * 2,) * len(layout.anchors)
    return tuple(
        Axis(points, wraps, low == dirichlet, high == dirichlet)
        for points, wraps, (low, high) in zip(layout.anchors, layout.periodic, ends, strict=True)
    )


def standing_waves(axis: Axis, count: int) -> Float[Tensor, "count points"]:
    """The lowest `count` standing waves between two ends, orthonormal rows in float64.

    Cosines where the slope vanishes at both ends (DCT-II), sines where the value does (DST-II),
    and quarter-shifted ones where the ends differ (DCT-IV, DST-IV).
    """
    number = torch.arange(count, dtype=torch.float64)
    number += 1.0 * (axis.fixed_low and axis.fixed_high) + 0.5 * (axis.fixed_low != axis.fixed_high)
    angle = math.pi / axis.points * number[:, None] * _centres(axis.points)
    rows = angle.sin() if axis.fixed_low else angle.cos()
    return rows / rows.norm(dim=1, keepdim=True)


def travelling_waves(axis: Axis, count: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of frequency 0 to `count` - 1 of an axis that wraps.

    Shape:
        output: two of (count, points), float64, each over sqrt(points), so that
            `cosines + i sines` has orthonormal rows
    """
    number = torch.arange(count, dtype=torch.float64)
    angle = 2 * math.pi / axis.points * number[:, None] * _centres(axis.points)
    return angle.cos() / axis.points**0.5, angle.sin() / axis.points**0.5


def real_waves(axis: Axis, count: int) -> Float[Tensor, "count points"]:
    """At most `count` orthonormal real waves: whole pairs of cosine and sine if the axis wraps."""
    if not axis.periodic:
        return standing_waves(axis, count)
    cosines, sines = travelling_waves(axis, (count - 1) // 2 + 1)
    return torch.cat([cosines[:1], math.sqrt(2) * cosines[1:], math.sqrt(2) * sines[1:]])


def resampling(axis: Axis, points: int) -> Float[Tensor, "points fine"]:
    """The matrix from values on `axis` to the band-limited function's on fewer `points`.

    Times its transpose it is the identity up to the ratio of points, on band-limited values: the
    way back is the transpose times `axis.points / points`.
    """
    coarse, fine = (real_waves(a, points) for a in (axis.with_points(points), axis))
    return (points / axis.points) ** 0.5 * coarse.T @ fine


def _centres(points: int) -> Tensor:
    return torch.arange(points, dtype=torch.float64) + 0.5
