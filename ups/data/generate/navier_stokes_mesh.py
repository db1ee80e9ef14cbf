"""Flow past one to three obstacles in a channel, on triangulations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from ups.data.generate.base import PointTask, SolvedPoints
from ups.data.generate.domains import Domain, Piece, closed_curve, polygon
from ups.data.generate.taylor_hood import FlowSolver, FlowState
from ups.data.generate.triangulations import Triangulation, draw_nodes, triangulate
from ups.data.layouts.base import PointTrajectory
from ups.errors import DataError, UsageError

Array = npt.NDArray[Any]

STREAM = 20_102
"""Keeps this dataset's random numbers apart from those of others with the same seed."""

LENGTH, HEIGHT = 2.2, 0.41
INFLOW, OUTFLOW, WALL, OBSTACLE = 1, 2, 3, 4
REYNOLDS = (60.0, 180.0)

RAMP = 1.0
"""Time in which the inflow rises from rest to its full profile."""

PULSE = (0.4, 0.8)
"""Begin and end of the transverse pulse at the inflow that starts the vortex street."""

START_UP = (3.0, 3.5)
"""The first frame lies at a time drawn from here after the fluid was at rest."""

LONGEST_STEP = 0.0025
COURANT = 0.35
"""Part of the shortest edge that the fastest flow expected may cross in one step."""

FASTEST = 8.0
"""A speed that no flow here reaches, 8 times the mean inflow; beyond it a step was too long."""

SHORTENED = (1.0, 0.7, 0.5, 0.35)
"""Time steps tried one after the other, as parts of the first, until the flow stays bounded."""


@dataclass(frozen=True)
class Obstacle:
    """A closed curve of dense points, counter-clockwise: (point, 2)."""

    points: Array

    @property
    def height(self) -> float:
        """Its extent across the channel."""
        return float(np.ptp(self.points[:, 1]))


@dataclass(frozen=True)
class Channel:
    """One problem: obstacles in the channel, and the flow's Reynolds number.

    Attributes:
        reynolds: Mean inflow speed (1) times the largest obstacle's height / viscosity.
        pulse: Strength of the transverse pulse, in units of the mean inflow.
        start: When frame 0 is taken.
    """

    obstacles: tuple[Obstacle, ...]
    reynolds: float
    pulse: float
    start: float

    @property
    def viscosity(self) -> float:
        return max(obstacle.height for obstacle in self.obstacles) / self.reynolds

    def domain(self) -> Domain:
        corners = np.array([[0, 0], [LENGTH, 0], [LENGTH, HEIGHT], [0, HEIGHT]])
        holes = tuple(_ring(obstacle) for obstacle in self.obstacles)
        return Domain(polygon(corners, [WALL, OUTFLOW, WALL, INFLOW]), holes)

    def size(self, points: Array) -> Array:
        """Wanted edge length: 1 at the obstacles, slowly growing downstream, at most 3."""
        wanted = np.full(len(points), 3.0)
        for obstacle in self.obstacles:
            wanted = np.minimum(wanted, 1 + 10 * _wake_distance(obstacle.points, points))
        return wanted

    def inflow(self, y: Array, time: float) -> Array:
        """Velocity on the left boundary: a parabola of mean 1, and the pulse while it lasts."""
        profile = 4 * y * (HEIGHT - y) / HEIGHT**2
        along = 1.5 * profile * _smooth_step(time / RAMP)
        begin, end = PULSE
        part = (time - begin) / (end - begin)
        across = self.pulse * profile * (math.sin(math.pi * part) ** 2 if 0 < part < 1 else 0)
        return np.stack([along, across], 1)


def draw_channel(rng: np.random.Generator) -> Channel:
    """Obstacles, Reynolds number (uniform in its logarithm), pulse and start of one trajectory."""
    reynolds = float(np.exp(rng.uniform(*np.log(REYNOLDS))))
    pulse = float(rng.choice([-1.0, 1.0]) * rng.uniform(0.2, 0.4))
    start = float(rng.uniform(*START_UP))
    return Channel(_draw_obstacles(rng, int(rng.integers(1, 4))), reynolds, pulse, start)


def solve_channel(
    channel: Channel, mesh: Triangulation, times: Sequence[float], *, where: str
) -> Array:
    """Solve from rest; frames at `channel.start` + times - times[0].

    Shape:
        output: (time, node, 3): velocity_x, velocity_y, pressure
    Raises:
        DataError: The flow does not stay bounded, not with the shortest step either.
    """
    interval = _interval(times)
    for part in SHORTENED:
        frames = _attempt(channel, mesh, len(times), interval, part * first_step(channel, mesh))
        if frames is not None:
            return frames
    raise DataError(
        f"{where}: the solution does not stay bounded", hint="another --seed, or more nodes"
    )


def first_step(channel: Channel, mesh: Triangulation) -> float:
    """The time step of the first attempt, from the shortest edge and the widest obstacle."""
    open_height = HEIGHT - max(obstacle.height for obstacle in channel.obstacles)
    fastest = 1.5 * HEIGHT / open_height
    edges = mesh.points[mesh.cells] - mesh.points[np.roll(mesh.cells, 1, axis=1)]
    shortest = float(np.linalg.norm(edges, axis=-1).min())
    return min(LONGEST_STEP, COURANT * shortest / fastest)


