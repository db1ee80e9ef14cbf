"""Nodes as images: each pixel takes the value of its nearest node, or is outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_PIXELS = 160
_OVERHANG, _DOT = 0.75, 0.35
"""How far a node reaches: of its distance to its third neighbour on a mesh, which covers triangles;
of the mean spacing for particles, which leaves the space between them empty."""


@dataclass(frozen=True, eq=False)
class Raster:
    """Which node each pixel of a picture shows, at one time or at several.

    Attributes:
        nearest: (time, *pixels), a node; one time where nodes rest.
        inside: (time, *pixels), whether it is near enough to be shown.
    """

    nearest: Array
    inside: Array

    def image(self, values: Array) -> Array:
        """(time, node) -> (time, *pixels)."""
        times = np.arange(len(values)).reshape(-1, *(1,) * (self.nearest.ndim - 1))
        return np.asarray(values[times, np.broadcast_to(self.nearest, self._shape(values))])

    def mask(self, values: Array) -> Array:
        """`inside`, for as many times as there are values."""
        return np.broadcast_to(self.inside, self._shape(values))

    def _shape(self, values: Array) -> tuple[int, ...]:
        return (len(values), *self.nearest.shape[1:])


def raster_of(
    places: Sequence[Array],
    bounds: Sequence[tuple[float, float]],
    periodic: Sequence[bool],
    *,
    is_mesh: bool,
) -> Raster:
    """The nodes of a trajectory at one time, or at each of several.

    In three dimensions the picture is the central plane of the third axis, one pixel thick.

    Args:
        places: (node, dim) at each time.
        is_mesh: Whether the space between nodes is theirs; particles leave it empty.
    """
    pixels = _pixels(bounds)
    found = [_nearest(one, pixels, bounds, periodic, is_mesh=is_mesh) for one in places]
    nearest, inside = zip(*found, strict=True)
    return Raster(np.stack(nearest), np.stack(inside))


def _pixels(bounds: Sequence[tuple[float, float]]) -> Array:
    """Centres of pixels, (*pixels, dim), as square as they can be."""
    sides = [high - low for low, high in bounds]
    counts = [max(2, round(_PIXELS * side / max(sides[:2]))) for side in sides[:2]] + [1]
    axes = [
        low + (np.arange(count) + 0.5) * (high - low) / count
        for (low, high), count in zip(bounds, counts, strict=False)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def _nearest(
    places: Array,
    pixels: Array,
    bounds: Sequence[tuple[float, float]],
    periodic: Sequence[bool],
    *,
    is_mesh: bool,
) -> tuple[Array, Array]:
    from scipy.spatial import cKDTree

    low, high = np.asarray(bounds, dtype=np.float64).T
    box = np.where(periodic, high - low, 0.0)  # a length of 0 is cKDTree's word for no period

    def inside_box(points: Array) -> Array:
        moved = points.astype(np.float64) - low
        moved = np.where(box > 0, np.mod(moved, np.where(box > 0, box, 1.0)), moved)
        return np.where((box > 0) & (moved >= box), 0.0, moved)

    wrapped = inside_box(places)
    tree = cKDTree(wrapped, boxsize=box if box.any() else None)
    distance, node = tree.query(inside_box(pixels))
    if is_mesh:
        spacing, _ = tree.query(wrapped, k=min(4, len(places)))
        reach = _OVERHANG * spacing[:, -1][node]
    else:
        reach = _DOT * (np.prod(high - low) / len(places)) ** (1 / len(low))
    return node, distance <= reach
