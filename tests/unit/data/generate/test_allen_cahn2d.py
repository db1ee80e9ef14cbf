"""Allen-Cahn against its front, its reaction, curvature motion and itself."""

from __future__ import annotations

import math

import pytest
import torch

from ups.data.generate import allen_cahn2d
from ups.data.generate.allen_cahn2d import (
    draw_initial,
    ginzburg_landau_energy,
    solve,
    solve_allen_cahn2d,
)
from ups.data.generate.base import Grid, GridAxis, Task
from ups.errors import DataError, UsageError
from ups.registry import load_card

PERIOD = 2 * math.pi
SQUARE = (PERIOD, PERIOD)


def square(points: int, times: tuple[float, ...] = (0.0, 1.0, 2.0)) -> Grid:
    return Grid((GridAxis(0.0, PERIOD, points),) * 2, times)


def a_task(grid: Grid, trajectories: range, dtype=torch.float64, **parameters: float) -> Task:
    return Task(trajectories, 5, grid, parameters, torch.device("cpu"), dtype)


def test_uniform_states_follow_the_reaction_alone():
    start = torch.tensor([-0.9, 0.01, 0.3, 1.2], dtype=torch.float64)
    frames = solve_allen_cahn2d(
        start[:, None, None].repeat(1, 8, 8), epsilon=0.1, lengths=SQUARE, times=[0.5, 3.0]
    )
    for column, time in enumerate((0.5, 3.0)):
        grown = start / torch.sqrt(start**2 + (1 - start**2) * math.exp(-2 * time))
        expected = grown[:, None, None].expand(-1, 8, 8)
        torch.testing.assert_close(frames[:, column], expected, rtol=3e-5, atol=0)


def test_a_flat_front_keeps_its_shape():
    epsilon, x = 0.15, PERIOD * (torch.arange(128, dtype=torch.float64) + 0.5) / 128
    distance = PERIOD / 4 - (x - PERIOD / 2).abs()  # fronts at 1/4 and 3/4 of the period
    front = torch.tanh(distance / (math.sqrt(2) * epsilon))[:, None].repeat(1, 128)
    frames = solve_allen_cahn2d(front[None], epsilon=epsilon, lengths=SQUARE, times=[5.0])
    assert (frames[0, 0] - front).abs().max() < 1e-5


def test_a_disc_shrinks_by_its_curvature():
    """d(R^2)/dt = -2 epsilon^2 for fronts much thinner than R."""
    epsilon, points = 0.1, 128
    x = PERIOD * (torch.arange(points, dtype=torch.float64) + 0.5) / points - PERIOD / 2
    distance = 2.0 - torch.hypot(x[:, None], x)
    disc = torch.tanh(distance / (math.sqrt(2) * epsilon))
    frames = solve_allen_cahn2d(
        disc[None], epsilon=epsilon, lengths=SQUARE, times=[0.0, 20.0, 60.0]
    )
    area = ((frames[0] + 1) / 2).mean((1, 2)) * PERIOD**2
    slope = (area[2] - area[1]) / 40.0
    assert slope.item() == pytest.approx(-2 * math.pi * epsilon**2, rel=0.02)