def solve(task: PointTask) -> Iterator[SolvedPoints]:
    """Solve one random channel after the other; `reynolds` and `viscosity` are drawn.

    `parameters` may fix `reynolds`.

    Raises:
        DataError: A channel could not be triangulated, or a flow does not stay finite.
        UsageError: The times are not evenly spaced.
    """
    for index in task.trajectories:
        rng = np.random.default_rng([task.seed, index, STREAM])
        where = f"navier_stokes_mesh: trajectory {index}"
        drawn = draw_channel(rng)
        reynolds = float(task.parameters.get("reynolds", drawn.reynolds))
        channel = Channel(drawn.obstacles, reynolds, drawn.pulse, drawn.start)
        nodes = draw_nodes(rng, task.nodes)
        mesh = triangulate(channel.domain(), nodes, rng, size=channel.size, where=where)
        frames = solve_channel(channel, mesh, task.times, where=where)
        yield SolvedPoints(
            PointTrajectory(
                coords=mesh.points.astype(np.float32),
                fields=frames.astype(np.float32),
                cells=mesh.cells,
                tags=mesh.tags,
            ),
            {"reynolds": channel.reynolds, "viscosity": channel.viscosity},
        )


def _attempt(
    channel: Channel, mesh: Triangulation, num_frames: int, interval: float, longest: float
) -> Array | None:
    """All frames with one time step, or None where the flow became too fast."""
    per_frame = math.ceil(interval / longest - 1e-9)
    step = interval / per_frame
    solver = FlowSolver(
        mesh, viscosity=channel.viscosity, time_step=step, dirichlet=(INFLOW, WALL, OBSTACLE)
    )
    rest = np.zeros_like(solver.places)
    state, first = solver.start(rest, rest), round(channel.start / step)
    frames: list[Array] = []
    for number in range(1, first + per_frame * (num_frames - 1) + 1):
        state = solver.step(state, boundary_velocity(solver, channel, number * step))
        if not np.abs(state.velocity).max() < FASTEST:
            return None
        if number >= first and (number - first) % per_frame == 0:
            frames.append(at_nodes(solver, state))
    return np.stack(frames)


def boundary_velocity(solver: FlowSolver, channel: Channel, time: float) -> Array:
    """Velocity at the solver's given degrees of freedom: (given, 2)."""
    places = solver.places[solver.given]
    velocity = np.zeros_like(places)
    left = places[:, 0] < 1e-9
    velocity[left] = channel.inflow(places[left, 1], time)
    return velocity


def at_nodes(solver: FlowSolver, state: FlowState) -> Array:
    """Velocity and pressure at the triangulation's nodes: (node, 3)."""
    return np.concatenate([state.velocity[solver.node_dofs], state.pressure[:, None]], 1)


def _interval(times: Sequence[float]) -> float:
    if len(times) < 2:
        return LONGEST_STEP
    steps = np.diff(times)
    if steps.min() <= 0 or not np.allclose(steps, steps[0], rtol=1e-6):
        raise UsageError(
            f"navier_stokes_mesh: times: steps between {steps.min():g} and {steps.max():g}",
            hint="the frames must be evenly spaced and rise",
        )
    return float(times[-1] - times[0]) / (len(times) - 1)


def _ring(obstacle: Obstacle) -> tuple[Piece, ...]:
    return closed_curve(obstacle.points, OBSTACLE)


def _wake_distance(outline: Array, points: Array) -> Array:
    """Distance to an outline, counted a third along the flow behind it."""
    centre = outline.mean(0)
    behind = points[:, 0] > centre[0]
    near = cKDTree(outline).query(points)[0]
    squeezed = points.copy()
    squeezed[behind, 0] = centre[0] + (points[behind, 0] - centre[0]) / 3
    return np.where(behind, np.minimum(near, cKDTree(outline).query(squeezed)[0]), near)


def _smooth_step(part: float) -> float:
    """From 0 at 0 to 1 at 1, two derivatives zero at both ends."""
    x = min(max(part, 0.0), 1.0)
    return x**3 * (10 - 15 * x + 6 * x**2)


def _draw_obstacles(rng: np.random.Generator, number: int) -> tuple[Obstacle, ...]:
    """Obstacles at least 0.06 from the walls and 0.08 from each other."""
    found: list[Obstacle] = []
    while len(found) < number:
        room = 0.35 * len(found)
        centre = np.array([rng.uniform(0.2, 0.45 + room), rng.uniform(0.14, HEIGHT - 0.14)])
        points = centre + _draw_outline(rng)
        low, high = points[:, 1].min(), points[:, 1].max()
        clear = low > 0.06 and high < HEIGHT - 0.06
        apart = all(cKDTree(o.points).query(points)[0].min() > 0.08 for o in found)
        if clear and apart:
            found.append(Obstacle(points))
    return tuple(found)


def _draw_outline(rng: np.random.Generator) -> Array:
    """A circle, an ellipse or a rounded polygon about the origin: (point, 2)."""
    angle = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    radius, turn = rng.uniform(0.035, 0.065), rng.uniform(0, 2 * np.pi)
    shape = rng.integers(3)
    if shape == 0:
        return radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    if shape == 1:
        flat = rng.uniform(0.5, 0.9)
        outline = radius * np.stack([np.cos(angle), flat * np.sin(angle)], 1)
    else:
        corners = int(rng.integers(3, 7))
        # The gauge of a regular polygon in a high norm: straight sides, rounded corners.
        sides = 2 * np.pi * np.arange(corners) / corners
        reach = np.maximum(np.cos(angle[:, None] - sides), 0) ** 12
        distance = reach.sum(1) ** (-1 / 12)
        outline = radius * (distance / distance.max())[:, None]
        outline = outline * np.stack([np.cos(angle), np.sin(angle)], 1)
    c, s = np.cos(turn), np.sin(turn)
    return outline @ np.array([[c, s], [-s, c]])
