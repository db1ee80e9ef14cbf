"""Diffusion with sorption: exact solutions, orders, balance of mass, an independent integrator."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.integrate import simpson, solve_ivp
from torch import Tensor

from ups.data.generate import diffusion_sorption1d
from ups.data.generate.base import Grid, GridAxis, Task
from ups.data.generate.diffusion_sorption1d import Medium, solve, solve_diffusion_sorption1d
from ups.data.generate.tridiagonal import solve_tridiagonal
from ups.errors import DataError

TIMES = tuple(5.0 * index for index in range(101))


def uniform(*values: float, points: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)[:, None].repeat(1, points)


def task(trajectories=range(3), *, points=32, times=(0.0, 5.0, 20.0), seed=0,
         dtype=torch.float64) -> Task:  # fmt: skip
    grid = Grid((GridAxis(0.0, 1.0, points),), times)
    return Task(trajectories, seed, grid, {}, torch.device("cpu"), dtype)


def relative_l2(values: Tensor, reference: Tensor) -> Tensor:
    difference = (values.double() - reference.double()).flatten(1).norm(dim=1)
    return difference / reference.double().flatten(1).norm(dim=1)


def orders(errors: list[float]) -> list[float]:
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 17, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tridiagonal_solution_satisfies_its_system(count, dtype):
    generator = torch.Generator().manual_seed(count)
    lower, upper, right = torch.randn(3, 4, count, generator=generator, dtype=dtype)
    diagonal = 1.1 + lower.abs() + upper.abs()
    matrix = torch.diag_embed(diagonal)
    if count > 1:
        matrix += torch.diag_embed(lower[:, 1:], -1) + torch.diag_embed(upper[:, :-1], 1)
    expected = torch.linalg.solve(matrix, right)
    solved = solve_tridiagonal(lower, diagonal, upper, right)
    torch.testing.assert_close(solved, expected, atol=50 * torch.finfo(dtype).eps, rtol=0)


def test_without_sorption_the_layer_is_the_error_function_to_second_order():
    medium = Medium(sorption=0.0, film=0.0)
    errors = []
    for points in (32, 64, 128):
        x = (torch.arange(points, dtype=torch.float64) + 0.5) / points
        solved = solve_diffusion_sorption1d(uniform(0.1, points=points), times=[10.0],
                                            medium=medium, step_share=0.05)[0, 0]  # fmt: skip
        exact = 0.1 + 0.9 * torch.erfc(x / math.sqrt(4 * 5e-4 * 10.0))
        left = x < 0.5  # the right end has a layer of its own
        errors.append((solved - exact)[left].abs().max().item())
    assert errors[-1] < 5e-4, errors
    assert min(orders(errors)) > 1.9, errors


def test_second_order_in_space_with_sorption_and_both_boundary_layers():
    def solved(points: int) -> Tensor:
        frames = solve_diffusion_sorption1d(uniform(0.02, 0.15, points=points), times=[20.0],
                                            step_share=0.2)  # fmt: skip
        return frames[:, 0].unflatten(1, (32, -1)).mean(2)

    reference = solved(1024)
    errors = [(solved(points) - reference).norm().item() for points in (32, 64, 128)]
    assert min(orders(errors)) > 1.8, errors


def test_second_order_in_time():
    x = (torch.arange(32, dtype=torch.float64) + 0.5) / 32
    initial = (1 - x + 0.3 * torch.sin(math.pi * x) ** 2)[None]  # no jump at the ends

    def solved(num_steps: int) -> Tensor:
        times = [20.0 * number / num_steps for number in range(num_steps + 1)]
        return solve_diffusion_sorption1d(initial, times=times, step_share=1e9)[:, -1]

    reference = solved(400)
    errors = [(solved(num_steps) - reference).norm().item() for num_steps in (10, 20, 40)]
    assert min(orders(errors)) > 1.95, errors


def test_graded_steps_resolve_the_jump_at_the_start():
    initial, times = uniform(0.02, 0.15, points=64), [0.0, 5.0, 10.0, 20.0, 50.0]
    usual = solve_diffusion_sorption1d(initial, times=times)
    reference = solve_diffusion_sorption1d(initial, times=times, step_share=0.02)
    assert relative_l2(usual, reference).max() < 1e-4


def test_mass_changes_by_what_passes_the_ends():
    medium, points = Medium(), 128
    times = [100 + 0.5 * index for index in range(41)]
    frames = solve_diffusion_sorption1d(uniform(0.05, 0.2, points=points), times=times)
    half = 0.5 / points
    inflow = (1 - frames[..., 0]) / (half + medium.film)
    outflow = frames[..., -1] / (half + medium.film + medium.diffusion)
    passed = simpson(medium.diffusion * (inflow - outflow).numpy(), x=np.array(times), axis=1)
    held = medium.stored(frames)[0].mean(2)
    change = (held[:, -1] - held[:, 0]).numpy()
    np.testing.assert_allclose(change, passed, rtol=1e-5)
    assert (outflow > 0).all()


@pytest.mark.parametrize("points", [16, 100])
def test_steady_state_is_the_line_between_both_conditions(points):
    film, diffusion = Medium().film, Medium().diffusion
    solved = solve_diffusion_sorption1d(uniform(0.1, points=points), times=[1e6])[0, 0]
    x = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    exact = 1 - (x + film) / (1 + 2 * film + diffusion)
    torch.testing.assert_close(solved, exact, atol=1e-8, rtol=0)


def ghost_cell_rates(points: int):
    """PDEBench's semi-discrete equation: boundary values in the centres of ghost cells."""
    spacing, diffusion = 1 / points, 5e-4
    sorption = (1 - 0.29) / 0.29 * 2880 * 3.5e-4 * 0.874

    def rates(_: float, u: np.ndarray) -> np.ndarray:
        outside = diffusion * (u[-2] - u[-1]) / spacing
        padded = np.concatenate([[1.0], u, [outside]])
        retardation = 1 + sorption * np.maximum(u + 1e-6, 1e-12) ** (0.874 - 1)
        return diffusion / retardation * np.diff(padded, n=2) / spacing**2

    return rates


