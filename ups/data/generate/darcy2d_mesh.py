"""Darcy flow on triangulations of random domains: quadratic finite elements, once refined."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import skfem
from scipy.sparse.linalg import splu
from skfem.helpers import dot, grad

from ups.data.generate.base import PointTask, SolvedPoints
from ups.data.generate.domains import (
    Domain,
    Piece,
    circle,
    contains,
    random_polygon,
    star_shape,
)
from ups.data.generate.triangulations import Triangulation, draw_nodes, triangulate
from ups.data.layouts.base import PointTrajectory
from ups.errors import DataError

Array = npt.NDArray[Any]
Function = Callable[[Array], Array]
"""Values at points: (point, 2) -> (point,)."""

STREAM = 20_101
"""Keeps this dataset's random numbers apart from those of others with the same seed."""

OUTER, HOLE = 1, 2
REFINEMENTS = 1
"""Uniform refinements of the stored triangulation before the problem is solved on it."""

NUM_WAVES = 128


@dataclass(frozen=True)
class RandomField:
    """A Gaussian random field with squared-exponential correlation, as a sum of random waves.

    Known at every point, so that finer triangulations see the same coefficient.

    Source:
        Rahimi and Recht, Random features for large-scale kernel machines, NeurIPS 2007.
    """

    waves: Array
    phases: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, correlation_length: float) -> RandomField:
        waves = rng.normal(size=(2, NUM_WAVES)) / correlation_length
        return cls(waves, rng.uniform(0, 2 * np.pi, NUM_WAVES))

    def __call__(self, points: Array) -> Array:
        """Zero mean and unit variance: (point, 2) -> (point,)."""
        return np.sqrt(2 / NUM_WAVES) * np.cos(points @ self.waves + self.phases).sum(-1)


def draw_coefficient(rng: np.random.Generator) -> Function:
    """A positive coefficient a: two phases of 0.1 and 1 with a smooth front, or lognormal.

    Each with probability one half. The correlation length is between 0.1 and 0.25; the front is
    about half of it wide, so that the coarsest triangulations still show it.
    """
    field = RandomField.draw(rng, float(np.exp(rng.uniform(np.log(0.1), np.log(0.25)))))
    if rng.random() < 0.5:
        return lambda points: 0.55 + 0.45 * np.tanh(field(points) / 0.5)
    return lambda points: np.exp(0.8 * field(points))


def draw_domain(rng: np.random.Generator) -> Domain:
    """A star-shaped domain or a polygon of 3 to 8 corners inside the unit square, 0 to 2 holes."""
    centre = np.array([0.5, 0.5])
    if rng.random() < 0.5:
        outer = star_shape(rng, centre, 0.5, OUTER)
    else:
        outer = random_polygon(rng, centre, 0.5, OUTER, int(rng.integers(3, 9)))
    return Domain(outer, _draw_holes(rng, outer, int(rng.integers(0, 3))))


def solve_darcy(
    mesh: Triangulation,
    coefficient: Function,
    source: float | Function,
    *,
    refinements: int = REFINEMENTS,
) -> Array:
    """Solve -div(a grad u) = source with u = 0 on the whole boundary; return u at the nodes.

    Quadratic elements on `mesh` refined `refinements` times, the coefficient evaluated at the
    quadrature points. The nodes of `mesh` are nodes of the refined one, so nothing is
    interpolated. Linear elements on `mesh` itself would leave errors of 0.3 to 1.4 per cent.

    Args:
        coefficient: a, positive, (point, 2) -> (point,).
        source: Right-hand side: beta, or a function of the point.
    Shape:
        output: (node,)
    """
    fine = skfem.MeshTri(mesh.points.T.copy(), mesh.cells.T.copy()).refined(refinements)
    basis = skfem.Basis(fine, skfem.ElementTriP2(), intorder=4)
    places = np.moveaxis(np.asarray(basis.global_coordinates()), 0, -1)
    a = coefficient(places.reshape(-1, 2)).reshape(places.shape[:-1])
    f = (
        source(places.reshape(-1, 2)).reshape(places.shape[:-1])
        if callable(source)
        else np.full(places.shape[:-1], float(source))
    )
    stiffness = skfem.BilinearForm(lambda u, v, w: w.a * dot(grad(u), grad(v))).assemble(basis, a=a)
    load = skfem.LinearForm(lambda v, w: w.f * v).assemble(basis, f=f)
    free = basis.complement_dofs(basis.get_dofs())
    solution = np.zeros(basis.N)
    factors = splu(
        stiffness[free][:, free].tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    solution[free] = factors.solve(load[free])
    return solution[basis.nodal_dofs[0, : len(mesh.points)]]


def solve(task: PointTask) -> Iterator[SolvedPoints]:
    """Solve one random domain, coefficient and triangulation after the other.

    Domain, triangulation and coefficient of trajectory i depend on (seed, i) and `task.nodes`
    alone; `parameters` must hold beta, the constant source.

    Raises:
        DataError: A domain could not be triangulated, or a solution does not stay finite.
    """
    for index in task.trajectories:
        rng = np.random.default_rng([task.seed, index, STREAM])
        where = f"darcy2d_mesh: trajectory {index}"
        domain, coefficient = draw_domain(rng), draw_coefficient(rng)
        mesh = triangulate(domain, draw_nodes(rng, task.nodes), rng, where=where)
        with np.errstate(over="ignore", invalid="ignore"):
            u = solve_darcy(mesh, coefficient, float(task.parameters["beta"]))
        if not np.isfinite(u).all():
            raise DataError(
                f"{where}: the solution does not stay finite", hint="another --seed, or report it"
            )
        yield SolvedPoints(
            PointTrajectory(
                coords=mesh.points.astype(np.float32),
                fields=u[None, :, None].astype(np.float32),
                inputs=coefficient(mesh.points)[:, None].astype(np.float32),
                cells=mesh.cells,
                tags=mesh.tags,
            )
        )


def _draw_holes(
    rng: np.random.Generator, outer: tuple[Piece, ...], number: int
) -> tuple[tuple[Piece, ...], ...]:
    """Round holes at least 0.08 from the outer boundary and from each other, if there is room."""
    boundary = np.concatenate([piece.points for piece in outer])
    found: list[tuple[Array, float]] = []
    for _ in range(200):
        if len(found) == number:
            break
        centre, radius = rng.uniform(0.15, 0.85, 2), float(rng.uniform(0.04, 0.1))
        gaps = [np.linalg.norm(boundary - centre, axis=1).min() - radius]
        gaps += [np.linalg.norm(centre - other) - radius - size for other, size in found]
        if min(gaps) > 0.08 and _is_inside(boundary, centre):
            found.append((centre, radius))
    return tuple(circle((float(c[0]), float(c[1])), r, HOLE) for c, r in found)


def _is_inside(boundary: Array, point: Array) -> bool:
    return bool(contains([boundary], point[None])[0])