def test_a_small_mode_grows_at_its_own_rate():
    x = PERIOD * torch.arange(32, dtype=torch.float64) / 32
    mode = 1e-6 * torch.cos(3 * x[:, None] + 2 * x)
    frames = solve_allen_cahn2d(mode[None], epsilon=0.2, lengths=SQUARE, times=[2.0])
    rate = 1 - 0.2**2 * (3**2 + 2**2)
    torch.testing.assert_close(frames[0, 0], math.exp(2 * rate) * mode, rtol=1e-8, atol=1e-16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_energy_never_grows(dtype):
    grid = square(64, tuple(0.5 * index for index in range(121)))
    frames = solve(a_task(grid, range(2), dtype, epsilon=0.15)).fields[..., 0].double()
    energy = ginzburg_landau_energy(frames, epsilon=0.15, lengths=SQUARE)
    assert energy.diff(dim=1).max() < 1e-5 * energy.max()
    assert (energy[:, -1] < energy[:, 0] / 3).all()
    assert frames.abs().max() < 1.05


def test_fourth_order_in_time():
    settings = {"epsilon": 0.3, "lengths": SQUARE}
    rough = draw_initial(0, range(1), square(32))
    smooth = solve_allen_cahn2d(rough, times=[1.0], time_step=0.01, **settings)[:, 0]
    solved = [
        solve_allen_cahn2d(smooth, times=[4.0], time_step=step, **settings)
        for step in (0.2, 0.1, 0.0125)
    ]
    coarse, fine = ((one - solved[2]).norm().item() for one in solved[:2])
    assert coarse / fine > 13


def test_finer_grids_agree_at_shared_points():
    coarse, fine = (solve(a_task(square(n), range(2), epsilon=0.15)).fields for n in (60, 180))
    shared = fine[:, :, 1::3, 1::3]
    assert torch.allclose(shared[:, 0], coarse[:, 0], rtol=0, atol=1e-12)
    assert (shared - coarse).norm() / coarse.norm() < 1e-4


def test_a_coarse_output_grid_is_solved_on_a_finer_one():
    coarse = solve(a_task(square(20), range(1), epsilon=0.2)).fields
    fine = solve(a_task(square(60), range(1), epsilon=0.2)).fields
    assert coarse.shape == (1, 3, 20, 20, 1)
    assert (fine[:, :, 1::3, 1::3] - coarse).norm() / coarse.norm() < 1e-3


def test_the_first_frame_is_the_initial_state_and_has_the_stated_size():
    fields = solve(a_task(square(128, (0.0,)), range(3), epsilon=0.1)).fields
    initial = draw_initial(5, range(3), square(128))
    assert torch.equal(fields[:, 0, ..., 0], initial)
    torch.testing.assert_close(initial.square().mean((1, 2)).sqrt(), torch.full((3,), 0.2).double())
    assert initial.mean((1, 2)).abs().max() < 1e-15


def test_a_trajectory_does_not_depend_on_its_batch():
    together = solve(a_task(square(48), range(5), epsilon=0.2)).fields
    alone = solve(a_task(square(48), range(3, 4), epsilon=0.2)).fields
    torch.testing.assert_close(together[3:4], alone, rtol=0, atol=1e-13)  # FFT rounding
    assert (together[2:3] - alone).abs().max() > 0.1


def test_rounding_outside_real_fields_does_not_grow():
    """Modes that the inverse transform ignores grow as exp(t): by exp(80) here if kept."""
    grid = square(32, (0.0, 80.0))
    single = solve(a_task(grid, range(2), torch.float32, epsilon=0.3)).fields
    double = solve(a_task(grid, range(2), torch.float64, epsilon=0.3)).fields
    assert (single - double).norm() / double.norm() < 1e-3


def test_a_missing_epsilon_is_named():
    with pytest.raises(UsageError, match=r"parameter epsilon: must lie in .* and is missing"):
        solve(a_task(square(16), range(1)))


def test_a_lost_solution_names_its_trajectory(monkeypatch):
    def hot(*arguments):
        state = draw_initial(*arguments)
        state[2] *= 1e200
        return state

    monkeypatch.setattr(allen_cahn2d, "draw_initial", hot)
    with pytest.raises(DataError, match=r"epsilon=0.3: trajectory 9: .* not stay finite"):
        solve(a_task(square(32), range(7, 10), epsilon=0.3))


def test_the_card_holds_what_the_solver_needs():
    card = load_card("allen_cahn2d")
    assert card.generator is not None
    axes = tuple(
        GridAxis(axis.bounds[0], axis.bounds[1] - axis.bounds[0], 32)
        for axis in card.discretisation.axes
    )
    solution = solve(a_task(Grid(axes, (0.0, 0.5)), range(1), **card.generator.parameters))
    assert solution.fields.shape == (1, 2, 32, 32, len(card.fields))
    assert tuple(solution.drawn) == card.generator.drawn
