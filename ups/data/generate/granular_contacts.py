"""Frictionless spheres that fall, collide and settle in a closed box: soft-sphere DEM.

Spheres a and b whose surfaces overlap by d push each other apart along the line of centres with

    f = k d + c dd/dt,    c = 2 zeta sqrt(k m),    1/m = 1/m_a + 1/m_b

and a wall pushes a sphere in the same way, with m = m_a. One k for all contacts; zeta follows
from the coefficient of restitution e, the same for all contacts: between two spheres alone the
speed of separation is e times that of approach. Lengths are in box sides, the density and gravity
are 1, so that times are in sqrt(box side / gravity). Forces are central: spheres never turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from ups.data.generate.base import PointTask, SolvedPoints
from ups.data.layouts.base import PointTrajectory
from ups.errors import DataError, UsageError

Array = npt.NDArray[Any]

BOX = 1.0
RADII = (0.04, 0.06)
RESTITUTION = (0.3, 0.95)
"""From these ranges each sphere and each trajectory draw theirs, all values equally likely."""

INITIAL_SPEED = 0.3
"""Standard deviation of each component of the velocities at t = 0."""

FASTEST_APPROACH = 3.0
DESIGN_OVERLAP = 0.05
"""Two of the largest spheres that meet at this speed overlap by this share of their radius.

A sphere that falls through the whole box arrives at 1.4; the fastest approach is that of one
which bounces back to one that falls.
"""

MAX_OVERLAP = 0.1
"""A trajectory in which any overlap exceeds this share of the smaller radius is refused."""

STEPS_PER_CONTACT = 20
"""Time steps in the shortest contact, that of the two smallest spheres without damping.

The restitution of a small and a large sphere then comes out wrong by at most 5 % of itself at
e = 0.3, 4 % at 0.6, 0.6 % at 0.9 and 0.1 % at 1, of sixteen collisions each; the error falls
in proportion to the step (benchmarks/generators_particles.py).
"""

_SKIN = 0.25
"""Pairs are looked for up to this share of the mean radius beyond contact."""

_ATTEMPTS = 2000
_STREAM = 0x6772616E
"""Sets this dataset's random numbers apart from those of others with the same seed."""


def solve(task: PointTask) -> Iterator[SolvedPoints]:
    """Draw radii, places and velocities of spheres in the unit cube, and let them fall along -z.

    Positions are drawn without overlap, velocities from a normal distribution. Channels:
    velocity_x, velocity_y, velocity_z; input: radius (the mass is 4/3 pi radius^3).

    Solved in float64 by numpy, whatever `task.device`: a trajectory is tens of thousands of steps,
    each a few small operations on some hundred spheres, which a GPU would spend waiting.

    Args:
        task: `parameters` may fix `restitution`.
    Raises:
        DataError: A trajectory did not stay finite, or an overlap became too large.
        UsageError: `restitution` outside (0, 1], or more spheres than fit into the box.
        ValueError: The times do not rise from 0 or later.
    """
    for index in task.trajectories:
        random = np.random.default_rng([task.seed, index, _STREAM])
        num_spheres = int(random.integers(task.nodes[0], task.nodes[1] + 1))
        # Drawn even where it is fixed, so that the start is the same for every restitution.
        drawn = float(random.uniform(*RESTITUTION))
        restitution = float(task.parameters.get("restitution", drawn))
        radii = random.uniform(*RADII, num_spheres)
        start = place_spheres(random, radii)
        velocities = random.normal(scale=INITIAL_SPEED, size=start.shape)
        spheres = Spheres(radii, restitution, gravity=(0.0, 0.0, -1.0), box=BOX)
        positions, velocities, overlap = simulate(spheres, start, velocities, times=task.times)
        _check(index, positions, velocities, overlap, restitution)
        trajectory = PointTrajectory(
            coords=positions.astype(np.float32),
            fields=velocities.astype(np.float32),
            inputs=radii[:, None].astype(np.float32),
        )
        yield SolvedPoints(trajectory, {"restitution": restitution})


def contact_stiffness(radii: tuple[float, float] = RADII) -> float:
    """k by which the largest spheres, meeting at `FASTEST_APPROACH`, overlap as designed.

    Without damping two spheres of reduced mass m that meet at speed v overlap by v sqrt(m / k).
    """
    reduced_mass = 2 / 3 * math.pi * radii[1] ** 3
    return reduced_mass * (FASTEST_APPROACH / (DESIGN_OVERLAP * radii[1])) ** 2


