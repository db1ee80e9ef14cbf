"""FitzHugh-Nagumo without flux: eigenmodes, orders, an independent integrator, PDEBench's file."""

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

from ups.data.generate import reaction_diffusion2d
from ups.data.generate.base import Grid, GridAxis, Task
from ups.data.generate.cosine import cosine_matrix, no_flux_eigenvalues
from ups.data.generate.reaction_diffusion2d import Reaction, solve, solve_reaction_diffusion2d
from ups.errors import DataError

TIMES = tuple(0.05 * index for index in range(101))


def task(trajectories=range(3), *, points=(16, 12), times=(0.0, 0.05, 0.5), seed=0,
         dtype=torch.float64) -> Task:  # fmt: skip
    axes = tuple(GridAxis(-1.0, 2.0, count) for count in points)
    return Task(trajectories, seed, Grid(axes, times), {}, torch.device("cpu"), dtype)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def relative_l2(values: Tensor, reference: Tensor) -> float:
    return ((values - reference).norm() / reference.norm()).item()


def stencil(u: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """Five-point Laplacian with mirrored ghost cells, on the last two axes."""
    total = np.zeros_like(u)
    for axis, width in zip((-2, -1), spacing, strict=True):
        pad = [(0, 0)] * u.ndim
        pad[axis] = (1, 1)
        total += np.diff(np.pad(u, pad, mode="edge"), n=2, axis=axis) / width**2
    return total


@pytest.mark.parametrize("points", [1, 2, 7, 16])
def test_cosines_are_the_orthonormal_eigenvectors_of_the_stencil(points):
    rows = cosine_matrix(points)
    identity = torch.eye(points, dtype=torch.float64)
    torch.testing.assert_close(rows @ rows.T, identity, atol=1e-14, rtol=0)
    padded = torch.cat([rows[:, :1], rows, rows[:, -1:]], dim=1)
    applied = padded.diff(n=2, dim=1) / 0.3**2
    expected = no_flux_eigenvalues(points, 0.3)[:, None] * rows
    torch.testing.assert_close(applied, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("mode", [(0, 1), (3, 0), (2, 5), (15, 11)])
def test_small_modes_follow_the_linear_equations_exactly(mode):
    spacing, times = (2 / 16, 0.5 / 12), [0.0, 0.05, 0.7]
    shape = torch.outer(cosine_matrix(16)[mode[0]], cosine_matrix(12)[mode[1]])
    start = torch.tensor([1e-7, -0.4e-7], dtype=torch.float64)  # u^3 is lost in rounding
    solved = solve_reaction_diffusion2d((shape[..., None] * start)[None], times=times,
                                        spacing=spacing, reaction=Reaction(k=0.0))[0]  # fmt: skip
    damping = (stencil(shape.numpy(), spacing) * shape.numpy()).sum()
    linear = torch.tensor([[1e-3 * damping + 1, -1], [1, 5e-3 * damping - 1]], dtype=torch.float64)
    for frame, time in zip(solved, times, strict=True):
        exact = shape[..., None] * (torch.linalg.matrix_exp(time * linear) @ start)
        torch.testing.assert_close(frame, exact, atol=1e-18, rtol=0)


def test_uniform_states_follow_the_ordinary_equations():
    start = [1.3, -0.4]
    exact = solve_ivp(lambda _, y: [y[0] - y[0] ** 3 - 5e-3 - y[1], y[0] - y[1]], (0, 5), start,
                      method="DOP853", rtol=1e-12, atol=1e-12, t_eval=[1.0, 5.0]).y.T  # fmt: skip
    initial = torch.tensor(start, dtype=torch.float64).expand(1, 4, 6, 2).contiguous()
    solved = solve_reaction_diffusion2d(initial, times=[1.0, 5.0], spacing=(0.1, 0.2))[0]
    expected = torch.from_numpy(exact)[:, None, None].expand_as(solved)
    torch.testing.assert_close(solved, expected, atol=1e-6, rtol=0)


def test_agrees_with_an_independent_integrator_from_white_noise():
    spacing = (2 / 14, 2 / 10)
    initial = noise(14, 10, 2)

    def rates(_: float, flat: np.ndarray) -> np.ndarray:
        u, v = flat.reshape(2, 14, 10)
        change_u = 1e-3 * stencil(u, spacing) + u - u**3 - 5e-3 - v
        return np.stack([change_u, 5e-3 * stencil(v, spacing) + u - v]).ravel()

    start = initial.movedim(-1, 0).numpy().ravel()
    theirs = solve_ivp(rates, (0, 2), start, method="DOP853", rtol=1e-10, atol=1e-12,
                       t_eval=[0.05, 2.0]).y  # fmt: skip
    expected = torch.from_numpy(theirs).reshape(2, 14, 10, 2).permute(3, 1, 2, 0)
    ours = solve_reaction_diffusion2d(initial[None], times=[0.05, 2.0], spacing=spacing)[0]
    assert relative_l2(ours[0], expected[0]) < 1e-6
    assert relative_l2(ours[1], expected[1]) < 1e-6


def test_fourth_order_in_time_from_white_noise():
    initial, times = noise(2, 24, 20, 2), [0.05, 0.3]

    def solved(factor: float) -> Tensor:
        return solve_reaction_diffusion2d(initial, times=times, spacing=(2 / 128, 2 / 128),
                                          step_factor=factor)  # fmt: skip

    reference = solved(1 / 16)
    errors = [relative_l2(solved(factor), reference) for factor in (1.0, 0.5, 0.25)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert errors[-1] < 1e-6, errors
    assert min(orders) > 3.5, (errors, orders)


def test_second_order_in_space_for_smooth_states():
    def solved(points: int) -> Tensor:
        x = (torch.arange(points, dtype=torch.float64) + 0.5) / points
        wave = torch.cos(math.pi * x)
        u = 0.3 + torch.outer(wave, torch.cos(3 * math.pi * x))
        v = 0.5 * wave[:, None] + 0.2 * torch.cos(2 * math.pi * x)
        frames = solve_reaction_diffusion2d(torch.stack([u, v], -1)[None], times=[1.0],
                                            spacing=(1 / points,) * 2)  # fmt: skip
        return frames[0, 0].unflatten(1, (8, -1)).unflatten(0, (8, -1)).mean((1, 3))

    reference = solved(128)
    errors = [relative_l2(solved(points), reference) for points in (8, 16, 32)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert min(orders) > 1.8, (errors, orders)


def test_nothing_leaves_through_the_boundary():
    """The mean of v changes by mean(u - v) alone."""
    times = [0.1 + 0.0125 * index for index in range(41)]
    frames = solve_reaction_diffusion2d(noise(2, 16, 12, 2), times=times, spacing=(0.02, 0.03))
    u, v = frames.mean((2, 3)).unbind(-1)
    gained = simpson((u - v).numpy(), x=np.array(times), axis=1)
    np.testing.assert_allclose((v[:, -1] - v[:, 0]).numpy(), gained, rtol=0, atol=1e-8)


def test_agrees_with_pdebench_from_its_frame_0(shared_pdebench: Path):
    with h5py.File(shared_pdebench / "2D_diff-react_NA_NA.h5") as file:
        theirs = torch.from_numpy(file["0000/data"][()])
    theirs = theirs.transpose(1, 2)[:41]  # (time, y, x, channel) there
    ours = solve_reaction_diffusion2d(theirs[None, 0], times=TIMES[:41], spacing=(2 / 128, 2 / 128))
    assert relative_l2(ours[0], theirs) < 5e-5


def test_float32_agrees_with_float64():
    double, single = (solve(task(dtype=dtype)).fields for dtype in (torch.float64, torch.float32))
    assert single.dtype == torch.float32
    assert relative_l2(single.double(), double) < 2e-6


def test_frames_do_not_depend_on_which_others_are_stored():
    initial = noise(1, 12, 12, 2)
    few = solve_reaction_diffusion2d(initial, times=[0.0, 1.0], spacing=(0.1, 0.1))
    many = solve_reaction_diffusion2d(initial, times=TIMES[:21], spacing=(0.1, 0.1))
    assert torch.equal(few[:, 0], initial)
    assert relative_l2(few[:, 1], many[:, 20]) < 1e-6


def test_trajectory_depends_on_seed_and_number_alone():
    whole = solve(task(range(6))).fields
    assert whole.shape == (6, 3, 16, 12, 2)
    torch.testing.assert_close(solve(task(range(3, 5))).fields, whole[3:5], atol=1e-12, rtol=0)
    assert not torch.allclose(solve(task(range(6), seed=1)).fields, whole, atol=1e-2)


def test_first_frame_is_white_noise():
    first = solve(task(range(20), points=(32, 32), times=(0.0,))).fields[:, 0]
    assert first.mean().abs() < 0.02
    assert first.std().item() == pytest.approx(1, abs=0.02)
    neighbours = (first[:, 1:] * first[:, :-1]).mean()
    channels = (first[..., 0] * first[..., 1]).mean()
    assert max(neighbours.abs(), channels.abs()) < 0.02


def test_times_that_do_not_rise_are_a_value_error():
    with pytest.raises(ValueError, match="times"):
        solve_reaction_diffusion2d(noise(1, 4, 4, 2), times=[-1.0, 1.0], spacing=(0.1, 0.1))


def test_solution_that_is_not_finite_names_its_trajectory(monkeypatch):
    drawn = reaction_diffusion2d._white_noise

    def spoilt(of: Task) -> Tensor:
        states = drawn(of).clone()
        states[1, 3, 2, 0] = 1e200
        return states

    monkeypatch.setattr(reaction_diffusion2d, "_white_noise", spoilt)
    with pytest.raises(DataError, match="trajectory 5"):
        solve(task(range(4, 7)))
