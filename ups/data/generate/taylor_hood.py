"""Unsteady incompressible flow on triangulations: Taylor-Hood elements, BDF2, factorised once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse
import skfem
from scipy.sparse.linalg import splu
from skfem.helpers import dot, grad

from ups.data.generate.triangulations import Triangulation

Array = npt.NDArray[Any]

EXTRAPOLATION = (2.6, -2.2, 0.6)
"""Weights of the convection now and one and two steps earlier, for its value at the next step.

Second order, as 2, -1, 0 is; but BDF2 is then stable for pure waves up to frequency x step = 0.72,
where with 2, -1, 0 it is never, and with the third-order 3, -3, 1 only up to 0.62.
"""


@dataclass(frozen=True)
class FlowState:
    """The flow at one time, and what the next step needs of the time before.

    Attributes:
        velocity: (dof, 2) at the corners and edge midpoints, in the solver's order.
        before: The same, one step earlier.
        pressure: (node,), divided by the density.
        convection: Now and one and two steps earlier, tested with the basis functions, (dof, 2).
    """

    velocity: Array
    before: Array
    pressure: Array
    convection: tuple[Array, Array, Array]


class FlowSolver:
    """u_t + (u . grad) u + grad p = nu lap u, div u = 0, with Dirichlet and do-nothing parts.

    Quadratic velocity, linear pressure. BDF2 in time; convection is extrapolated from the last
    three steps, so that every step solves the same linear system, coupled in velocity and pressure:
    no splitting error, and div u is zero against every pressure test function. Stable while the
    fastest flow crosses no more than about a quarter of an edge per step.

    On the do-nothing part nu du/dn = p n where the flow leaves; where it enters, half of the
    incoming momentum is taken out, without which a vortex that leaves may blow up.

    Args:
        viscosity: Kinematic, positive.
        dirichlet: Tags of boundary edges where the velocity is given. Where these are all, the
            pressure has zero mean over the nodes.
    Source:
        Taylor and Hood, Computers and Fluids 1 (1973); Ascher, Ruuth and Wetton, SIAM J. Numer.
        Anal. 32 (1995) for SBDF2; Braack and Mucha, J. Comput. Math. 32 (2014) for the outflow.
    """

    def __init__(
        self,
        mesh: Triangulation,
        *,
        viscosity: float,
        time_step: float,
        dirichlet: Collection[int],
    ) -> None:
        self.viscosity, self.time_step = viscosity, time_step
        elements = skfem.MeshTri(mesh.points.T.copy(), mesh.cells.T.copy())
        basis = skfem.Basis(elements, skfem.ElementTriP2(), intorder=5)
        self.places: Array = basis.doflocs.T
        """(dof, 2), where the velocity's degrees of freedom lie."""
        self.node_dofs: Array = basis.nodal_dofs[0]
        given, open_edges = _split_facets(elements, mesh, dirichlet)
        self.given: Array = np.unique(basis.get_dofs(given).all())
        """Degrees of freedom where the velocity is prescribed."""
        self.free: Array = np.setdiff1d(np.arange(basis.N), self.given)
        self._enclosed = len(open_edges) == 0
        self._assemble(basis)
        self._convection_at(basis)
        self._outflow_at(elements, open_edges)
        self._factorise()

    def start(self, velocity: Array, before: Array) -> FlowState:
        """A state from the velocity now and one step earlier; its pressure is not known yet."""
        now, earlier = self.convect(velocity), self.convect(before)
        pressure = np.zeros(self.divergence[0].shape[0])
        return FlowState(velocity, before, pressure, (now, earlier, 2 * earlier - now))

    def step(self, state: FlowState, boundary: Array) -> FlowState:
        """Advance by one time step.

        Args:
            boundary: Velocity at `self.given` at the new time, (given, 2).
        """
        history = (4 * state.velocity - state.before) / (2 * self.time_step)
        load = self.mass @ history
        for weight, earlier in zip(EXTRAPOLATION, state.convection, strict=True):
            load -= weight * earlier
        velocity = np.zeros_like(state.velocity)
        velocity[self.given] = boundary
        momentum = load - self.helmholtz @ velocity
        continuity = sum(d @ velocity[:, i] for i, d in enumerate(self.divergence))
        right = [momentum[self.free, 0], momentum[self.free, 1], continuity[self._kept]]
        solution = self._factors.solve(np.concatenate(right))
        inner = len(self.free)
        velocity[self.free] = solution[: 2 * inner].reshape(2, -1).T
        pressure = np.zeros_like(state.pressure)
        pressure[self._kept] = solution[2 * inner :]
        if self._enclosed:
            pressure -= pressure.mean()
        convection = (self.convect(velocity), *state.convection[:2])
        return FlowState(velocity, state.velocity, pressure, convection)

    def convect(self, velocity: Array) -> Array:
        """(u . grad) u tested with every basis function, the outflow's term included: (dof, 2)."""
        u, v = (self._values @ velocity).T
        along_x, along_y = self._slopes[0] @ velocity, self._slopes[1] @ velocity
        change = u[:, None] * along_x + v[:, None] * along_y
        inside = self._values.T @ (self._weights[:, None] * change)
        if self._enclosed:
            return inside
        leaving = self._outflow_values @ velocity
        entering = np.minimum((leaving * self._outflow_normals).sum(1), 0)
        taken = (self._outflow_weights * entering)[:, None] * leaving
        return inside - 0.5 * (self._outflow_values.T @ taken)

    def force(self, state: FlowState, dofs: Array) -> Array:
        """Force of the fluid on the boundary part with these degrees of freedom, by the residual.

        Converges twice as fast as integrating the stress along the boundary; the acceleration in
        it is first order in the time step. Density 1.

        Shape:
            output: (2,)
        """
        stress = self.viscosity * (self.stiffness @ state.velocity) + state.convection[0]
        for i, matrix in enumerate(self.divergence):
            stress[:, i] -= matrix.T @ state.pressure
        change = (state.velocity - state.before) / self.time_step
        return -(stress + self.mass @ change)[dofs].sum(0)

    def divergence_residual(self, velocity: Array) -> float:
        """Largest |integral of q div u| over the pressure's basis functions q."""
        return float(np.abs(sum(d @ velocity[:, i] for i, d in enumerate(self.divergence))).max())

    def _assemble(self, basis: Any) -> None:
        linear = basis.with_element(skfem.ElementTriP1())
        self.mass = skfem.BilinearForm(lambda u, v, w: u * v).assemble(basis)
        self.stiffness = skfem.BilinearForm(lambda u, v, w: dot(grad(u), grad(v))).assemble(basis)
        self.divergence = [
            skfem.BilinearForm(lambda u, q, w, i=i: grad(u)[i] * q).assemble(basis, linear)
            for i in (0, 1)
        ]
        self.helmholtz = 1.5 / self.time_step * self.mass + self.viscosity * self.stiffness

    def _convection_at(self, basis: Any) -> None:
        """Sparse maps from degrees of freedom to values and slopes at the quadrature points."""
        fields = [function[0] for function in basis.basis]
        dofs = basis.element_dofs
        self._weights: Array = basis.dx.ravel()
        self._values = _at_points(
            [np.asarray(f) for f in fields], dofs, int(basis.N), basis.dx.shape
        )
        self._slopes = [
            _at_points([f.grad[i] for f in fields], dofs, int(basis.N), basis.dx.shape)
            for i in (0, 1)
        ]

    def _outflow_at(self, elements: Any, open_edges: Array) -> None:
        if self._enclosed:
            return
        basis = skfem.FacetBasis(elements, skfem.ElementTriP2(), facets=open_edges, intorder=5)
        fields = [np.asarray(function[0]) for function in basis.basis]
        self._outflow_weights: Array = basis.dx.ravel()
        self._outflow_normals: Array = np.asarray(basis.normals).reshape(2, -1).T
        self._outflow_values = _at_points(fields, basis.element_dofs, int(basis.N), basis.dx.shape)

    def _factorise(self) -> None:
        num_nodes = self.divergence[0].shape[0]
        self._kept = np.arange(1 if self._enclosed else 0, num_nodes)
        block = self.helmholtz[self.free][:, self.free]
        first, second = (-d[self._kept][:, self.free] for d in self.divergence)
        system = sparse.bmat(
            [[block, None, first.T], [None, block, second.T], [first, second, None]]
        )
        self._factors = splu(
            system.tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.01,
            options={"SymmetricMode": True},
        )


def _split_facets(
    elements: Any, mesh: Triangulation, dirichlet: Collection[int]
) -> tuple[Array, Array]:
    """Numbers of the boundary edges with a given velocity, and of the open ones."""
    number = {tuple(sorted(pair)): i for i, pair in enumerate(elements.facets.T.tolist())}
    facets = np.array([number[tuple(sorted(pair))] for pair in mesh.facets.tolist()])
    given = np.isin(mesh.facet_tags, list(dirichlet))
    return facets[given], facets[~given]


def _at_points(
    values: list[Array], dofs: Array, num_dofs: int, shape: tuple[int, int]
) -> sparse.csr_matrix:
    """A matrix from degrees of freedom to points; `values` per local function, (cell, point)."""
    num_points = shape[0] * shape[1]
    rows = np.tile(np.arange(num_points), len(values))
    columns = np.concatenate([np.repeat(row, shape[1]) for row in dofs])
    entries = np.concatenate([np.broadcast_to(v, shape).ravel() for v in values])
    return sparse.csr_matrix((entries, (rows, columns)), shape=(num_points, num_dofs))
