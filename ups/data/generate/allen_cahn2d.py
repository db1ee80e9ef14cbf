"""The Allen-Cahn equation on a periodic square: two phases separate, then their fronts flatten."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ups.data.generate.base import Grid, Solution, Task
from ups.data.generate.checks import parameter_of, require_finite
from ups.data.generate.random_fields import draw_fourier_fields
from ups.data.generate.spectral2d import (
    Semilinear,
    laplacian,
    refinement_for,
    solve_semilinear,
)

EPSILON_RANGE = (0.01, 10.0)
"""At its lower end the solver's grid has 900 points per axis on (0, 2 pi)."""

INITIAL_RMS = 0.2
INITIAL_CUTOFF = 12
"""The initial state: an isotropic random field, white up to wavenumber 12 of the square."""

CELLS_PER_EPSILON = 1 / 0.7
"""Fronts are tanh(d / (sqrt(2) epsilon)); the solver's cells are at most 0.7 epsilon.

Measured against twice the points, relative L2 over t in [0, 10]: 8e-6 at a cell of 0.7 epsilon,
5e-5 at 0.82, 4e-4 at 0.98; below 1e-7 at 0.5, the default parameters.
"""

TIME_STEP = 0.125
"""Relative L2 from it over t in [0, 20] at epsilon = 0.1: 2e-6 (5e-5 at 0.25; 0.5 can blow up).

Strang splitting with the exact reaction, u / sqrt(u^2 + (1 - u^2) exp(-2 t)), cannot blow up and
costs half as much a step, but leaves 4e-4 at this step: ETDRK4 is the cheaper one below 1e-3.
Taking the linear part as (epsilon^2 lap - 2) instead, which is exact in the pure phases, is
twenty times less accurate at the same step.
"""

_STREAM = 0xA11E


def solve(task: Task) -> Solution:
    """Solve u_t = epsilon^2 lap u + u - u^3 from random states of mean 0.

    Raises:
        UsageError: `epsilon` is missing or cannot be resolved.
        DataError: A solution did not stay finite.
    """
    epsilon = parameter_of(task, "epsilon", EPSILON_RANGE)
    refinement = refinement_for(task.grid, epsilon / CELLS_PER_EPSILON)
    initial = draw_initial(task.seed, task.trajectories, task.grid, refinement)
    frames = solve_allen_cahn2d(
        initial.to(task.device, task.dtype),
        epsilon=epsilon,
        lengths=(task.grid.axes[0].length, task.grid.axes[1].length),
        times=task.grid.times,
        stride=refinement,
    )
    require_finite(frames, task.trajectories, f"Allen-Cahn at epsilon={epsilon:g}")
    return Solution(frames[..., None])


def draw_initial(
    seed: int, trajectories: range, grid: Grid, refinement: int = 1
) -> Float[Tensor, "batch x y"]:
    """The initial states, float64; every `refinement`-th value lies on a cell centre of `grid`."""
    fields = draw_fourier_fields(
        (np.random.default_rng([seed, index, _STREAM]) for index in trajectories),
        cutoff=INITIAL_CUTOFF,
    )
    x, y = (2 * math.pi / axis.length * axis.centres(refinement) for axis in grid.axes)
    return INITIAL_RMS * fields.evaluate(x, y)


def solve_allen_cahn2d(
    initial: Float[Tensor, "batch x y"],
    *,
    epsilon: float,
    lengths: tuple[float, float],
    times: Sequence[float],
    stride: int = 1,
    time_step: float = TIME_STEP,
) -> Float[Tensor, "batch time x_out y_out"]:
    """Solve from any initial state; see `solve_semilinear` for the arguments.

    The energy `ginzburg_landau_energy` never grows, up to the error of the time step. A front of
    curvature k moves with speed epsilon^2 k towards its centre.

    Source:
        Allen and Cahn 1979, Acta Metall. 27, 1085.
    """
    linear = epsilon**2 * laplacian(initial.shape[1:], lengths) + 1.0
    equation = Semilinear(linear, -torch.ones_like(linear), lambda u: u**3)
    return solve_semilinear(equation, initial, times=times, time_step=time_step, stride=stride)


def ginzburg_landau_energy(
    u: Float[Tensor, "*batch x y"], *, epsilon: float, lengths: tuple[float, float]
) -> Float[Tensor, "*batch"]:
    """Integral of epsilon^2/2 |grad u|^2 + (1 - u^2)^2 / 4, by the grid's own derivatives.

    Allen-Cahn is its gradient flow in L2, Cahn-Hilliard in H^-1.
    """
    symbol = laplacian(u.shape[-2:], lengths).to(u.device, u.dtype)
    curved = torch.fft.irfft2(symbol * torch.fft.rfft2(u), s=u.shape[-2:])
    density = (1 - u**2) ** 2 / 4 - epsilon**2 / 2 * u * curved
    return density.mean((-2, -1)) * lengths[0] * lengths[1]
