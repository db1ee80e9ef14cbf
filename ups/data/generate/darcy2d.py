"""Steady Darcy flow on the unit square through two materials, solved until nothing changes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ups.data.generate.base import Grid, Solution, Task
from ups.data.generate.checks import parameter_of, require_finite
from ups.errors import DataError

BETA_RANGE = (1e-6, 1e6)

LOW, HIGH = 0.1, 1.0
"""The two values of the coefficient."""

NUM_BUMPS = 5
LARGEST_SPREAD = 0.5
"""The coefficient is high where the sum of five bumps exp(-r^2 / s) exceeds its expectation.

Centres are uniform over the square and s ~ U(0, 1/2), as in PDEBench. PDEBench's threshold is the
mean over the batch it generates, which makes trajectories of a file depend on each other; ours is
the value which that mean has in expectation.
"""

RESIDUAL = 1e-10
"""Solved until the residual's L2 norm is this share of the source's."""

MAX_ITERATIONS = 200
"""Conjugate gradients take about 35, whatever the resolution."""

_STREAM = 0xDA2C


def solve(task: Task) -> Solution:
    """Solve div(nu grad u) + beta = 0, u = 0 half a cell outside the square, as PDEBench does.

    The coefficient nu of trajectory i depends on (seed, i) and the grid, not on beta; u is
    proportional to beta. Solved in float64 whatever the task's precision.

    Raises:
        UsageError: `beta` is missing or cannot be used.
        DataError: The iteration did not converge.
    """
    beta = parameter_of(task, "beta", BETA_RANGE)
    coefficient = draw_coefficients(task.seed, task.trajectories, task.grid).to(task.device)
    lengths = (task.grid.axes[0].length, task.grid.axes[1].length)
    pressure, residual = solve_darcy2d(coefficient, lengths=lengths)
    require_finite(pressure, task.trajectories, "Darcy")
    worst = int(residual.argmax())
    if residual[worst] > 2 * RESIDUAL:  # rounding parts it from the one iterated on
        raise DataError(
            f"Darcy: trajectory {task.trajectories[worst]}: residual {residual[worst]:.1e} "
            f"after {MAX_ITERATIONS} iterations, not {RESIDUAL:g}"
        )
    fields = (beta * pressure).to(task.dtype)[:, None, :, :, None]
    return Solution(fields, inputs=coefficient.to(task.dtype)[..., None])


def draw_coefficients(seed: int, trajectories: range, grid: Grid) -> Float[Tensor, "batch x y"]:
    """Coefficient fields, values LOW and HIGH, float64, on the CPU."""
    draws = np.stack(
        [np.random.default_rng([seed, i, _STREAM]).random((3, NUM_BUMPS)) for i in trajectories]
    )
    centre_x, centre_y, spread = torch.from_numpy(draws).unbind(1)
    x, y = (axis.centres() / axis.length for axis in grid.axes)
    width = LARGEST_SPREAD * spread[:, :, None]
    bump_x = torch.exp(-((x - centre_x[:, :, None]) ** 2) / width)
    bump_y = torch.exp(-((y - centre_y[:, :, None]) ** 2) / width)
    height = torch.einsum("bkx,bky->bxy", bump_x, bump_y)
    values = torch.tensor([LOW, HIGH], dtype=torch.float64)
    return values[(height > expected_height()).long()]


def expected_height() -> float:
    """Expectation of the sum of bumps at a uniformly random point of the square: 1.8521.

    For one bump of width s it is I(s)^2, where I(s), the integral of exp(-(x - c)^2 / s) over x
    and c in (0, 1), is sqrt(pi s) erf(1/sqrt(s)) - s (1 - exp(-1/s)).
    """
    nodes, weights = np.polynomial.legendre.leggauss(64)
    roots = math.sqrt(LARGEST_SPREAD) * (nodes + 1) / 2  # s = root^2 makes the integrand smooth
    total = 0.0
    for root, weight in zip(roots.tolist(), weights.tolist(), strict=True):
        s = root**2
        one = math.sqrt(math.pi) * root * math.erf(1 / root) + s * math.expm1(-1 / s)
        total += weight / 2 * math.sqrt(LARGEST_SPREAD) * 2 * root / LARGEST_SPREAD * one**2
    return NUM_BUMPS * total


def solve_darcy2d(
    coefficient: Float[Tensor, "batch x y"],
    *,
    lengths: tuple[float, float],
    residual: float = RESIDUAL,
    max_iterations: int = MAX_ITERATIONS,
) -> tuple[Float[Tensor, "batch x y"], Float[Tensor, " batch"]]:
    """Solve div(nu grad u) + 1 = 0 and return u and the relative residual of each.

    Finite volumes on cells with arithmetic means of nu on faces and u = 0 at the centres of the
    cells around the grid: exactly what PDEBench's converged samples satisfy. (Harmonic means,
    more accurate for flow across a jump of nu, leave 0.3 to 1.3 % on them; u = 0 on the wall
    itself leaves 3 to 5 %.)

    Conjugate gradients, preconditioned with the Laplacian, which sines diagonalise: the number
    of iterations depends on max(nu) / min(nu) alone. A sample that has converged is left alone,
    so no sample depends on the others.

    Args:
        coefficient: Positive; solved in its precision, which should be float64.
    """
    flow = _Flow(coefficient, lengths)
    solution = torch.zeros_like(coefficient)
    rest = torch.ones_like(coefficient)
    source = _norm(rest)
    direction = step = flow.precondition(rest)
    energy = _dot(rest, step)
    for _ in range(max_iterations):
        active = _norm(rest) > residual * source
        if not active.any():
            break
        image = flow.apply(direction)
        length = torch.where(active, energy / _dot(direction, image), 0.0)
        solution = solution + length * direction
        rest = rest - length * image
        step = flow.precondition(rest)
        energy, before = _dot(rest, step), energy
        direction = step + torch.where(active, energy / before, 0.0) * direction
    true_rest = 1.0 - flow.apply(solution)
    return solution, (_norm(true_rest) / source).flatten()


@dataclass(frozen=True)
class _Sines:
    """Eigenvectors (points, points), orthonormal and symmetric, and eigenvalues of -d^2/dx^2."""

    vectors: Tensor
    values: Tensor


class _Flow:
    """-div(nu grad .) and the inverse of -div(grad .), for a batch of coefficients."""

    def __init__(self, coefficient: Tensor, lengths: tuple[float, float]) -> None:
        batch, points_x, points_y = coefficient.shape
        padded = torch.nn.functional.pad(coefficient[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
        per_x, per_y = ((n / length) ** 2 for n, length in zip((points_x, points_y), lengths,
                                                                strict=True))  # fmt: skip
        self.faces_x = per_x * (padded[:, 1:, 1:-1] + padded[:, :-1, 1:-1]) / 2
        self.faces_y = per_y * (padded[:, 1:-1, 1:] + padded[:, 1:-1, :-1]) / 2
        x, y = (_sines(n, per, coefficient) for n, per in ((points_x, per_x), (points_y, per_y)))
        self.to_x = x.vectors.expand(batch, -1, -1)
        self.to_y = y.vectors.expand(batch, -1, -1)
        self.eigenvalues = x.values[:, None] + y.values

    def apply(self, u: Tensor) -> Tensor:
        around = torch.nn.functional.pad(u, (1, 1, 1, 1))
        flux_x = self.faces_x * (around[:, 1:, 1:-1] - around[:, :-1, 1:-1])
        flux_y = self.faces_y * (around[:, 1:-1, 1:] - around[:, 1:-1, :-1])
        return flux_x[:, :-1] - flux_x[:, 1:] + flux_y[:, :, :-1] - flux_y[:, :, 1:]

    def precondition(self, rest: Tensor) -> Tensor:
        spectrum = self.to_x.bmm(rest).bmm(self.to_y) / self.eigenvalues
        return self.to_x.bmm(spectrum).bmm(self.to_y)


def _sines(points: int, per_square: float, like: Tensor) -> _Sines:
    index = torch.arange(1, points + 1, dtype=torch.float64)
    angle = math.pi / (points + 1) * index
    vectors = math.sqrt(2 / (points + 1)) * torch.sin(angle[:, None] * index)
    values = per_square * (2 - 2 * angle.cos())
    return _Sines(vectors.to(like), values.to(like))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2), keepdim=True)


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()
