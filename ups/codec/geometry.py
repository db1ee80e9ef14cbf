"""Where the points of a uniform grid are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ups.errors import DataError

_TOLERANCE = 1e-3


@dataclass(frozen=True)
class GridGeometry:
    """A uniform grid and what is known at its points.

    Attributes:
        space: Points along each axis.
        origin: Coordinate of the first point along each axis.
        spacing: Distance between points along each axis.
        periodic: Whether each axis wraps.
        fields: Names of the channels.
        transforms: 'none' or 'log' for each field; empty is 'none' for all.
        inputs: Names of the fields that are given with a problem, such as a coefficient.
    """

    space: tuple[int, ...]
    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    periodic: tuple[bool, ...]
    fields: tuple[str, ...]
    transforms: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = set(self.transforms) - {"none", "log"}
        if unknown or len(self.transforms) not in (0, len(self.fields)):
            raise ValueError(f"transforms {self.transforms} for the fields {self.fields}")

    @property
    def num_dims(self) -> int:
        return len(self.space)

    @property
    def is_log(self) -> tuple[bool, ...]:
        """For each field, whether the codec works with its logarithm."""
        return tuple(name == "log" for name in self.transforms) or (False,) * len(self.fields)

    def axes(self) -> list[Float[Tensor, " _"]]:
        """Physical coordinates of the points along each axis."""
        return [
            start + step * torch.arange(size, dtype=torch.float64)
            for size, start, step in zip(self.space, self.origin, self.spacing, strict=True)
        ]

    def coords(self) -> Float[Tensor, "point axis"]:
        """Physical coordinates of all points, last axis fastest."""
        grid = torch.meshgrid(*self.axes(), indexing="ij")
        return torch.stack(grid, -1).reshape(-1, self.num_dims)

    def resized(self, space: Sequence[int]) -> GridGeometry:
        """The same box with other numbers of points, which lie at the centres of its cells.

        The box reaches half a spacing beyond the first and last points of this grid.
        """
        if len(space) != self.num_dims:
            raise ValueError(f"space {tuple(space)} for a grid of {self.num_dims} axes")
        spacing = tuple(h * n / m for h, n, m in zip(self.spacing, self.space, space, strict=True))
        origin = tuple(
            start - old / 2 + new / 2
            for start, old, new in zip(self.origin, self.spacing, spacing, strict=True)
        )
        return replace(self, space=tuple(space), origin=origin, spacing=spacing)

    def is_same_grid(self, other: GridGeometry) -> bool:
        """Whether all points coincide, to a thousandth of the spacing."""
        if self is other:
            return True
        return self.space == other.space and all(
            (mine - theirs).abs().max() <= _TOLERANCE * step
            for mine, theirs, step in zip(self.axes(), other.axes(), self.spacing, strict=True)
        )

    def check_same_domain(self, other: GridGeometry) -> None:
        """Both boxes agree to one spacing of the coarser grid.

        Raises:
            DataError: They do not, or the axes differ in number or in periodicity.
        """
        if self.periodic != other.periodic:
            raise DataError(f"periodic axes {other.periodic}, the codec's are {self.periodic}")
        for axis in range(self.num_dims):
            room = (1 + _TOLERANCE) * max(self.spacing[axis], other.spacing[axis])
            mine, theirs = _ends(self, axis), _ends(other, axis)
            if max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) > room:
                raise DataError(
                    f"axis {axis} reaches from {theirs[0]:g} to {theirs[1]:g}, the codec's from "
                    f"{mine[0]:g} to {mine[1]:g}",
                    hint="a codec serves other resolutions of its own domain only",
                )


def _ends(geometry: GridGeometry, axis: int) -> tuple[float, float]:
    start = geometry.origin[axis] - geometry.spacing[axis] / 2
    return start, start + geometry.space[axis] * geometry.spacing[axis]
