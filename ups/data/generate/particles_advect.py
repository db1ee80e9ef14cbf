"""Heavy particles carried by an unseen, unsteady, incompressible flow in a periodic square.

A particle at x with velocity v in the flow U answers to Stokes drag alone:

    dx/dt = v,    dv/dt = (U(x, t) - v) / St

St = 0 is a tracer, v = U. Lengths are in box sides, speeds in the flow's RMS speed. The particles
do not touch and do not act back on the flow. U is the curl of a random streamfunction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.data.generate.base import PointTask, SolvedPoints
from ups.data.layouts.base import PointTrajectory
from ups.errors import DataError, UsageError

Array = npt.NDArray[Any]
Flow = Callable[[Array, float], Array]
"""(node, 2) positions and a time -> (node, 2) velocities of the fluid."""

BOX = 1.0
MAX_WAVENUMBER = 4
"""Waves per box side of the finest eddies: a few hundred particles sample them."""

STOKES = (0.0, 0.05)
"""From this range each trajectory draws its own, all values equally likely.

Heavier particles leave most of the box: at St = 0.1 they have 2.7 times as many neighbours at
t = 1 as at the start, and say nothing about the flow where none of them is.
"""

MAX_STEP = 0.0025
"""Longest time step.

Largest position error of any particle after two units of time, twice as long as the card's
trajectories, in four flows of 600 particles: 5e-6 at St = 0.01, 3e-7 at 0.05, 2e-6 for tracers,
2e-4 around St = 0.001, where the drag time is shorter than the step
(benchmarks/generators_particles.py).
"""

_STREAM = 0x61647665
"""Sets this dataset's random numbers apart from those of others with the same seed."""


def solve(task: PointTask) -> Iterator[SolvedPoints]:
    """Draw a flow, a number of particles and their places, and follow them.

    Particles start at independent uniform places with the velocity of the flow there. Positions
    are stored wrapped into [0, 1): a particle that leaves through one side is back on the other
    one in the next frame. Channels: velocity_x, velocity_y, flow_x, flow_y, the latter two being
    U at the particle.

    Solved in float64 by numpy, whatever `task.device`: a step is a chain of small operations on
    some hundred particles, which a GPU would spend waiting.

    Args:
        task: `parameters` holds `unsteadiness`, the RMS angular frequency of the flow's waves,
            and may fix `stokes`.
    Raises:
        DataError: A trajectory did not stay finite.
        UsageError: A parameter outside its domain.
        ValueError: The times do not rise from 0 or later.
    """
    unsteadiness = _not_negative("unsteadiness", task.parameters["unsteadiness"])
    for index in task.trajectories:
        random = np.random.default_rng([task.seed, index, _STREAM])
        num_particles = int(random.integers(task.nodes[0], task.nodes[1] + 1))
        # Drawn even where it is fixed, so that the flow is the same for every Stokes number.
        drawn = float(random.uniform(*STOKES))
        stokes = _not_negative("stokes", task.parameters.get("stokes", drawn))
        with np.errstate(all="ignore"):
            flow = random_flow(random, unsteadiness)
        start = random.uniform(0.0, BOX, (num_particles, 2))
        with np.errstate(all="ignore"):
            frames = advect(flow, start, flow(start, 0.0), stokes=stokes, times=task.times)
        if not all(np.isfinite(values).all() for values in frames):
            raise DataError(
                f"particles_advect: trajectory {index}: the solution did not stay finite",
                hint=f"stokes={stokes:g} and unsteadiness={unsteadiness:g}: use smaller ones",
            )
        yield SolvedPoints(_stored(*frames), {"stokes": stokes})


