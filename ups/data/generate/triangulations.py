"""Triangulations of plane domains: a drawn number of nodes, graded, every boundary edge kept.

Nodes are placed on the boundary first, as far apart as the wanted size says. Euler's formula then
gives how many nodes belong inside; these are spread by farthest-point sampling and moved until
the Delaunay triangles are as even as they become.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import Delaunay, QhullError, cKDTree

from ups.data.generate.domains import Domain, Piece, contains
from ups.errors import DataError

Array = npt.NDArray[Any]
Size = Callable[[Array], Array]
"""Wanted edge length, up to a common factor, at points (point, 2) -> (point,)."""

SWEEPS = 60
"""Moves of the inner nodes; twice as many did not improve the smallest angle of 6 domains."""

ATTEMPTS = 8
"""Fresh sets of inner nodes before a domain counts as one that cannot be meshed."""

MIN_ANGLE = 15.0
"""Degrees; a triangulation with a sharper triangle is made again.

The angles at the corners of a domain are its own affair: `random_polygon` keeps them above 50.
"""

CANDIDATES_PER_NODE = 8
MIN_EDGES = 12
"""On a closed curve without corners: fewer would not show its shape."""


@dataclass(frozen=True)
class Triangulation:
    """A triangulation and what lies on its boundary.

    Attributes:
        points: (node, 2) float64.
        cells: (cell, 3) int32, counter-clockwise.
        tags: (node,) uint8, 0 inside.
        facets: (facet, 2) int32, the boundary edges.
        facet_tags: (facet,) uint8, at least 1.
    """

    points: Array
    cells: Array
    tags: Array
    facets: Array
    facet_tags: Array

    def angles(self) -> Array:
        """The three angles of every triangle in degrees.

        Shape:
            output: (cell, 3)
        """
        corners = self.points[self.cells]
        ahead, behind = np.roll(corners, -1, 1) - corners, np.roll(corners, 1, 1) - corners
        cross = ahead[..., 0] * behind[..., 1] - ahead[..., 1] * behind[..., 0]
        return np.degrees(np.arctan2(cross, (ahead * behind).sum(-1)))

    def min_angle(self) -> float:
        """The smallest angle of all triangles, degrees."""
        return float(self.angles().min())

    def area(self) -> float:
        return float(_areas(self.points, self.cells).sum())


def even(points: Array) -> Array:
    """The size function of a triangulation with edges of the same length everywhere."""
    return np.ones(len(points))


def draw_nodes(rng: np.random.Generator, nodes: tuple[int, int]) -> int:
    """A number of nodes between the two, both included, uniform in its logarithm."""
    low, high = nodes
    return int(np.clip(round(np.exp(rng.uniform(np.log(low), np.log(high)))), low, high))


def triangulate(
    domain: Domain, nodes: int, rng: np.random.Generator, *, size: Size = even, where: str = "mesh"
) -> Triangulation:
    """Triangulate `domain` with exactly `nodes` nodes.

    Args:
        size: Wanted edge length up to a factor; the factor follows from `nodes`. It must not
            change by more than about 0.4 per unit of length.
        where: What an error message names.
    Raises:
        DataError: `nodes` are too few for the domain's boundary, or no set of inner nodes gave
            triangles without angles below `MIN_ANGLE`.
    Source:
        Size-driven boundary nodes and forces along Delaunay edges as in Persson and Strang, A
        simple mesh generator in MATLAB, SIAM Review 46 (2004); differs in that boundary nodes
        stay where they are and the number of nodes is given.
    """
    boundary, number_inside = _boundary_for(domain, nodes, size, where)
    best: Triangulation | None = None
    for _ in range(ATTEMPTS):
        for mesh in _relaxed(boundary, number_inside, size, rng):
            if mesh and (best is None or mesh.min_angle() > best.min_angle()):
                best = mesh
        if best is not None and best.min_angle() >= MIN_ANGLE:
            return best
    found = f"an angle of {best.min_angle():.1f} degrees" if best else "a boundary edge missing"
    raise DataError(
        f"{where}: no good triangulation of {nodes} nodes: {found} after {ATTEMPTS} attempts",
        hint="ask for more nodes, or for a simpler domain",
    )


@dataclass(frozen=True)
class _Boundary:
    points: Array
    tags: Array
    facets: Array
    facet_tags: Array
    loops: tuple[Array, ...]
    scale: float
    """Edge length where `size` is 1."""


def _boundary_for(domain: Domain, nodes: int, size: Size, where: str) -> tuple[_Boundary, int]:
    """The boundary's nodes, and how many inner ones make `nodes` together.

    T triangles fill the domain's area evenly, and a triangulation of N nodes, B of them on the
    boundary, with H holes has T = 2N - B - 2 + 2H triangles (Euler).
    """
    curves = [np.concatenate([p.points[:-1] for p in loop]) for loop in domain.loops]
    wanted_triangles = _integral_of_inverse_square(curves, size) * 4 / np.sqrt(3)
    low, high = 1e-4 * np.sqrt(wanted_triangles), 10 * np.sqrt(wanted_triangles)
    for _ in range(60):
        scale = np.sqrt(low * high)
        on_boundary = sum(
            _num_edges(p, size, scale, len(loop)) for loop in domain.loops for p in loop
        )
        triangles = wanted_triangles / scale**2
        total = (triangles + on_boundary + 2 - 2 * len(domain.holes)) / 2
        low, high = (scale, high) if total > nodes else (low, scale)
    boundary = _place_boundary(domain, size, float(scale))
    inside = nodes - len(boundary.points)
    if inside < 1:
        raise DataError(
            f"{where}: {nodes} nodes are too few, the boundary alone needs {len(boundary.points)}",
            hint="ask for more nodes",
        )
    return boundary, inside


def _integral_of_inverse_square(curves: Sequence[Array], size: Size) -> float:
    low, high = curves[0].min(0), curves[0].max(0)
    cell = np.sqrt(np.prod(high - low) / 20_000)
    x, y = (np.arange(a + cell / 2, b, cell) for a, b in zip(low, high, strict=True))
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    points = points[contains(curves, points)]
    return float((1 / size(points) ** 2).sum() * cell**2)


def _measure(piece: Piece, size: Size) -> Array:
    """Length along the piece in units of the wanted size, at each of its points."""
    middle = (piece.points[1:] + piece.points[:-1]) / 2
    steps = np.linalg.norm(np.diff(piece.points, axis=0), axis=1) / size(middle)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _num_edges(piece: Piece, size: Size, scale: float, pieces_in_loop: int) -> int:
    least = MIN_EDGES if pieces_in_loop == 1 else 1
    return max(least, round(_measure(piece, size)[-1] / scale))


def _place_boundary(domain: Domain, size: Size, scale: float) -> _Boundary:
    points, facets, facet_tags, loops, begin = [], [], [], [], 0
    for loop in domain.loops:
        at: list[Array] = []
        for piece in loop:
            along = _measure(piece, size)
            number = _num_edges(piece, size, scale, len(loop))
            marks = np.linspace(0, along[-1], number + 1)[:-1]
            at.append(np.stack([np.interp(marks, along, c) for c in piece.points.T], 1))
            facet_tags += [piece.tag] * number
        loops.append(np.concatenate(at))
        index = np.arange(begin, begin + len(loops[-1]))
        facets.append(np.stack([index, np.roll(index, -1)], 1))
        points.append(loops[-1])
        begin += len(index)
    tags = np.zeros(begin, dtype=np.uint8)
    every, edge_tags = np.concatenate(facets), np.array(facet_tags, dtype=np.uint8)
    for end in (0, 1):
        np.maximum.at(tags, every[:, end], edge_tags)
    return _Boundary(np.concatenate(points), tags, every, edge_tags, tuple(loops), scale)


def _relaxed(
    boundary: _Boundary, number: int, size: Size, rng: np.random.Generator
) -> list[Triangulation | None]:
    """Triangulations from the last sweeps over one fresh set of inner nodes."""
    inner = _spread(boundary, number, size, rng)
    found: list[Triangulation | None] = []
    for sweep in range(SWEEPS):
        cells = _delaunay_inside(boundary, inner)
        if sweep >= SWEEPS - 10:
            found.append(_conforming(boundary, inner, cells))
        move = _by_forces if sweep < SWEEPS // 2 else _to_centres
        inner = _kept_inside(boundary, inner, move(boundary, inner, cells, size), size)
    return found


def _spread(boundary: _Boundary, number: int, size: Size, rng: np.random.Generator) -> Array:
    """Farthest-point sampling: each new node is the candidate farthest from all others."""
    low, high = boundary.points.min(0), boundary.points.max(0)
    accepted: list[Array] = []
    missing = max(CANDIDATES_PER_NODE * number, 200)
    smallest = size(boundary.points).min()
    while missing > 0:
        points = rng.uniform(low, high, (4 * missing, 2))
        points = points[contains(boundary.loops, points)]
        local = size(points)
        smallest = min(smallest, local.min(initial=smallest))
        points = points[rng.random(len(points)) < (smallest / local) ** 2]
        accepted.append(points)
        missing -= len(points)
    candidates = np.concatenate(accepted)
    local = size(candidates)
    away = cKDTree(boundary.points).query(candidates)[0] / local
    chosen = np.empty(number, dtype=np.int64)
    for index in range(number):
        chosen[index] = best = int(np.argmax(away))
        step = candidates - candidates[best]
        np.minimum(away, np.hypot(step[:, 0], step[:, 1]) / local, out=away)
    return candidates[chosen]


def _delaunay_inside(boundary: _Boundary, inner: Array) -> Array:
    points = np.concatenate([boundary.points, inner])
    try:
        cells = Delaunay(points).simplices
    except QhullError as error:
        raise DataError(f"mesh: Delaunay triangulation failed: {str(error)[:80]}") from error
    area = _areas(points, cells)
    cells = np.where(area[:, None] < 0, cells[:, ::-1], cells)
    flat = np.abs(area) < 1e-9 * boundary.scale**2
    return cells[contains(boundary.loops, points[cells].mean(1)) & ~flat]


def _areas(points: Array, cells: Array) -> Array:
    a, b, c = (points[cells[:, corner]] for corner in range(3))
    first, second = b - a, c - a
    return (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / 2


def _edges(cells: Array) -> Array:
    """Every edge of the triangles once, smaller node first: (edge, 2)."""
    pairs = np.concatenate([cells[:, [0, 1]], cells[:, [1, 2]], cells[:, [2, 0]]])
    number = int(cells.max()) + 1
    return np.stack(np.divmod(np.unique(_codes(pairs, number)), number), 1)


def _codes(pairs: Array, number: int) -> Array:
    """One integer for each unordered pair of nodes below `number`: (pair,)."""
    return pairs.min(1).astype(np.int64) * number + pairs.max(1)


def _by_forces(boundary: _Boundary, inner: Array, cells: Array, size: Size) -> Array:
    """Push along edges shorter than 1.2 times the wanted length."""
    points = np.concatenate([boundary.points, inner])
    edges = _edges(cells)
    along = points[edges[:, 0]] - points[edges[:, 1]]
    length = np.linalg.norm(along, axis=1)
    wanted = size(points[edges].mean(1))
    wanted *= 1.2 * np.sqrt((length**2).sum() / (wanted**2).sum())
    push = (np.maximum(wanted - length, 0) / length)[:, None] * along
    force = np.zeros_like(points)
    np.add.at(force, edges[:, 0], push)
    np.add.at(force, edges[:, 1], -push)
    return inner + 0.2 * force[len(boundary.points) :]


def _to_centres(boundary: _Boundary, inner: Array, cells: Array, size: Size) -> Array:
    """Move to the mean of the surrounding triangles' centroids, small ones where size is small.

    Source:
        Chen and Holst, Efficient mesh optimization schemes based on optimal Delaunay
        triangulations, CMAME 200 (2011).
    """
    points = np.concatenate([boundary.points, inner])
    centroid = points[cells].mean(1)
    weight = _areas(points, cells) / size(centroid) ** 4
    total, moment = np.zeros(len(points)), np.zeros_like(points)
    for corner in range(3):
        np.add.at(total, cells[:, corner], weight)
        np.add.at(moment, cells[:, corner], weight[:, None] * centroid)
    begin = len(boundary.points)
    return moment[begin:] / np.maximum(total[begin:], 1e-300)[:, None]


def _kept_inside(boundary: _Boundary, inner: Array, moved: Array, size: Size) -> Array:
    """Take back moves that leave the domain or come too near a boundary node."""
    distance, nearest = cKDTree(boundary.points).query(moved)
    near = distance < 0.5 * boundary.scale * size(boundary.points)[nearest]
    good = contains(boundary.loops, moved) & ~near
    return np.where(good[:, None], moved, inner)


def _conforming(boundary: _Boundary, inner: Array, cells: Array) -> Triangulation | None:
    """The triangulation, or None where a boundary edge or a node is missing."""
    points = np.concatenate([boundary.points, inner])
    wanted, present = (_codes(pairs, len(points)) for pairs in (boundary.facets, _edges(cells)))
    if not np.isin(wanted, present).all() or len(np.unique(cells)) != len(points):
        return None
    tags = np.concatenate([boundary.tags, np.zeros(len(inner), dtype=np.uint8)])
    return Triangulation(
        points, cells.astype(np.int32), tags, boundary.facets.astype(np.int32), boundary.facet_tags
    )