def test_agrees_with_an_accurate_integration_of_pdebench_s_equations():
    times = [5.0, 20.0, 50.0]
    theirs = solve_ivp(ghost_cell_rates(1024), (0, 50), np.full(1024, 0.12739234), t_eval=times,
                       method="LSODA", lband=2, uband=1, rtol=1e-7, atol=1e-9).y.T  # fmt: skip
    ours = solve_diffusion_sorption1d(uniform(0.12739234, points=1024), times=times)
    assert relative_l2(ours, torch.from_numpy(theirs)[None]).max() < 1e-4


def test_differs_from_pdebench_s_file_by_that_file_s_error_in_time(shared_pdebench: Path):
    with h5py.File(shared_pdebench / "1D_diff-sorp_NA_NA.h5") as file:
        frames = [file[name]["data"][:21, :, 0] for name in file]
    theirs = torch.from_numpy(np.stack(frames))
    ours = solve_diffusion_sorption1d(theirs[:, 0], times=TIMES[:21])
    error = relative_l2(ours, theirs)
    assert 5e-3 < error.max() < 1.5e-2  # their tolerance is 1e-3 a step; see the test above
    rough, smooth = (u.diff(n=2, dim=2)[:, 1, :32].abs().amax(1) for u in (theirs, ours))
    assert (smooth < 0.2 * rough).all()


def test_float32_agrees_with_float64():
    double = solve_diffusion_sorption1d(uniform(0.01, 0.2, points=256), times=TIMES[:6])
    start = uniform(0.01, 0.2, points=256, dtype=torch.float32)
    single = solve_diffusion_sorption1d(start, times=TIMES[:6])
    assert relative_l2(single, double).max() < 3e-6


def test_states_near_zero_stay_between_their_bounds():
    solved = solve_diffusion_sorption1d(
        uniform(0.0, 1e-9, 1e-4, points=256), times=[0.0, 5.0, 99.0]
    )
    assert solved.isfinite().all()
    assert solved.min() > -1e-9
    assert solved.max() < 1
    assert (solved.diff(dim=2) < 1e-9).all()  # no ringing: it falls from left to right


def test_regularisation_does_not_show():
    initial = uniform(0.001, 0.1, points=64)
    plain, sharper = (
        solve_diffusion_sorption1d(initial, times=[5.0], medium=Medium(regularisation=value))
        for value in (1e-6, 1e-10)
    )
    assert relative_l2(plain, sharper).max() < 1e-5


def test_film_of_the_published_files_changes_little():
    initial = uniform(0.1, points=128)
    published, textbook = (
        solve_diffusion_sorption1d(initial, times=[50.0], medium=Medium(film=film))
        for film in (0.5 / 1024, 0.0)
    )
    assert 5e-4 < relative_l2(published, textbook).item() < 5e-3


def test_trajectory_depends_on_seed_and_number_alone():
    whole = solve(task(range(6))).fields
    assert whole.shape == (6, 3, 32, 1)
    torch.testing.assert_close(solve(task(range(3, 5))).fields, whole[3:5], atol=1e-13, rtol=0)
    assert not torch.allclose(solve(task(range(6), seed=1)).fields, whole, atol=1e-3)


def test_first_frame_is_one_value_from_the_published_range():
    first = solve(task(range(400), points=4, times=(0.0,))).fields[:, 0, :, 0]
    assert (first == first[:, :1]).all()
    assert 0 <= first.min() < 0.01
    assert 0.19 < first.max() < 0.2
    assert first.mean().item() == pytest.approx(0.1, abs=0.01)


def test_times_that_do_not_rise_are_a_value_error():
    with pytest.raises(ValueError, match="times"):
        solve_diffusion_sorption1d(uniform(0.1, points=8), times=[1.0, 1.0])


def test_solution_that_is_not_finite_names_its_trajectory(monkeypatch):
    monkeypatch.setattr(diffusion_sorption1d, "_initial_value",
                        lambda seed, index: math.nan if index == 5 else 0.1)  # fmt: skip
    with pytest.raises(DataError, match="trajectory 5"):
        solve(task(range(4, 7)))
