"""Darcy against dense linear algebra, Fourier series, PDEBench's file and itself."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from ups.data.generate import darcy2d
from ups.data.generate.base import Grid, GridAxis, Task
from ups.data.generate.darcy2d import draw_coefficients, expected_height, solve, solve_darcy2d
from ups.errors import DataError, UsageError


def square(points: int) -> Grid:
    return Grid((GridAxis(0.0, 1.0, points),) * 2, (0.0,))


def a_task(grid: Grid, trajectories: range, dtype=torch.float64, **parameters: float) -> Task:
    return Task(trajectories, 3, grid, parameters, torch.device("cpu"), dtype)


def dense_solution(nu: Tensor) -> Tensor:
    """The five-point equations of one coefficient on the unit square, written out."""
    n = len(nu)
    matrix = torch.zeros(n * n, n * n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            for a, b in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                inside = 0 <= a < n and 0 <= b < n
                face = (nu[i, j] + nu[a, b]) / 2 if inside else nu[i, j]
                matrix[i * n + j, i * n + j] += face * n**2
                if inside:
                    matrix[i * n + j, a * n + b] -= face * n**2
    return torch.linalg.solve(matrix, torch.ones(n * n, dtype=torch.float64)).reshape(n, n)


def test_solves_the_stated_equations():
    nu = draw_coefficients(1, range(3), square(14))
    assert all(len(one.unique()) == 2 for one in nu)
    solution, residual = solve_darcy2d(nu, lengths=(1.0, 1.0))
    assert residual.max() < 2e-10
    for one, expected in zip(solution, map(dense_solution, nu), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-8, atol=0)


def uniform_error(points: int) -> float:
    """Of the middle of the square for nu = 1, against the series on the square of the ghosts."""
    nu = torch.ones(1, points, points, dtype=torch.float64)
    solution, _ = solve_darcy2d(nu, lengths=(1.0, 1.0))
    side = 1 + 1 / points
    odd = torch.arange(1, 400, 2, dtype=torch.float64)
    sign = torch.sin(odd * math.pi / 2)
    weight = 16 * side**2 / math.pi**4 * sign[:, None] * sign
    series = (weight / (odd[:, None] * odd * (odd[:, None] ** 2 + odd**2))).sum()
    return abs(float(solution[0, points // 2, points // 2] / series) - 1)


def test_converges_at_second_order_to_the_fourier_series():
    coarse, fine = uniform_error(15), uniform_error(63)
    assert fine < 3e-4
    assert coarse / fine > 14


def test_layers_converge_to_the_one_dimensional_profile():
    """nu depends on x, the square is a long strip: in its middle (nu u_x)_x + 1 = 0."""
    errors = []
    for points in (32, 128):
        nu = torch.where(torch.arange(points) < points // 2, 0.1, 1.0).double()
        grid = nu[None, :, None].repeat(1, 1, 64)
        solution, _ = solve_darcy2d(grid, lengths=(1.0, 40.0))
        x = (torch.arange(points, dtype=torch.float64) + 0.5) / points
        flux = (0.125 / 0.1 + 0.375) / (0.5 / 0.1 + 0.5)  # u' = (flux - x) / nu, u(0) = u(1) = 0
        left = (flux * x - x**2 / 2) / 0.1
        right = (flux * (x - 1) - (x**2 - 1) / 2) / 1.0
        exact = torch.where(x < 0.5, left, right)
        errors.append(float((solution[0, :, 32] - exact).norm() / exact.norm()))
    assert errors[1] < 0.03
    assert errors[0] / errors[1] > 3.0  # first order: faces average across the jump


def test_the_coefficient_does_not_depend_on_beta_and_the_solution_scales_with_it():
    one, hundred = (solve(a_task(square(32), range(4), beta=beta)) for beta in (0.01, 100.0))
    assert one.inputs is not None
    assert hundred.inputs is not None
    assert torch.equal(one.inputs, hundred.inputs)
    torch.testing.assert_close(one.fields * 1e4, hundred.fields, rtol=1e-14, atol=0)
    assert one.fields.shape == (4, 1, 32, 32, 1)
    assert one.inputs.shape == (4, 32, 32, 1)


def test_coefficients_are_two_materials_in_equal_shares():
    nu = draw_coefficients(0, range(600), square(32))
    assert sorted(nu.unique().tolist()) == [0.1, 1.0]
    assert (nu == 1.0).double().mean().item() == pytest.approx(0.49, abs=0.03)


def test_the_threshold_is_the_expected_height():
    random = np.random.default_rng(0)
    x, cx, y, cy, s = random.random((5, 400_000))
    bumps = 5 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (0.5 * s))
    assert expected_height() == pytest.approx(bumps.mean(), abs=5 * bumps.std() / 400_000**0.5)
    assert expected_height() == pytest.approx(1.8521, abs=1e-4)


def test_coefficients_are_the_same_shapes_on_finer_grids():
    coarse, fine = (draw_coefficients(0, range(8), square(n)) for n in (33, 99))
    assert torch.equal(fine[:, 1::3, 1::3], coarse)


def test_a_trajectory_does_not_depend_on_its_batch():
    together = solve(a_task(square(32), range(5), beta=1.0))
    alone = solve(a_task(square(32), range(3, 4), beta=1.0))
    torch.testing.assert_close(together.fields[3:4], alone.fields, rtol=1e-13, atol=0)
    assert together.inputs is not None
    assert alone.inputs is not None
    assert torch.equal(together.inputs[3:4], alone.inputs)


def test_iterations_do_not_grow_with_resolution():
    for points in (16, 64):
        nu = draw_coefficients(2, range(6), square(points))
        _, residual = solve_darcy2d(nu, lengths=(1.0, 1.0), max_iterations=40)
        assert residual.max() < 2e-10


def test_what_does_not_converge_names_its_trajectory(monkeypatch):
    def given_up(coefficient, *, lengths):
        return solve_darcy2d(coefficient, lengths=lengths, max_iterations=5)

    monkeypatch.setattr(darcy2d, "solve_darcy2d", given_up)
    with pytest.raises(DataError, match=r"Darcy: trajectory \d: residual .* after"):
        solve(a_task(square(16), range(3), beta=1.0))


def test_a_missing_beta_is_named():
    with pytest.raises(UsageError, match=r"parameter beta: must lie in .* and is missing"):
        solve(a_task(square(16), range(1)))


def test_agrees_with_pdebenchs_converged_samples(shared_pdebench: Path):
    with h5py.File(shared_pdebench / "2D_DarcyFlow_beta1.0_Train.hdf5") as file:
        nu = torch.from_numpy(np.where(file["nu"][:6] > 0.5, 1.0, 0.1))
        theirs = torch.from_numpy(file["tensor"][:6, 0]).double()
    ours, _ = solve_darcy2d(nu, lengths=(1.0, 1.0))
    error = (ours - theirs).flatten(1).norm(dim=1) / ours.flatten(1).norm(dim=1)
    assert error.max() < 3e-3
    assert error.min() < 3e-4
