"""FitzHugh-Nagumo reaction and diffusion on a rectangle without flux: cosines, ETDRK4 in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ups.data.generate.base import Grid, Solution, Task
from ups.data.generate.checks import require_finite
from ups.data.generate.cosine import cosine_matrix, no_flux_eigenvalues
from ups.data.generate.graded_steps import check_times

STEP_SHARE = 0.2
"""A time step is at most this share of the time that has passed."""

FIRST_STEP = 0.05 / 16
LAST_STEP = 0.05


@dataclass(frozen=True)
class Reaction:
    """Coefficients of the dataset: diffusion of activator and inhibitor, and the source -k."""

    diffusion_u: float = 1e-3
    diffusion_v: float = 5e-3
    k: float = 5e-3


def solve(task: Task) -> Solution:
    """Trajectories of the dataset: every cell of u and v starts from N(0, 1); no parameters.

    From frame 0 of a file that PDEBench's generator made, ours differs from it by 2.5e-5,
    relative L2 over the trajectory; our own error is 1e-7 (2e-6 in float32). Their file is
    (time, y, x, channel), ours (trajectory, time, x, y, channel).

    Shape:
        fields: (trajectory, time, x, y, 2), channels u (activator) and v (inhibitor)
    Raises:
        DataError: A solution did not stay finite.
    """
    grid = task.grid
    initial = _white_noise(task).to(task.device, task.dtype)
    width, height = grid.axes
    fields = solve_reaction_diffusion2d(
        initial, times=grid.times, spacing=(width.spacing, height.spacing)
    )
    require_finite(fields, task.trajectories, "reaction-diffusion")
    return Solution(fields)


def solve_reaction_diffusion2d(
    initial: Float[Tensor, "batch x y 2"],
    *,
    times: Sequence[float],
    spacing: tuple[float, float],
    reaction: Reaction | None = None,
    step_factor: float = 1.0,
) -> Float[Tensor, "batch time x y 2"]:
    """Solve the FitzHugh-Nagumo equations from t = 0 with no flux through the boundary.

        u_t = D_u lap u + u - u^3 - k - v,    v_t = D_v lap v + u - v

    lap is the five-point Laplacian on cell centres with mirrored ghost cells, as in PDEBench's
    generator, and not the exact one: the initial state is white noise, so the result depends on
    how the Laplacian treats the shortest waves (the exact one damps the very shortest 2.5 times
    as fast) and there is no solution to converge to as cells shrink. The five-point Laplacian
    defines the dataset; other grids hold other noise. For smooth states it is second order.

    Its eigenvectors are cosines, so everything linear, the coupling of u and v included, is solved
    exactly mode by mode; only u^3 + k is stepped: ETDRK4, fourth order, with steps that begin at
    1/320 and grow with the time that has passed to 1/20. Measured against steps 8 times shorter,
    relative L2 over the trajectory: 1e-7; 2e-6 in float32, which is rounding.

    Args:
        initial: The state at t = 0, in the precision to solve in.
        times: When to store a frame: not negative, rising. A frame at 0 is `initial` itself.
        spacing: Of cell centres along x and y.
        step_factor: Makes all steps that much shorter or longer, up to a power of two.
    Raises:
        ValueError: `times` do not rise or are negative.
    Source:
        Equation and coefficients: Takamoto et al. 2022, arXiv:2210.07182; Klaasen and Troy 1984,
        SIAM J. Appl. Math. 44(1), 96. Method: Cox and Matthews 2002, J. Comput. Phys. 176, 430.
    """
    check_times(times)
    flow = _Flow(initial, spacing, reaction or Reaction())
    frames = initial.new_empty(len(initial), len(times), *initial.shape[1:])
    spectrum, now = flow.to_spectrum(initial.movedim(-1, 1)), 0.0
    for index, time in enumerate(times):
        if time > now:
            spectrum = flow.advance(spectrum, now, time, step_factor)
            frames[:, index] = flow.to_values(spectrum).movedim(1, -1)
        else:
            frames[:, index] = initial
        now = time
    return frames


@dataclass(frozen=True)
class _Factors:
    """ETDRK4's factors for one step length.

    Shape:
        half, full: (2, 2, x, y), what the linear part makes of (u, v) in half a step and in one
        inner, first, middle, last: (2, x, y), weights of the nonlinear part, which is u's alone
    """

    half: Tensor
    full: Tensor
    inner: Tensor
    first: Tensor
    middle: Tensor
    last: Tensor


class _Flow:
    """The equations on one grid. Spectra are (batch, 2, x, y), as are values."""

    def __init__(self, like: Tensor, spacing: tuple[float, float], reaction: Reaction) -> None:
        self.reaction, self.like = reaction, like
        num_x, num_y = like.shape[1:3]
        self.along_x = cosine_matrix(num_x).to(like)
        self.along_y = cosine_matrix(num_y).to(like)
        of_x, of_y = (no_flux_eigenvalues(n, d) for n, d in zip((num_x, num_y), spacing,
                                                                strict=True))  # fmt: skip
        self.laplacian = of_x[:, None] + of_y
        self._factors: dict[float, _Factors] = {}

    def to_spectrum(self, values: Tensor) -> Tensor:
        return self.along_x @ (values @ self.along_y.T)

    def to_values(self, spectrum: Tensor) -> Tensor:
        return self.along_x.T @ (spectrum @ self.along_y)

    def advance(self, spectrum: Tensor, now: float, end: float, step_factor: float) -> Tensor:
        """Spans of up to LAST_STEP, each in equal steps, a power of two of them.

        So there are few different lengths, and few factors to find.
        """
        num_spans = math.ceil((end - now) / LAST_STEP - 1e-9)
        span = (end - now) / num_spans
        for number in range(num_spans):
            passed = now + number * span
            allowed = step_factor * min(max(STEP_SHARE * passed, FIRST_STEP), LAST_STEP)
            num_steps = 2 ** max(0, math.ceil(math.log2(span / allowed) - 1e-9))
            factors = self._factors_for(span / num_steps)
            for _ in range(num_steps):
                spectrum = self._step(spectrum, factors)
        return spectrum

    def _step(self, now: Tensor, f: _Factors) -> Tensor:
        forced_now = self._forcing(now)
        half = _apply(f.half, now)
        a = half + f.inner * forced_now
        forced_a = self._forcing(a)
        forced_b = self._forcing(half + f.inner * forced_a)
        forced_c = self._forcing(_apply(f.half, a) + f.inner * (2 * forced_b - forced_now))
        after = torch.addcmul(_apply(f.full, now), f.first, forced_now)
        after.addcmul_(f.middle, forced_a.add_(forced_b))
        return after.addcmul_(f.last, forced_c)

    def _forcing(self, spectrum: Tensor) -> Tensor:
        """Spectrum of -(u^3 + k). (batch, 1, x, y)"""
        u = self.to_values(spectrum[:, :1])
        return self.to_spectrum(-(u * u * u + self.reaction.k))

    def _factors_for(self, step: float) -> _Factors:
        key = round(step, 12)
        if key not in self._factors:
            self._factors[key] = self._build_factors(step)
        return self._factors[key]

    def _build_factors(self, step: float) -> _Factors:
        full, phi1, phi2, phi3 = self._phi(step)
        half, phi1_half, _, _ = self._phi(step / 2)

        def cast(factor: Tensor) -> Tensor:
            return factor.to(self.like).contiguous()

        return _Factors(
            half=cast(half), full=cast(full), inner=cast(step / 2 * phi1_half),
            first=cast(step * (phi1 - 3 * phi2 + 4 * phi3)),
            middle=cast(step * (2 * phi2 - 4 * phi3)), last=cast(step * (4 * phi3 - phi2)),
        )  # fmt: skip

    def _phi(self, step: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """exp(Z) and phi_1 to phi_3 of Z applied to (1, 0), Z the linear part times `step`.

        All of them stand in one exponential, exp([[Z, e, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], 0]).
        """
        block = self.laplacian.new_zeros(*self.laplacian.shape, 5, 5)
        block[..., 0, 0] = step * (self.reaction.diffusion_u * self.laplacian + 1)
        block[..., 1, 1] = step * (self.reaction.diffusion_v * self.laplacian - 1)
        block[..., 0, 1], block[..., 1, 0] = -step, step
        for column in (2, 3, 4):
            block[..., 0 if column == 2 else column - 1, column] = 1
        top = torch.linalg.matrix_exp(block)[..., :2, :].movedim((-2, -1), (0, 1))
        return top[:, :2], top[:, 2], top[:, 3], top[:, 4]


def _apply(matrices: Tensor, spectrum: Tensor) -> Tensor:
    """The 2 x 2 matrix of each mode times its (u, v)."""
    return torch.addcmul(matrices[:, 0] * spectrum[:, :1], matrices[:, 1], spectrum[:, 1:])


def _white_noise(task: Task) -> Float[Tensor, "batch x y 2"]:
    grid: Grid = task.grid
    streams = (np.random.SeedSequence(task.seed, spawn_key=(i,)) for i in task.trajectories)
    draws = [np.random.default_rng(s).standard_normal((2, *grid.space)) for s in streams]
    return torch.from_numpy(np.stack(draws)).movedim(1, -1)