@dataclass(frozen=True)
class FourierFlow:
    """An incompressible flow: the curl of a sum of travelling waves in the periodic unit square.

        psi(x, t) = Re sum_k c_k exp(i (2 pi k.x + w_k t)),    U = (psi_y, -psi_x)

    Attributes:
        coefficients: (k_x, k_y) complex, k_x from 0 and k_y from -K to K in rising order.
        frequencies: (k_x, k_y), radians per unit of time.
    """

    coefficients: Array
    frequencies: Array

    def streamfunction(self, positions: Array, time: float) -> Array:
        """(node, 2) -> (node,). Particles of a steady flow without inertia keep it."""
        return self._sums(positions, self._amplitudes(time)[None])[:, 0]

    def __call__(self, positions: Array, time: float) -> Array:
        """(node, 2) -> (node, 2)."""
        gradient = 2j * math.pi * self._amplitudes(time)
        along_x, along_y = self._wavenumbers()
        return self._sums(
            positions, np.stack([gradient * along_y[None, :], -gradient * along_x[:, None]])
        )

    def _amplitudes(self, time: float) -> Array:
        return self.coefficients * np.exp(1j * self.frequencies * time)

    def _wavenumbers(self) -> tuple[Array, Array]:
        size_x, size_y = self.coefficients.shape
        return np.arange(size_x), np.arange(size_y) - size_y // 2

    def _sums(self, positions: Array, amplitudes: Array) -> Array:
        """Re sum_k amplitude_k exp(2 pi i k.x), one axis of k after the other.

        (node, 2), (sum, k_x, k_y) -> (node, sum)
        """
        waves = np.exp(2j * math.pi * positions)
        num_sums, size_x, size_y = amplitudes.shape
        powers_x = _powers(waves[:, 0], size_x - 1)
        powers_y = _powers(waves[:, 1], size_y // 2)
        both_ways = np.concatenate([powers_y[:, :0:-1].conj(), powers_y], axis=1)
        along_x = powers_x @ amplitudes.transpose(1, 0, 2).reshape(size_x, -1)
        along_x = along_x.reshape(len(positions), num_sums, size_y)
        return np.matmul(along_x, both_ways[:, :, None])[..., 0].real


def random_flow(random: np.random.Generator, unsteadiness: float) -> FourierFlow:
    """A flow of waves up to `MAX_WAVENUMBER`, whose RMS speed over the box is 1 at all times.

    Amplitudes are complex normal with velocity falling as |k|^-2, the k^-3 energy spectrum of
    two-dimensional turbulence below its forcing scale; frequencies are normal and independent.

    Source:
        Kraichnan 1970, Phys. Fluids 13, 22 (random Fourier modes); Kraichnan 1967, Phys. Fluids
        10, 1417 (spectrum).
    """
    along_x = np.arange(MAX_WAVENUMBER + 1)[:, None]
    along_y = np.arange(-MAX_WAVENUMBER, MAX_WAVENUMBER + 1)[None, :]
    size = np.hypot(along_x, along_y)
    shape = size.shape
    # One of k and -k, since the field is real, and a circle, so that no direction is preferred.
    kept = (size <= MAX_WAVENUMBER) & ((along_x > 0) | (along_y > 0))
    weight = np.where(kept, np.maximum(size, 1.0) ** -3, 0.0)
    coefficients = weight * (random.normal(size=shape) + 1j * random.normal(size=shape))
    mean_square = 0.5 * ((2 * math.pi * size * np.abs(coefficients)) ** 2).sum()
    frequencies = unsteadiness * random.normal(size=shape)
    return FourierFlow(coefficients / math.sqrt(mean_square), frequencies)


def advect(
    flow: Flow,
    positions: Array,
    velocities: Array,
    *,
    stokes: float,
    times: Sequence[float],
    max_step: float = MAX_STEP,
) -> tuple[Array, Array, Array]:
    """Follow particles from t = 0 through `flow`, fourth order in the step.

    Krogstad's exponential Runge-Kutta method, with the drag taken exactly: stable for every
    `stokes`, and without inertia the classical Runge-Kutta method for dx/dt = U. Drag times
    shorter than the step cost accuracy: the order falls towards two (see `MAX_STEP`).

    Args:
        positions: (node, dim) at t = 0.
        velocities: (node, dim) at t = 0; of no effect where `stokes` is 0.
        times: When to store a frame: not negative, rising.
        max_step: A frame interval is cut into equal steps no longer than this.
    Returns:
        Positions, not wrapped, velocities, and the flow at the particles: (time, node, dim)
        float64 each.
    Source:
        Krogstad 2005, J. Comput. Phys. 203, 72 (ETDRK4-B); Maxey and Riley 1983, Phys. Fluids
        26, 883 (the equation, in the limit of small heavy particles).
    """
    if not times or times[0] < 0 or any(b <= a for a, b in pairwise(times)):
        raise ValueError("times must rise and not be negative")
    place, velocity, now = positions.astype(np.float64), velocities.astype(np.float64), 0.0
    frames = np.empty((3, len(times), *place.shape))
    for index, time in enumerate(times):
        num_steps = math.ceil((time - now) / max_step - 1e-9)
        if num_steps > 0:
            step = _Step((time - now) / num_steps, stokes)
            for number in range(num_steps):
                place, velocity = step(flow, place, velocity, now + number * step.length)
        now = time
        fluid = flow(place, now)
        frames[:, index] = place, velocity if stokes > 0 else fluid, fluid
    return frames[0], frames[1], frames[2]


class _Step:
    """One step of y' = L y + (0, U / St), y = (x, v), L = ((0, 1), (0, -1 / St)).

    L has the eigenvalues 0 and -1/St: a function f of h L takes h (0, U / St) to
    (h (f(0) - f(z)) U, -z f(z) U) with z = -h / St. The weights are these numbers; only the last
    stage needs those of v.
    """

    def __init__(self, length: float, stokes: float) -> None:
        self.length = length
        z = -length / stokes if stokes > 0 else -math.inf
        whole, half = _phi(z), _phi(z / 2)
        self.decay = whole[0]
        self.drift, self.half_drift = length * whole[1], length / 2 * half[1]
        self.to_a = length / 2 * (1 - half[1])
        self.to_b = length * (half[2] - half[1] / 2), length * (0.5 - half[2])
        self.to_c = length * (2 * whole[2] - whole[1]), length * (1 - 2 * whole[2])
        weights = (
            whole[1] - 3 * whole[2] + 4 * whole[3],
            2 * whole[2] - 4 * whole[3],
            4 * whole[3] - whole[2],
        )
        limits = (1 / 6, 1 / 3, 1 / 6)
        self.move = [length * (limit - f) for limit, f in zip(limits, weights, strict=True)]
        self.kick = [-z * f for f in weights] if stokes > 0 else [0.0, 0.0, 1.0]

    def __call__(self, flow: Flow, x: Array, v: Array, time: float) -> tuple[Array, Array]:
        middle, end = time + self.length / 2, time + self.length
        half_way, coasting = x + self.half_drift * v, x + self.drift * v
        u_0 = flow(x, time)
        u_a = flow(half_way + self.to_a * u_0, middle)
        u_b = flow(half_way + self.to_b[0] * u_0 + self.to_b[1] * u_a, middle)
        u_c = flow(coasting + self.to_c[0] * u_0 + self.to_c[1] * u_b, end)
        u_ab = u_a + u_b
        move, kick = (w[0] * u_0 + w[1] * u_ab + w[2] * u_c for w in (self.move, self.kick))
        return coasting + move, self.decay * v + kick


def _phi(z: float) -> list[float]:
    """phi_0 .. phi_3 at z <= 0: phi_0 = exp, phi_(k+1)(z) = (phi_k(z) - 1/k!) / z.

    Summed as a power series near 0, where the recursion would divide small by small.
    """
    if z < -1:
        values = [math.exp(z)]
        for k in range(3):
            values.append((values[k] - 1 / math.factorial(k)) / z)
        return values
    return [sum(z**n / math.factorial(n + k) for n in range(20)) for k in range(4)]


def _powers(waves: Array, highest: int) -> Array:
    """(node,) -> (node, power) from 0 to `highest`."""
    powers = np.ones((len(waves), highest + 1), dtype=waves.dtype)
    powers[:, 1:] = waves[:, None]
    return np.cumprod(powers, axis=1)


def _stored(positions: Array, velocities: Array, fluid: Array) -> PointTrajectory:
    wrapped = np.mod(positions, BOX).astype(np.float32)
    # Rounding, in the remainder or to float32, may arrive at the far side, which is the near one.
    wrapped[wrapped >= BOX] = 0.0
    fields = np.concatenate([velocities, fluid], axis=-1).astype(np.float32)
    return PointTrajectory(coords=wrapped, fields=fields)


def _not_negative(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"particles_advect: parameter {name}={value:g} must not be negative")
    return float(value)
