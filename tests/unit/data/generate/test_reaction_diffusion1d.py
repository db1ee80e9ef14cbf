"""Fisher-KPP on a periodic interval: exact solutions, order, and how PDEBench's file differs."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import h5py
import pytest
import torch
from torch import Tensor

from ups.data.generate import reaction_diffusion1d
from ups.data.generate.base import Grid, GridAxis, Task
from ups.data.generate.initial_conditions import draw_initial_conditions
from ups.data.generate.reaction_diffusion1d import (
    internal_refinement,
    logistic,
    solve,
    solve_reaction_diffusion1d,
)
from ups.errors import DataError, UsageError

TIMES = tuple(0.01 * index for index in range(101))


def centres(points: int) -> Tensor:
    return (torch.arange(points, dtype=torch.float64) + 0.5) / points


def relative_l2(values: Tensor, reference: Tensor) -> Tensor:
    return (values - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)


def task(trajectories=range(3), *, nu=0.5, rho=1.0, points=256, times=(0.0, 0.05, 0.3), seed=0,
         dtype=torch.float64) -> Task:  # fmt: skip
    grid = Grid((GridAxis(0.0, 1.0, points),), times)
    return Task(trajectories, seed, grid, {"nu": nu, "rho": rho}, torch.device("cpu"), dtype)


@pytest.mark.parametrize("rho", [1.0, 10.0])
def test_uniform_states_follow_the_logistic_law(rho):
    start = torch.tensor([[0.0], [1e-3], [0.3], [0.6], [1.0]], dtype=torch.float64)
    solved = solve_reaction_diffusion1d(start.expand(5, 32).clone(), nu=0.5, rho=rho, times=TIMES)
    time = torch.tensor(TIMES, dtype=torch.float64)
    exact = 1 / (1 + (1 / start - 1) * torch.exp(-rho * time))
    torch.testing.assert_close(solved, exact[..., None].expand_as(solved), atol=1e-13, rtol=0)


def test_without_reaction_every_mode_decays_exactly():
    x, times = centres(64), [0.0, 0.003, 0.1]
    waves = torch.stack([torch.sin(2 * math.pi * k * x + 0.3) for k in (1, 3, 8)])
    solved = solve_reaction_diffusion1d(0.5 + 0.4 * waves, nu=0.7, rho=0.0, times=times)
    rate = 0.7 * (2 * math.pi * torch.tensor([1.0, 3.0, 8.0], dtype=torch.float64)) ** 2
    decay = torch.exp(-rate[:, None] * torch.tensor(times, dtype=torch.float64))
    exact = 0.5 + 0.4 * decay[..., None] * waves[:, None]
    torch.testing.assert_close(solved, exact, atol=1e-13, rtol=0)


def test_fronts_travel_as_ablowitz_and_zeppetella_found():
    """u = (1 + exp(z / sqrt 6))^-2, z = x - 5 t / sqrt 6, twice, back to back."""

    def fronts(time: float) -> Tensor:
        distance = (200 * centres(1024) - 100).abs() - 40 - 5 / math.sqrt(6) * time
        return (1 + torch.exp(distance / math.sqrt(6))) ** -2

    solved = solve_reaction_diffusion1d(fronts(0.0)[None], nu=1.0, rho=1.0, times=[1.0, 5.0],
                                        length=200.0)[0]  # fmt: skip
    for frame, time in zip(solved, (1.0, 5.0), strict=True):
        assert (frame - fronts(time)).abs().max() < 2e-6
    assert (solved[0] - fronts(5.0)).abs().max() > 0.5


@pytest.mark.parametrize(("nu", "rho"), [(0.5, 1.0), (0.05, 10.0)])
def test_fourth_order_in_time_from_rough_states(nu, rho):
    initial = draw_initial_conditions(0, range(12)).evaluate(centres(512)).sigmoid()
    settings = {"nu": nu, "rho": rho, "times": [0.1]}
    reference = solve_reaction_diffusion1d(initial, step_share=0.0125, **settings)
    errors = [
        relative_l2(solve_reaction_diffusion1d(initial, step_share=share, **settings), reference)
        .max().item() for share in (0.2, 0.1, 0.05)
    ]  # fmt: skip
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert errors[0] < 1e-8, errors
    assert orders[0] > 3.3, (errors, orders)
    assert orders[1] > 3.5, (errors, orders)


def test_agrees_with_pdebench_while_states_vary_and_not_when_rounding_stops_theirs(
    shared_pdebench: Path,
):
    with h5py.File(shared_pdebench / "ReacDiff_Nu0.5_Rho1.0.hdf5") as file:
        theirs = torch.from_numpy(file["tensor"][()]).double()
    ours = solve_reaction_diffusion1d(theirs[:, 0], nu=0.5, rho=1.0, times=TIMES)
    by_time = (ours - theirs).norm(dim=2) / theirs.norm(dim=2)
    assert by_time[:, :6].max() < 1.5e-3
    assert by_time[:, 100].min() > 0.2
    law = logistic(ours[:, 50].mean(1), 0.5)
    assert (ours[:, 100].mean(1) - law).abs().max() < 1e-10
    assert torch.equal(theirs[:, 100], theirs[:, 50])  # the defect: nothing moves any more


@pytest.mark.parametrize("points", [1024, 100, 64])
def test_initial_states_span_exactly_zero_to_one(points):
    first = solve(task(range(20), points=points, times=(0.0,))).fields[:, 0, :, 0]
    assert first.shape == (20, points)
    assert (first.amin(1) == 0).all()
    assert (first.amax(1) == 1).all()
    family = draw_initial_conditions(0, range(20)).evaluate(centres(points))
    correlation = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1]
                               for pair in zip(first, family, strict=True)])  # fmt: skip
    assert correlation.min() > 1 - 1e-12


def test_trajectory_depends_on_seed_and_number_alone():
    whole = solve(task(range(6))).fields
    torch.testing.assert_close(solve(task(range(3, 5))).fields, whole[3:5], atol=1e-14, rtol=0)
    assert not torch.allclose(solve(task(range(6), seed=1)).fields, whole, atol=1e-2)
    assert torch.equal(solve(task(range(6), rho=5.0)).fields[:, 0], whole[:, 0])


def test_coarse_output_is_as_accurate_as_fine():
    axis = GridAxis(0.0, 1.0, 32)
    coarse = solve(task(range(16), points=32)).fields[..., 0]
    values = draw_initial_conditions(0, range(16)).evaluate(axis.centres(64))
    low, high = values[:, ::64].aminmax(dim=1, keepdim=True)
    reference = solve_reaction_diffusion1d((values - low) / (high - low), nu=0.5, rho=1.0,
                                           times=[0.0, 0.05, 0.3], output_stride=64)  # fmt: skip
    assert relative_l2(coarse, reference).max() < 1e-4


def test_internal_grid_follows_the_front():
    axis = GridAxis(0.0, 1.0, 1024)
    assert internal_refinement(axis, nu=0.5, rho=10.0) == 1
    assert internal_refinement(GridAxis(0.0, 1.0, 64), nu=0.5, rho=1.0) == 4
    assert internal_refinement(axis, nu=1e-4, rho=100.0) == 4


def test_float32_is_float64_rounded_at_the_end():
    double, single = (solve(task(dtype=dtype)).fields for dtype in (torch.float64, torch.float32))
    assert single.dtype == torch.float32
    assert torch.equal(single, double.float())


def test_bad_parameters_are_named():
    with pytest.raises(UsageError, match="nu"):
        solve(task(nu=0.0))
    with pytest.raises(UsageError, match="rho"):
        solve(task(rho=math.nan))
    initial = torch.zeros(1, 32, dtype=torch.float64)
    for wrong in ({"nu": 0.0}, {"rho": -1.0}, {"times": []}, {"times": [0.1, 0.1]},
                  {"output_stride": 3}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            solve_reaction_diffusion1d(initial, **({"nu": 1.0, "rho": 1.0, "times": [0.0]} | wrong))


def test_solution_that_is_not_finite_names_its_trajectory(monkeypatch):
    stretched = reaction_diffusion1d._stretched_to_unit

    def spoilt(values: Tensor, stride: int) -> Tensor:
        rows = stretched(values, stride)
        rows[1, 7] = math.inf
        return rows

    monkeypatch.setattr(reaction_diffusion1d, "_stretched_to_unit", spoilt)
    with pytest.raises(DataError, match="trajectory 5"):
        solve(task(range(4, 7)))
