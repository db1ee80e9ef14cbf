"""Measure the mesh generators: `python benchmarks/generators_mesh.py {meshes,darcy,dfg,flows}`.

The figures in the cards darcy2d_mesh and navier_stokes_mesh and in docs/benchmarks.md are its.
Set OMP_NUM_THREADS=1: the generators are single-threaded.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import skfem
from skfem.helpers import dot, grad

from ups.data.generate import darcy2d_mesh, navier_stokes_mesh
from ups.data.generate.navier_stokes_mesh import Channel, Obstacle
from ups.data.generate.taylor_hood import FlowSolver
from ups.data.generate.triangulations import Triangulation, draw_nodes, triangulate

Array = npt.NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["meshes", "darcy", "dfg", "flows"])
    parser.add_argument("--trajectories", type=int, default=16)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 1500, 2000, 4000])
    parser.add_argument("--courant", type=float, default=1.0, help="Times the first time step.")
    options = parser.parse_args()
    match options.what:
        case "meshes":
            meshes(options.trajectories)
        case "darcy":
            darcy(options.trajectories)
        case "dfg":
            for nodes in options.nodes:
                dfg(nodes, options.courant)
        case "flows":
            flows(options.trajectories)


def meshes(number: int) -> None:
    """Smallest angles over both datasets' triangulations."""
    for name, draw in (("darcy2d_mesh", darcy_problem), ("navier_stokes_mesh", flow_problem)):
        start = time.perf_counter()
        found = [draw(index)[1] for index in range(number)]
        each = (time.perf_counter() - start) / number
        angles = np.array([mesh.min_angle() for mesh in found])
        typical = np.mean([mesh.angles().min(1).mean() for mesh in found])
        print(
            f"{name}: {number} meshes, {each:.2f} s each; smallest angle {angles.min():.1f}, "
            f"median over meshes {np.median(angles):.1f}, mean over triangles {typical:.1f} degrees"
        )


def darcy_problem(index: int) -> tuple[darcy2d_mesh.Function, Triangulation]:
    rng = np.random.default_rng([0, index, darcy2d_mesh.STREAM])
    domain, coefficient = darcy2d_mesh.draw_domain(rng), darcy2d_mesh.draw_coefficient(rng)
    return coefficient, triangulate(domain, draw_nodes(rng, (500, 2000)), rng)


def flow_problem(index: int) -> tuple[Channel, Triangulation]:
    rng = np.random.default_rng([0, index, navier_stokes_mesh.STREAM])
    channel = navier_stokes_mesh.draw_channel(rng)
    nodes = draw_nodes(rng, (1000, 2000))
    return channel, triangulate(channel.domain(), nodes, rng, size=channel.size)


def darcy(number: int) -> None:
    """Relative L2 distance at the nodes from quadratic elements refined three times."""
    errors: dict[str, list[float]] = {"P1": [], "P2": [], "P2 once": [], "P2 twice": []}
    seconds: dict[str, list[float]] = {name: [] for name in errors}
    for index in range(number):
        coefficient, mesh = darcy_problem(index)
        truth = darcy2d_mesh.solve_darcy(mesh, coefficient, 1.0, refinements=3)
        for level, name in enumerate(errors, start=-1):
            start = time.perf_counter()
            found = (
                linear_elements(mesh, coefficient)
                if level < 0
                else darcy2d_mesh.solve_darcy(mesh, coefficient, 1.0, refinements=level)
            )
            seconds[name].append(time.perf_counter() - start)
            errors[name].append(float(np.linalg.norm(found - truth) / np.linalg.norm(truth)))
    for name, values in errors.items():
        print(
            f"{name}: error median {np.median(values):.1e}, worst {max(values):.1e}, "
            f"{np.mean(seconds[name]):.2f} s per problem ({number} problems)"
        )