def damping_ratio(restitution: float) -> float:
    """zeta of restitution = exp(-pi zeta / sqrt(1 - zeta^2)).

    The formula counts a contact until the surfaces part; towards its end the dashpot may hold
    the spheres back. A model without such pull has another formula.

    Source:
        Schwager and Poeschel 2007, Granular Matter 9, 465.
    """
    if not 0 < restitution <= 1:
        raise UsageError(
            f"granular_contacts: parameter restitution={restitution:g} must be in (0, 1]"
        )
    loss = -math.log(restitution)
    return loss / math.hypot(math.pi, loss)


@dataclass(frozen=True)
class Spheres:
    """What does not change while they move.

    Attributes:
        radii: (node,).
        gravity: Acceleration, one entry per axis.
        box: Side of the cube (0, box) that holds them; None for no walls.
    """

    radii: Array
    restitution: float
    gravity: tuple[float, ...]
    box: float | None = None
    stiffness: float = contact_stiffness()

    @property
    def masses(self) -> Array:
        return 4 / 3 * math.pi * self.radii**3

    def longest_step(self) -> float:
        """A share of the shortest contact's duration, pi sqrt(m / k)."""
        reduced_mass = float(self.masses.min()) / 2
        return math.pi * math.sqrt(reduced_mass / self.stiffness) / STEPS_PER_CONTACT


def simulate(
    spheres: Spheres,
    positions: Array,
    velocities: Array,
    *,
    times: Sequence[float],
    max_step: float | None = None,
) -> tuple[Array, Array, float]:
    """Integrate Newton's equations from t = 0 by velocity Verlet.

    Second order in the step without damping and exact in free fall; the velocity in the damping
    force is predicted one step ahead. With damping the force jumps where a contact begins, which
    makes the method first order.

    Args:
        positions: (node, dim) at t = 0, inside the box.
        velocities: (node, dim) at t = 0.
        times: When to store a frame: not negative, rising.
        max_step: Instead of `Spheres.longest_step`; a frame interval is cut into equal steps.
    Returns:
        Positions and velocities, (time, node, dim) float64, and the largest overlap of all
        steps as a share of the smaller radius. Where the solution does not stay finite the
        frames from there on hold NaN.
    Source:
        Cundall and Strack 1979, Geotechnique 29, 47 (the contact model); Swope et al. 1982,
        J. Chem. Phys. 76, 637 (velocity Verlet).
    """
    if not times or times[0] < 0 or any(b <= a for a, b in pairwise(times)):
        raise ValueError("times must rise and not be negative")
    longest = spheres.longest_step() if max_step is None else max_step
    forces = _Forces(spheres)
    place, velocity, now = positions.astype(np.float64), velocities.astype(np.float64), 0.0
    acceleration = forces.acceleration(place, velocity)
    frames = np.full((2, len(times), *place.shape), np.nan)
    for index, time in enumerate(times):
        num_steps = math.ceil((time - now) / longest - 1e-9)
        step = (time - now) / max(num_steps, 1)
        with np.errstate(all="ignore"):
            for _ in range(num_steps):
                kick = step * acceleration
                place = place + step * (velocity + 0.5 * kick)
                before, acceleration = acceleration, forces.acceleration(place, velocity + kick)
                velocity = velocity + 0.5 * step * (before + acceleration)
        if not (np.isfinite(place).all() and np.isfinite(velocity).all()):
            break
        frames[:, index], now = (place, velocity), time
    return frames[0], frames[1], forces.largest_overlap


