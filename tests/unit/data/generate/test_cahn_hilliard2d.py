"""Cahn-Hilliard against linear theory, its invariants and itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ups.data.generate import cahn_hilliard2d
from ups.data.generate.allen_cahn2d import ginzburg_landau_energy
from ups.data.generate.base import Grid, GridAxis, Task
from ups.data.generate.cahn_hilliard2d import draw_initial, solve, solve_cahn_hilliard2d
from ups.errors import DataError, UsageError
from ups.registry import load_card

PERIOD = 2 * math.pi
SQUARE = (PERIOD, PERIOD)
PARAMETERS = {"epsilon": 0.2, "mobility": 1.0}


def square(points: int, times: tuple[float, ...] = (0.0, 0.1, 0.2)) -> Grid:
    return Grid((GridAxis(0.0, PERIOD, points),) * 2, times)


def a_task(grid: Grid, trajectories: range, dtype=torch.float64, **parameters: float) -> Task:
    return Task(trajectories, 5, grid, parameters, torch.device("cpu"), dtype)


@pytest.mark.parametrize("mean", [0.0, 0.3, 0.7])
def test_a_small_mode_grows_at_the_rate_of_the_dispersion_relation(mean):
    epsilon, mobility, wave = 0.2, 0.5, (2, 3)
    x = PERIOD * torch.arange(32, dtype=torch.float64) / 32
    mode = 1e-7 * torch.cos(wave[0] * x[:, None] + wave[1] * x)
    frames = solve_cahn_hilliard2d(
        (mean + mode)[None], epsilon=epsilon, mobility=mobility, lengths=SQUARE, times=[0.25]
    )
    square_wave = wave[0] ** 2 + wave[1] ** 2
    rate = mobility * square_wave * (1 - 3 * mean**2 - epsilon**2 * square_wave)
    grown = (frames[0, 0] - mean) / 1e-7
    expected = math.exp(0.25 * rate) * mode / 1e-7
    torch.testing.assert_close(grown, expected, rtol=0, atol=1e-3 * expected.max().item())


def test_a_flat_interface_stays():
    epsilon, x = 0.15, PERIOD * (torch.arange(96, dtype=torch.float64) + 0.5) / 96
    distance = PERIOD / 4 - (x - PERIOD / 2).abs()
    front = torch.tanh(distance / (math.sqrt(2) * epsilon))[:, None].repeat(1, 96)
    frames = solve_cahn_hilliard2d(
        front[None], epsilon=epsilon, mobility=1.0, lengths=SQUARE, times=[1.0]
    )
    assert (frames[0, 0] - front).abs().max() < 1e-4


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-7), (torch.float64, 1e-15)])
def test_mass_is_kept_and_energy_never_grows(dtype, rounding):
    grid = square(64, tuple(0.1 * index for index in range(31)))
    solution = solve(a_task(grid, range(3), dtype, **PARAMETERS))
    frames = solution.fields[..., 0].double()
    mean = torch.from_numpy(solution.drawn["mean"])
    assert (frames.mean((2, 3)) - mean[:, None]).abs().max() < rounding
    energy = ginzburg_landau_energy(frames, epsilon=0.2, lengths=SQUARE)
    assert energy.diff(dim=1).max() < 1e-6 * energy.max()
    assert (frames[:, -1].std((1, 2)) > 0.4).all()


def test_third_order_in_time():
    settings = {"epsilon": 0.3, "mobility": 1.0, "lengths": SQUARE}
    _, rough = draw_initial(0, range(1), square(32), mean=0.1)
    smooth = solve_cahn_hilliard2d(rough, times=[0.5], time_step=0.002, **settings)[:, 0]
    solved = [
        solve_cahn_hilliard2d(smooth, times=[1.0], time_step=step, **settings)
        for step in (0.02, 0.01, 0.001)
    ]
    coarse, fine = ((one - solved[2]).norm().item() for one in solved[:2])
    assert coarse / fine > 6.5
    assert fine / solved[2].norm().item() < 1e-6


def test_finer_grids_agree_at_shared_points():
    coarse, fine = (solve(a_task(square(n), range(2), **PARAMETERS)).fields for n in (50, 150))
    shared = fine[:, :, 1::3, 1::3]
    assert torch.allclose(shared[:, 0], coarse[:, 0], rtol=0, atol=1e-12)
    assert (shared - coarse).norm() / coarse.norm() < 1e-4


def test_mobility_sets_the_pace():
    slow = solve(a_task(square(48, (0.0, 0.2, 0.4)), range(2), epsilon=0.2, mobility=1.0))
    fast = solve(a_task(square(48, (0.0, 0.1, 0.2)), range(2), epsilon=0.2, mobility=2.0))
    torch.testing.assert_close(slow.fields, fast.fields, rtol=0, atol=1e-9)


def test_means_are_drawn_and_a_given_one_is_obeyed():
    grid = square(40, (0.0,))
    drawn = solve(a_task(grid, range(100), **PARAMETERS))
    assert -0.4 <= drawn.drawn["mean"].min() < -0.35
    assert 0.35 < drawn.drawn["mean"].max() <= 0.4
    given = solve(a_task(grid, range(100), **PARAMETERS, mean=0.25))
    assert given.drawn == {}
    shift = (given.fields - drawn.fields)[:, 0, 0, 0, 0].numpy()
    assert np.allclose(shift, 0.25 - drawn.drawn["mean"], atol=1e-12)


def test_a_trajectory_does_not_depend_on_its_batch():
    together = solve(a_task(square(48), range(4), **PARAMETERS))
    alone = solve(a_task(square(48), range(2, 3), **PARAMETERS))
    torch.testing.assert_close(together.fields[2:3], alone.fields, rtol=0, atol=1e-13)
    assert together.drawn["mean"][2] == alone.drawn["mean"][0]


def test_float32_agrees_with_float64():
    single = solve(a_task(square(48), range(2), torch.float32, **PARAMETERS)).fields
    double = solve(a_task(square(48), range(2), **PARAMETERS)).fields
    assert (single - double).norm() / double.norm() < 1e-4


def test_bad_parameters_are_named():
    with pytest.raises(UsageError, match=r"parameter mobility: must lie in .* and is missing"):
        solve(a_task(square(16), range(1), epsilon=0.2))
    with pytest.raises(UsageError, match=r"parameter mean: .* and is 3"):
        solve(a_task(square(16), range(1), **PARAMETERS, mean=3.0))


def test_a_lost_solution_names_its_trajectory(monkeypatch):
    def hot(*arguments, **options):
        mean, state = draw_initial(*arguments, **options)
        state[0] *= 1e200
        return mean, state

    monkeypatch.setattr(cahn_hilliard2d, "draw_initial", hot)
    with pytest.raises(DataError, match=r"trajectory 7: .* not stay finite"):
        solve(a_task(square(32), range(7, 10), **PARAMETERS))


def test_the_card_holds_what_the_solver_needs():
    card = load_card("cahn_hilliard2d")
    assert card.generator is not None
    axes = tuple(
        GridAxis(axis.bounds[0], axis.bounds[1] - axis.bounds[0], 32)
        for axis in card.discretisation.axes
    )
    grid = Grid(axes, (0.0, card.time.step or 0.0))
    solution = solve(a_task(grid, range(1), **card.generator.parameters))
    assert solution.fields.shape == (1, 2, 32, 32, len(card.fields))
    assert tuple(solution.drawn) == card.generator.drawn
    assert card.pde.conserved == ("u",)
