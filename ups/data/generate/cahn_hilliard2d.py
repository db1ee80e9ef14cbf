"""The Cahn-Hilliard equation on a periodic square: a mixture separates, then coarsens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ups.data.generate.base import Array, Grid, Solution, Task
from ups.data.generate.checks import parameter_of, require_finite
from ups.data.generate.random_fields import draw_fourier_fields
from ups.data.generate.spectral2d import (
    Semilinear,
    laplacian,
    refinement_for,
    solve_semilinear,
)

EPSILON_RANGE = (0.02, 10.0)
MOBILITY_RANGE = (1e-3, 1e3)
MEAN_RANGE = (-1.0, 1.0)

DRAWN_MEAN = (-0.4, 0.4)
"""Inside the spinodal |mean| < 1/sqrt(3): every trajectory separates. 0 makes labyrinths, 0.4
drops."""

INITIAL_RMS = 0.05
INITIAL_CUTOFF = 16
"""The disturbance of the mean: an isotropic random field, white up to wavenumber 16."""

CELLS_PER_EPSILON = 1 / 0.7
"""The solver's cells are at most 0.7 epsilon.

Measured against twice the points, relative L2 over t in [0, 0.4]: 1e-5 at a cell of 0.7 epsilon,
1e-3 at 0.98; below 1e-7 at 0.5, the default parameters.
"""

STEP_FRACTION = 0.2
"""The time step is at most this share of epsilon^2 / mobility, a quarter of the growth time of
the fastest mode.

Relative L2 from it over t in [0, 1] at epsilon = 0.1: 3e-5. Stiffness costs ETDRK4 one order
here: the error falls with the third power of the step once the state is smooth, with the 2nd to
2.5th from the rough first frame.
"""

_STREAM = 0xCA41


def solve(task: Task) -> Solution:
    """Solve u_t = M lap(u^3 - u - epsilon^2 lap u) from disturbed random concentrations.

    A `mean` in the task's parameters holds for all trajectories; otherwise each draws its own.

    Raises:
        UsageError: `epsilon` or `mobility` is missing, or a parameter cannot be used.
        DataError: A solution did not stay finite.
    """
    epsilon = parameter_of(task, "epsilon", EPSILON_RANGE)
    mobility = parameter_of(task, "mobility", MOBILITY_RANGE)
    given = parameter_of(task, "mean", MEAN_RANGE) if "mean" in task.parameters else None
    refinement = refinement_for(task.grid, epsilon / CELLS_PER_EPSILON)
    mean, initial = draw_initial(
        task.seed, task.trajectories, task.grid, refinement=refinement, mean=given
    )
    frames = solve_cahn_hilliard2d(
        initial.to(task.device, task.dtype),
        epsilon=epsilon,
        mobility=mobility,
        lengths=(task.grid.axes[0].length, task.grid.axes[1].length),
        times=task.grid.times,
        stride=refinement,
    )
    what = f"Cahn-Hilliard at epsilon={epsilon:g}, mobility={mobility:g}"
    require_finite(frames, task.trajectories, what)
    return Solution(frames[..., None], drawn={} if given is not None else {"mean": mean})


def draw_initial(
    seed: int, trajectories: range, grid: Grid, *, refinement: int = 1, mean: float | None = None
) -> tuple[Array, Float[Tensor, "batch x y"]]:
    """Mean concentrations (batch,) and initial states, float64.

    Every `refinement`-th value lies on a cell centre of `grid`. The disturbance does not depend
    on `mean`.
    """
    generators = [np.random.default_rng([seed, index, _STREAM]) for index in trajectories]
    means = np.array([generator.uniform(*DRAWN_MEAN) for generator in generators])
    if mean is not None:
        means[:] = mean
    fields = draw_fourier_fields(generators, cutoff=INITIAL_CUTOFF)
    x, y = (2 * math.pi / axis.length * axis.centres(refinement) for axis in grid.axes)
    return means, torch.from_numpy(means)[:, None, None] + INITIAL_RMS * fields.evaluate(x, y)


def solve_cahn_hilliard2d(
    initial: Float[Tensor, "batch x y"],
    *,
    epsilon: float,
    mobility: float,
    lengths: tuple[float, float],
    times: Sequence[float],
    stride: int = 1,
    time_step: float | None = None,
) -> Float[Tensor, "batch time x_out y_out"]:
    """Solve from any initial state; see `solve_semilinear` for the arguments.

    The mean is kept to rounding and `ginzburg_landau_energy` (allen_cahn2d.py) never grows, up
    to the error of the time step. Around a uniform state m, a mode k grows at the rate
    mobility k^2 (1 - 3 m^2 - epsilon^2 k^2).

    Source:
        Cahn and Hilliard 1958, J. Chem. Phys. 28, 258; dynamics: Cahn 1961, Acta Metall. 9, 795.
    """
    lap = laplacian(initial.shape[1:], lengths)
    equation = Semilinear(-mobility * (lap + epsilon**2 * lap**2), mobility * lap, lambda u: u**3)
    step = STEP_FRACTION * epsilon**2 / mobility if time_step is None else time_step
    return solve_semilinear(equation, initial, times=times, time_step=step, stride=stride)