class _Forces:
    """Contact forces and gravity; keeps the list of pairs that may touch."""

    def __init__(self, spheres: Spheres) -> None:
        self.spheres = spheres
        self.inverse_mass = 1 / spheres.masses[:, None]
        self.gravity = np.asarray(spheres.gravity, dtype=np.float64)
        zeta = damping_ratio(spheres.restitution)
        self.stiffness = spheres.stiffness
        self.damping = 2 * zeta * math.sqrt(spheres.stiffness)
        self.wall_damping = self.damping * np.sqrt(spheres.masses)[:, None]
        self.skin = _SKIN * float(spheres.radii.mean())
        self.largest_overlap = 0.0
        self._listed_at: Array | None = None

    def acceleration(self, positions: Array, velocities: Array) -> Array:
        """(node, dim), (node, dim) -> (node, dim)."""
        self._refresh_pairs(positions)
        force = self._contacts(positions, velocities)
        if self.spheres.box is not None:
            self._add_walls(force, positions, velocities)
        return force * self.inverse_mass + self.gravity

    def _refresh_pairs(self, positions: Array) -> None:
        """List anew once a pair that was left out could touch."""
        if self._listed_at is not None:
            moved = positions - self._listed_at
            # NaN and infinity need no list: the caller gives the trajectory up.
            if not self.skin**2 < 4 * np.einsum("nd,nd->n", moved, moved).max() < math.inf:
                return
        radii = self.spheres.radii
        reach = 2 * float(radii.max()) + self.skin
        pairs = cKDTree(positions).query_pairs(reach, output_type="ndarray")
        first, second = pairs[np.lexsort(pairs.T)].T
        between = positions[second] - positions[first]
        touching = radii[first] + radii[second]
        near = np.einsum("pd,pd->p", between, between) <= (touching + self.skin) ** 2
        self._first, self._second, self._touching = first[near], second[near], touching[near]
        self._listed_at = positions

    def _contacts(self, positions: Array, velocities: Array) -> Array:
        """(node, dim): the sum of the forces of all other spheres."""
        between = positions[self._second] - positions[self._first]
        square = np.einsum("pd,pd->p", between, between)
        (hit,) = np.nonzero(square < self._touching**2)
        force = np.zeros_like(positions)
        if not len(hit):
            return force
        first, second, distance = self._first[hit], self._second[hit], np.sqrt(square[hit])
        normal = between[hit] / distance[:, None]
        overlap = self._touching[hit] - distance
        radii, inverse_mass = self.spheres.radii, self.inverse_mass[:, 0]
        self._note(overlap / np.minimum(radii[first], radii[second]))
        parting = np.einsum("pd,pd->p", velocities[second] - velocities[first], normal)
        damping = self.damping / np.sqrt(inverse_mass[first] + inverse_mass[second])
        push = (self.stiffness * overlap - damping * parting)[:, None] * normal
        num_spheres = len(positions)
        for axis in range(positions.shape[1]):
            on_second = np.bincount(second, push[:, axis], num_spheres)
            force[:, axis] = on_second - np.bincount(first, push[:, axis], num_spheres)
        return force

    def _add_walls(self, force: Array, positions: Array, velocities: Array) -> None:
        """In place. A sphere is narrower than the box: it touches one of two opposite walls."""
        middle = 0.5 * (self.spheres.box or 0.0)
        radii = self.spheres.radii[:, None]
        offset = positions - middle
        overlap = np.abs(offset) + (radii - middle)
        hit = overlap > 0
        if not hit.any():
            return
        self._note((overlap / radii)[hit])
        outward = np.sign(offset)
        push = self.stiffness * overlap + self.wall_damping * outward * velocities
        force -= np.where(hit, push * outward, 0.0)

    def _note(self, shares: Array) -> None:
        self.largest_overlap = max(self.largest_overlap, float(shares.max()))


def place_spheres(random: np.random.Generator, radii: Array, dim: int = 3) -> Array:
    """Independent uniform places in the unit box, drawn again where a sphere overlaps another.

    Returns:
        (node, dim) float64.
    Raises:
        UsageError: A sphere found no place.
    """
    placed = np.empty((len(radii), dim))
    for index, radius in enumerate(radii):
        for _ in range(_ATTEMPTS):
            candidate = random.uniform(radius, BOX - radius, dim)
            square = ((placed[:index] - candidate) ** 2).sum(1)
            if (square >= (radii[:index] + radius) ** 2).all():
                placed[index] = candidate
                break
        else:
            raise UsageError(
                f"granular_contacts: nodes: {len(radii)} spheres of radius {radii.min():.3g} to "
                f"{radii.max():.3g} do not fit, {index} found a place",
                hint="ask for fewer nodes: the card's range fits",
            )
    return placed


def _check(
    index: int, positions: Array, velocities: Array, overlap: float, restitution: float
) -> None:
    where = f"granular_contacts: trajectory {index}"
    if not (np.isfinite(positions).all() and np.isfinite(velocities).all()):
        raise DataError(
            f"{where}: the solution did not stay finite", hint=f"restitution={restitution:g}"
        )
    if overlap > MAX_OVERLAP:
        raise DataError(
            f"{where}: spheres overlap by {overlap:.3g} of a radius, more than {MAX_OVERLAP:g}",
            hint="another seed; or fewer nodes",
        )
