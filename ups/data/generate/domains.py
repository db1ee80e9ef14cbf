"""Plane domains bounded by curves: circles, random stars and polygons, with holes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Piece:
    """A part of a boundary curve from one corner to the next, or a whole smooth closed curve.

    Attributes:
        points: (point, 2), dense; for a closed curve the first point comes again at the end.
        tag: Of the nodes and edges on it. A corner takes the larger of its two pieces' tags.
    """

    points: Array
    tag: int


@dataclass(frozen=True)
class Domain:
    """A plane domain: one outer loop and any number of loops around holes.

    Attributes:
        outer: Pieces in order, each beginning where the one before it ends.
        holes: The same for each hole.
    """

    outer: tuple[Piece, ...]
    holes: tuple[tuple[Piece, ...], ...] = ()

    @property
    def loops(self) -> tuple[tuple[Piece, ...], ...]:
        return (self.outer, *self.holes)


def closed_curve(points: Array, tag: int) -> tuple[Piece, ...]:
    """A smooth closed curve through `points` (point, 2), the first not repeated."""
    return (Piece(np.concatenate([points, points[:1]]), tag),)


def polygon(corners: Array, tags: int | Sequence[int]) -> tuple[Piece, ...]:
    """A loop of straight pieces; every corner becomes a node.

    Args:
        corners: (corner, 2).
        tags: One for all, or one per side, the first side beginning at the first corner.
    """
    sides = zip(corners, np.roll(corners, -1, 0), strict=True)
    each = [tags] * len(corners) if isinstance(tags, int) else list(tags)
    ramp = np.linspace(0, 1, 65)[:, None]
    return tuple(
        Piece(start + ramp * (end - start), tag)
        for (start, end), tag in zip(sides, each, strict=True)
    )


def circle(centre: tuple[float, float], radius: float, tag: int) -> tuple[Piece, ...]:
    angle = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    return closed_curve(np.array(centre) + radius * _unit(angle), tag)


def star_shape(
    rng: np.random.Generator, centre: Array, radius: float, tag: int, roughness: float = 0.35
) -> tuple[Piece, ...]:
    """A smooth curve r(angle) about `centre` with random waves, r between radius/3 and radius."""
    angle = np.linspace(0, 2 * np.pi, 512, endpoint=False)
    waves = np.arange(1, 6)
    size = rng.normal(size=5) / waves
    phase = rng.uniform(0, 2 * np.pi, 5)
    bend = (size * np.cos(waves * angle[:, None] + phase)).sum(1)
    distance = np.exp(roughness * bend)
    distance = np.maximum(distance / distance.max(), 1 / 3)
    return closed_curve(centre + radius * distance[:, None] * _unit(angle), tag)


def random_polygon(
    rng: np.random.Generator, centre: Array, radius: float, tag: int, corners: int
) -> tuple[Piece, ...]:
    """A star-shaped polygon with random corners, none sharper than 50 degrees."""
    while True:
        gaps = rng.dirichlet(np.full(corners, 8.0)) * 2 * np.pi
        angle = rng.uniform(0, 2 * np.pi) + np.cumsum(gaps)
        at = centre + radius * rng.uniform(0.55, 1.0, (corners, 1)) * _unit(angle)
        if gaps.max() < 0.9 * np.pi and corner_angles(at).min() > 50:
            return polygon(at, tag)


def corner_angles(corners: Array) -> Array:
    """Inner angles of a counter-clockwise polygon in degrees, 0 to 360: (corner,)."""
    ahead, behind = np.roll(corners, -1, 0) - corners, np.roll(corners, 1, 0) - corners
    turn = np.arctan2(behind[:, 1], behind[:, 0]) - np.arctan2(ahead[:, 1], ahead[:, 0])
    return np.degrees(turn) % 360


def contains(polygons: Sequence[Array], points: Array) -> Array:
    """Which points lie inside an odd number of polygons: (point,) bool."""
    inside = np.zeros(len(points), dtype=bool)
    x, y = points[:, 0], points[:, 1]
    for corners in polygons:
        ends = np.roll(corners, -1, 0)
        for (x0, y0), (x1, y1) in zip(corners, ends, strict=True):
            if y0 != y1:
                crosses = (y0 > y) != (y1 > y)
                inside ^= crosses & (x < x0 + (y - y0) * ((x1 - x0) / (y1 - y0)))
    return inside


def _unit(angle: Array) -> Array:
    return np.stack([np.cos(angle), np.sin(angle)], 1)
