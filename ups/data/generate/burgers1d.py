"""The viscous Burgers equation on a periodic interval: dealiased Fourier, ETDRK4 in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ups.data.generate.base import Solution, Task
from ups.data.generate.initial_conditions import draw_initial_conditions
from ups.errors import DataError

CELLS_PER_INVERSE_NU = 4.0
MIN_INTERNAL_POINTS = 256
"""The solver's grid has 4 / nu points per unit of length, and never less than 256.

The thinnest shocks of the initial-condition family are then resolved. Measured against a finer
grid and a quarter of the step, relative L2 over whole trajectories, worst of 24 or 64: 3e-4 at
nu = 0.01 on 400 points (2e-5 on 600), 1e-4 at nu = 0.001 on 4096 (1e-3 on 2048, 9e-3 on 1024).
Below 256 points the kinks and windows of frame 0 suffer whatever nu is.
"""

WAVE_FRACTION = 0.005
"""Share of the domain that the fastest value may cross in one step, where viscosity allows more.

Worst trajectory: 4e-5 for nu from 0.04 to 4; at 0.02 it is 4e-4, at 0.04 1e-3.
"""

REGROUP_EVERY = 8
"""Frames between two looks at how fast each trajectory still moves."""


def solve(task: Task) -> Solution:
    """Solve a batch on a grid that resolves its shocks; every n-th point of it is kept."""
    (axis,), nu = task.grid.axes, task.parameters["nu"]
    refinement = internal_refinement(axis.points, nu=nu, domain_length=axis.length)
    family = draw_initial_conditions(task.seed, task.trajectories)
    initial = family.evaluate(axis.centres(refinement) / axis.length)
    frames = solve_burgers1d(
        initial.to(task.device, task.dtype),
        nu=nu,
        times=task.grid.times,
        domain_length=axis.length,
        output_stride=refinement,
    )
    return Solution(frames[..., None])


def solve_burgers1d(
    initial: Float[Tensor, "batch x"],
    *,
    nu: float,
    times: Sequence[float],
    domain_length: float = 1.0,
    output_stride: int = 1,
    time_step: float | None = None,
) -> Float[Tensor, "batch time x_out"]:
    """Solve u_t + (u^2/2)_x = (nu/pi) u_xx from t = 0, periodic in x.

    Fourier in space, the quadratic term without aliasing (modes up to a third of the grid are
    kept), ETDRK4 in time: viscosity is exact, advection is fourth order. Every trajectory is
    solved in the frame that moves with its mean c, u(x, t) = c + v(x - c t, t), which keeps the
    mean to rounding and allows longer steps. The step of a trajectory depends on max|v| alone
    (it cannot grow: maximum principle), so a trajectory does not depend on its batch.

    Args:
        initial: The state at t = 0 on a uniform grid, in the precision to solve in.
        nu: Viscosity; the equation divides it by pi. Positive.
        times: When to store a frame: not negative, rising. A frame at 0 is `initial` itself.
        output_stride: Store every so many grid points, beginning with the first.
        time_step: Upper bound of the time step for all trajectories, instead of the one derived
            from max|v|.
    Raises:
        DataError: The solution did not stay finite.
        ValueError: `nu`, `times` or `output_stride` are not as above.
    Source:
        Kassam and Trefethen 2005, SIAM J. Sci. Comput. 26(4), 1214: ETDRK4 and its coefficients.
    """
    _check(initial, nu, times, output_stride)
    flow = _Flow(initial, nu=nu, domain_length=domain_length)
    mean = initial.mean(-1, keepdim=True, dtype=torch.float64).to(initial.dtype)
    spectrum = flow.to_spectrum(initial - mean)
    frames = initial.new_empty(len(initial), len(times), initial.shape[-1] // output_stride)
    now = 0.0
    groups: list[tuple[float, Tensor]] = []
    for index, time in enumerate(times):
        if index % REGROUP_EVERY == 0:
            values = flow.to_values(spectrum)
            groups = _groups(flow.steps_for(values, time_step), initial.device)
        if time > now:
            for step, rows in groups:
                spectrum[rows] = flow.advance(spectrum[rows], time - now, step)
            spectrum *= flow.drift(mean, time - now)
            values = flow.to_values(spectrum) + mean
        else:
            values = initial
        frames[:, index] = values[:, ::output_stride]
        now = time
    if not frames[:, -1].isfinite().all():
        raise DataError(f"Burgers at nu={nu:g}: the solution did not stay finite")
    return frames


def internal_refinement(points: int, *, nu: float, domain_length: float = 1.0) -> int:
    """How many times finer than an output grid of `points` the solver's grid must be.

    The thinnest shock is a few nu/pi wide.
    """
    needed = max(MIN_INTERNAL_POINTS, CELLS_PER_INVERSE_NU * domain_length / nu)
    return max(1, math.ceil(needed / points))


def refine_periodic(values: Float[Tensor, "batch x"], factor: int) -> Float[Tensor, "batch x_fine"]:
    """Put `factor` times as many points between the given ones, by trigonometric interpolation.

    Every `factor`-th value of the result is a given one (up to the Nyquist mode's half).
    """
    num_points = values.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(values, norm="forward"), n=factor * num_points,
                           norm="forward")  # fmt: skip


@dataclass(frozen=True)
class _Coefficients:
    """ETDRK4's factors for one step length, with the flux factor -i k / 2 multiplied in."""

    half_decay: Tensor
    half_flux: Tensor
    decay: Tensor
    first: Tensor
    middle: Tensor
    last: Tensor


class _Flow:
    """Burgers' equation for one grid and viscosity: transforms, flux, steps.

    Shape:
        spectrum: (batch, mode), complex, modes 0..(x-1)//3
    """

    def __init__(self, like: Tensor, *, nu: float, domain_length: float) -> None:
        self.nu, self.viscosity = nu, nu / math.pi
        self.num_points = like.shape[-1]
        self.cell = domain_length / self.num_points
        self.wave = WAVE_FRACTION * domain_length
        self.dtype, self.device = like.dtype, like.device
        modes = torch.arange((self.num_points - 1) // 3 + 1, dtype=torch.float64)
        self.wavenumbers = 2 * math.pi / domain_length * modes
        self._coefficients: dict[float, _Coefficients] = {}

    def to_spectrum(self, values: Tensor) -> Tensor:
        return torch.fft.rfft(values)[:, : len(self.wavenumbers)].contiguous()

    def to_values(self, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft(spectrum, n=self.num_points)

    def steps_for(self, values: Tensor, time_step: float | None) -> list[float]:
        """The time step of each trajectory: the nearest power of sqrt(2) below its bound.

        The bound is the time in which the fastest value crosses a shock, nu / (pi max|v|), or a
        cell where shocks are thinner than that, and at most a small share of the domain.
        """
        if not values.isfinite().all():
            raise DataError(f"Burgers at nu={self.nu:g}: the solution did not stay finite")
        if time_step is not None:
            return [time_step] * len(values)
        speeds = values.abs().amax(-1).double().clamp(min=1e-12).tolist()
        bounds = [min(max(self.cell, self.viscosity / v), self.wave) / v for v in speeds]
        return [2.0 ** (math.floor(2 * math.log2(bound)) / 2) for bound in bounds]

    def advance(self, spectrum: Tensor, interval: float, step: float) -> Tensor:
        num_steps = max(1, math.ceil(interval / step - 1e-9))
        c = self._coefficients_for(interval / num_steps)
        for _ in range(num_steps):
            spectrum = self._step(spectrum, c)
        return spectrum

    def drift(self, mean: Tensor, interval: float) -> Tensor:
        """exp(-i k c t): what the moving frame of each trajectory has covered. (batch, mode)"""
        angle = (mean.double() * interval) * self.wavenumbers.to(self.device)
        return torch.polar(torch.ones_like(angle), -angle).to(self.dtype.to_complex())

    def _step(self, now: Tensor, c: _Coefficients) -> Tensor:
        square_now = self._square(now)
        half_linear = c.half_decay * now
        a = torch.addcmul(half_linear, c.half_flux, square_now)
        square_a = self._square(a)
        b = torch.addcmul(half_linear, c.half_flux, square_a)
        square_b = self._square(b)
        d = torch.addcmul(c.half_decay * a, c.half_flux, 2 * square_b - square_now)
        after = torch.addcmul(c.decay * now, c.first, square_now)
        after.addcmul_(c.middle, square_a.add_(square_b))
        return after.addcmul_(c.last, self._square(d))

    def _square(self, spectrum: Tensor) -> Tensor:
        """Spectrum of u^2, without aliasing because 3 * mode < grid points."""
        values = self.to_values(spectrum)
        return torch.fft.rfft(values.mul_(values))[:, : len(self.wavenumbers)]

    def _coefficients_for(self, step: float) -> _Coefficients:
        key = round(step, 12)
        if key not in self._coefficients:
            self._coefficients[key] = self._build_coefficients(step)
        return self._coefficients[key]

    def _build_coefficients(self, step: float) -> _Coefficients:
        """Means over a circle around each exponent, which avoids dividing small by small."""
        exponent = -self.viscosity * self.wavenumbers**2 * step
        angles = math.pi * (torch.arange(32, dtype=torch.float64) + 0.5) / 32
        z = exponent[:, None] + torch.polar(torch.ones_like(angles), angles)
        e, e_half = z.exp(), (z / 2).exp()
        half = ((e_half - 1) / z).real.mean(1)
        first = ((-4 - z + e * (4 - 3 * z + z**2)) / z**3).real.mean(1)
        middle = (2 * (2 + z + e * (z - 2)) / z**3).real.mean(1)
        last = ((-4 - 3 * z - z**2 + e * (4 - z)) / z**3).real.mean(1)
        flux = -0.5j * self.wavenumbers * step
        complex_dtype = self.dtype.to_complex()

        def cast(factor: Tensor) -> Tensor:
            return factor.to(self.device, complex_dtype)

        return _Coefficients(
            half_decay=cast((exponent / 2).exp()), half_flux=cast(flux * half),
            decay=cast(exponent.exp()), first=cast(flux * first),
            middle=cast(flux * middle), last=cast(flux * last),
        )  # fmt: skip


def _groups(steps: list[float], device: torch.device) -> list[tuple[float, Tensor]]:
    """Row numbers by time step."""
    return [
        (step, torch.tensor([row for row, own in enumerate(steps) if own == step], device=device))
        for step in sorted(set(steps))
    ]


def _check(initial: Tensor, nu: float, times: Sequence[float], output_stride: int) -> None:
    if not (math.isfinite(nu) and nu > 0):
        raise ValueError(f"nu must be positive, not {nu}")
    if not times or times[0] < 0 or any(b <= a for a, b in pairwise(times)):
        raise ValueError("times must rise and not be negative")
    if output_stride < 1 or initial.shape[-1] % output_stride:
        raise ValueError(f"output_stride={output_stride} must divide {initial.shape[-1]} points")
