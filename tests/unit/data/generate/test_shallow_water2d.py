"""The dam break against Stoker's exact solution, PDEBench's file and itself."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from ups.data.generate import shallow_water2d
from ups.data.generate.base import Grid, GridAxis, Task
from ups.data.generate.shallow_water2d import column, solve, solve_shallow_water2d
from ups.errors import DataError, UsageError


def square(points: int, times: tuple[float, ...] = (0.0, 0.5, 1.0)) -> Grid:
    return Grid((GridAxis(-2.5, 5.0, points),) * 2, times)


def a_task(grid: Grid, trajectories: range, dtype=torch.float64, **parameters: float) -> Task:
    return Task(trajectories, 7, grid, parameters, torch.device("cpu"), dtype)


def stoker(x: Tensor, time: float) -> Tensor:
    """Depth at `time` after a dam between depths 2 (x < 0) and 1 breaks, g = 1."""

    def jump(middle: float) -> float:  # speed behind the bore minus speed in the fan
        behind = (middle - 1) * math.sqrt((middle + 1) / (2 * middle))
        return behind - 2 * (math.sqrt(2.0) - math.sqrt(middle))

    low, high = 1.0, 2.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if jump(middle) < 0 else (low, middle)
    speed = 2 * (math.sqrt(2.0) - math.sqrt(middle))
    bore = middle * speed / (middle - 1)
    fan = ((2 * math.sqrt(2.0) - x / time) / 3) ** 2
    depth = torch.ones_like(x).masked_fill(x < bore * time, middle)
    return torch.where(x < (speed - math.sqrt(middle)) * time, fan.clamp(middle, 2.0), depth)


def stoker_error(points: int, axis: int) -> float:
    cell = 4.0 / points
    x = -2.0 + cell * (torch.arange(points, dtype=torch.float64) + 0.5)
    line = torch.where(x < 0, 2.0, 1.0).double()
    depth = line[:, None].repeat(1, 4) if axis == 0 else line.repeat(4, 1)
    frames = solve_shallow_water2d(depth[None], spacing=(cell, cell), times=[0.8])[0, 0]
    assert torch.equal(frames, frames.mean(1 - axis, keepdim=True).expand_as(frames))
    exact = stoker(x, 0.8)
    return float((frames.select(1 - axis, 0) - exact).abs().sum() / exact.sum())


@pytest.mark.parametrize("axis", [0, 1])
def test_a_straight_dam_gives_stokers_solution(axis):
    coarse, fine = stoker_error(60, axis), stoker_error(240, axis)
    assert fine < 2e-3
    assert fine < coarse / 3.2  # first order, for the solution has a bore


def smooth_errors(courant: float) -> list[float]:
    solved = []
    for points in (24, 48, 96, 192):
        cell = 2.0 / points
        x = cell * (torch.arange(points, dtype=torch.float64) + 0.5) - 1
        hump = torch.exp(-10 * (x[:, None] ** 2 + x**2))
        frames = solve_shallow_water2d(
            1 + 0.2 * hump[None], spacing=(cell, cell), times=[0.3], quadrant=True, courant=courant
        )
        solved.append(torch.nn.functional.avg_pool2d(frames, points // 24)[0, 0])
    return [float((a - b).abs().mean()) for a, b in pairwise(solved)]


def test_smooth_waves_converge_at_second_order():
    first, second, third = smooth_errors(0.5)
    assert first / second > 3.0
    assert second / third > 3.2


def test_water_is_kept_until_waves_reach_the_boundary():
    depth = solve(a_task(square(64), range(3))).fields[..., 0]
    water = depth.sum((2, 3))
    assert (water / water[:, :1] - 1).abs().max() < 1e-13
    assert (depth[:, -1] - depth[:, 0]).abs().max() > 0.5


def test_waves_leave_through_the_boundary():
    grid = Grid((GridAxis(-0.5, 1.0, 32),) * 2, (0.0, 4.0))
    first, last = solve(a_task(grid, range(1), dam_radius=0.3)).fields[0]
    assert last.max() - last.min() < 1e-3  # level again; extrapolation leaves it a little low
    assert 0.9 < last.mean() < 1.0 < first.mean()


def test_the_quarter_is_the_whole_and_axes_are_equal():
    grid = square(48)
    initial = column(np.array([0.5]), grid)
    settings = {"spacing": (5 / 48, 5 / 48), "times": grid.times}
    whole = solve_shallow_water2d(initial, **settings)
    quarter = solve_shallow_water2d(initial, quadrant=True, **settings)
    torch.testing.assert_close(quarter, whole, rtol=0, atol=1e-13)
    torch.testing.assert_close(whole, whole.transpose(2, 3), rtol=0, atol=1e-13)


def test_a_grid_off_the_centre_is_solved_whole():
    odd = Grid((GridAxis(-2.5, 5.0, 33), GridAxis(-2.5, 5.0, 32)), (0.0, 0.3))
    depth = solve(a_task(odd, range(1), dam_radius=0.6)).fields[0, -1, ..., 0]
    torch.testing.assert_close(depth, depth.flip(0), rtol=0, atol=1e-12)
    assert depth.max() > 1.1


def test_a_trajectory_does_not_depend_on_its_batch():
    together = solve(a_task(square(32), range(2, 6)))
    alone = solve(a_task(square(32), range(4, 5)))
    assert torch.equal(together.fields[2:3], alone.fields)
    assert together.drawn["dam_radius"][2] == alone.drawn["dam_radius"][0]
    radii = solve(a_task(square(16, (0.0,)), range(50))).drawn["dam_radius"]
    assert 0.3 <= radii.min() < 0.35
    assert 0.65 < radii.max() <= 0.7


def test_a_given_radius_is_obeyed_and_the_first_frame_is_the_dam():
    grid = square(32)
    solution = solve(a_task(grid, range(2), dam_radius=0.65))
    assert solution.drawn == {}
    assert torch.equal(solution.fields[:, 0, ..., 0], column(np.array([0.65, 0.65]), grid))
    assert torch.equal(solution.fields[0], solution.fields[1])


def test_float32_agrees_with_float64():
    single = solve(a_task(square(64), range(2), torch.float32)).fields
    double = solve(a_task(square(64), range(2))).fields
    assert single.dtype == torch.float32
    assert (single - double).norm() / double.norm() < 1e-5


def test_a_radius_out_of_range_is_refused():
    with pytest.raises(UsageError, match=r"parameter dam_radius: must lie in .* and is 9"):
        solve(a_task(square(16), range(1), dam_radius=9.0))


def test_a_lost_solution_names_its_trajectory(monkeypatch):
    def flooded(radius, grid):
        depth = column(radius, grid)
        depth[1] = torch.inf
        return depth

    monkeypatch.setattr(shallow_water2d, "column", flooded)
    with pytest.raises(DataError, match=r"shallow water: trajectory 11: .* not stay finite"):
        solve(a_task(square(16), range(10, 12)))


@pytest.mark.slow
def test_agrees_with_pdebench(shared_pdebench: Path):
    grid = square(128, tuple(0.01 * index for index in range(101)))
    with h5py.File(shared_pdebench / "2D_rdb_NA_NA.h5") as file:
        for group in file.values():
            text = str(group.attrs["config"])
            radius = float(re.findall(r"dam_radius: (\S+)", text)[0])
            theirs = torch.from_numpy(group["data"][()]).double()
            ours = solve(a_task(grid, range(1), dam_radius=radius)).fields[0]
            assert torch.equal(ours[0], theirs[0])
            assert (ours - theirs).norm() / theirs.norm() < 3e-3