def linear_elements(mesh: Triangulation, coefficient: darcy2d_mesh.Function) -> Array:
    """What linear elements on the stored triangulation would give."""
    basis = skfem.Basis(
        skfem.MeshTri(mesh.points.T.copy(), mesh.cells.T.copy()), skfem.ElementTriP1()
    )
    a = basis.interpolate(coefficient(mesh.points))
    matrix = skfem.BilinearForm(lambda u, v, w: w.a * dot(grad(u), grad(v))).assemble(basis, a=a)
    load = skfem.LinearForm(lambda v, w: 1.0 * v).assemble(basis)
    return skfem.solve(*skfem.condense(matrix, load, D=basis.get_dofs()))


def dfg(nodes: int, courant: float) -> None:
    """The DFG benchmark 2D-2: a circle of diameter 0.1 at (0.2, 0.2), Re = 100.

    Reference: max drag 3.22 to 3.24, max lift 0.99 to 1.01, Strouhal number 0.295 to 0.305
    (Schaefer and Turek 1996).
    """
    angle = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    circle = Obstacle(0.2 + 0.05 * np.stack([np.cos(angle), np.sin(angle)], 1))
    channel = Channel((circle,), 100.0, 0.3, 0.0)
    mesh = triangulate(channel.domain(), nodes, np.random.default_rng(0), size=channel.size)
    step = courant * navier_stokes_mesh.first_step(channel, mesh)
    start = time.perf_counter()
    drag, lift, times = dfg_forces(channel, mesh, step, end=6.5)
    seconds = time.perf_counter() - start
    late = times > 5.0
    crossings = np.flatnonzero(np.diff(np.sign(lift[late])) > 0)
    rising = [_zero(times[late], lift[late], at) for at in crossings]
    period = float(np.mean([b - a for a, b in pairwise(rising)]))
    print(
        f"{nodes} nodes, {int((mesh.tags == navier_stokes_mesh.OBSTACLE).sum())} on the circle, "
        f"step {step:.5f}: max drag {drag[late].max():.4f}, max lift {lift[late].max():.4f}, "
        f"Strouhal {0.1 / period:.4f}, {seconds:.0f} s",
        flush=True,
    )


def dfg_forces(
    channel: Channel, mesh: Triangulation, step: float, end: float
) -> tuple[Array, Array, Array]:
    """Drag and lift coefficients of the obstacle after every step, and the times."""
    solver = FlowSolver(mesh, viscosity=0.001, time_step=step, dirichlet=(1, 3, 4))
    on_circle = np.hypot(*(solver.places - 0.2).T) < 0.0501
    dofs = np.intersect1d(np.flatnonzero(on_circle), solver.given)
    rest = np.zeros_like(solver.places)
    state, forces = solver.start(rest, rest), []
    times = step * np.arange(1, round(end / step) + 1)
    for moment in times:
        boundary = navier_stokes_mesh.boundary_velocity(solver, channel, float(moment))
        state = solver.step(state, boundary)
        forces.append(2 / 0.1 * solver.force(state, dofs))
    drag, lift = np.array(forces).T
    return drag, lift, times


def _zero(times: Array, values: Array, at: int) -> float:
    a, b = values[at], values[at + 1]
    return float(times[at] - a * (times[at + 1] - times[at]) / (b - a))


def flows(number: int) -> None:
    """Time per trajectory of 60 frames, how unsteady it is, and the steps it took."""
    times = tuple(0.02 * frame for frame in range(60))
    for index in range(number):
        channel, mesh = flow_problem(index)
        start = time.process_time()
        frames = navier_stokes_mesh.solve_channel(channel, mesh, times, where=str(index))
        seconds = time.process_time() - start
        unsteady = np.sqrt(((frames - frames.mean(0))[..., :2] ** 2).mean())
        print(
            f"{index}: {len(channel.obstacles)} obstacles, Re {channel.reynolds:.0f}, "
            f"{len(mesh.points)} nodes, smallest angle {mesh.min_angle():.0f}: "
            f"{seconds:.1f} CPU s, RMS of the unsteady part {unsteady:.3f}, "
            f"fastest {np.abs(frames[..., :2]).max():.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
