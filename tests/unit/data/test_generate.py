"""The built-in solvers against exact solutions, PDEBench's own files and themselves."""

from __future__ import annotations

import math
import os
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from ups.data.generate import generate, raw_file_name
from ups.data.generate.advection1d import solve_advection1d
from ups.data.generate.burgers1d import internal_refinement, refine_periodic, solve_burgers1d
from ups.data.generate.initial_conditions import draw_initial_conditions
from ups.errors import DataError, UsageError
from ups.registry import DatasetCard, load_card

SHARED = Path(os.environ.get("UPS_SHARED", Path(__file__).parents[4] / "shared")) / "pdebench"
TIMES = [0.01 * index for index in range(201)]


@pytest.fixture(scope="module")
def burgers() -> DatasetCard:
    return load_card("burgers1d")


@pytest.fixture(scope="module")
def advection() -> DatasetCard:
    return load_card("advection1d")


def shared_file(name: str) -> Path:
    if not (SHARED / name).is_file():
        pytest.skip(f"{SHARED / name} is not here (set UPS_SHARED to the folder that holds it)")
    return SHARED / name


def tensor_of(path: Path) -> Tensor:
    with h5py.File(path) as file:
        return torch.from_numpy(file["tensor"][()])


def centres(points: int) -> Tensor:
    return (torch.arange(points, dtype=torch.float64) + 0.5) / points


def relative_l2(values: Tensor, reference: Tensor) -> Tensor:
    """Over all axes but the first, in float64."""
    difference = (values.double() - reference.double()).flatten(1).norm(dim=1)
    return difference / reference.double().flatten(1).norm(dim=1)


def cole_hopf_sine(x: Tensor, *, nu: float, time: float, amplitude: float, mean: float) -> Tensor:
    """Burgers from mean + amplitude sin(2 pi x), by quadrature of the Cole-Hopf formula.

    v(x, t) = int v0(y) exp(-G / 2 mu) dy / int exp(-G / 2 mu) dy, with mu = nu / pi and
    G(y) = int_0^y v0 + (x - y)^2 / 2t; the mean moves the frame.
    """
    mu, x = nu / math.pi, x - mean * time
    reach = amplitude * time + 10 * math.sqrt(2 * mu * time)
    y = x[:, None] + torch.linspace(-reach, reach, 6001, dtype=torch.float64)
    potential = amplitude * (1 - torch.cos(2 * math.pi * y)) / (2 * math.pi)
    weight = torch.softmax(-(potential + (x[:, None] - y) ** 2 / (2 * time)) / (2 * mu), dim=1)
    return mean + (weight * amplitude * torch.sin(2 * math.pi * y)).sum(1)


@pytest.mark.parametrize(("nu", "points"), [(0.01, 1024), (0.1, 128), (1.0, 64)])
def test_burgers_agrees_with_cole_hopf(nu, points):
    x, times = centres(points), [0.1, 0.3, 1.0]
    initial = 0.4 + 1.5 * torch.sin(2 * math.pi * x)[None]
    solved = solve_burgers1d(initial, nu=nu, times=times)[0]
    for frame, time in zip(solved, times, strict=True):
        exact = cole_hopf_sine(x, nu=nu, time=time, amplitude=1.5, mean=0.4)
        assert (frame - exact).abs().max() < 2e-5


def test_burgers_is_fourth_order_in_time():
    x = centres(256)
    initial = 0.3 + torch.sin(2 * math.pi * x)[None]
    exact = cole_hopf_sine(x, nu=0.01, time=0.1, amplitude=1.0, mean=0.3)
    errors = []
    for step in (0.01, 0.005, 0.0025, 0.00125):
        solved = solve_burgers1d(initial, nu=0.01, times=[0.1], time_step=step)[0, 0]
        errors.append((solved - exact).abs().max().item())
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert min(orders) > 3.85, (errors, orders)


def test_burgers_converges_exponentially_in_space():
    errors = []
    for points in (48, 96, 192):
        x = centres(points)
        initial = torch.sin(2 * math.pi * x)[None]
        solved = solve_burgers1d(initial, nu=0.03, times=[0.3], time_step=5e-4)[0, 0]
        exact = cole_hopf_sine(x, nu=0.03, time=0.3, amplitude=1.0, mean=0.0)
        errors.append((solved - exact).abs().max().item())
    orders = [math.log2(errors[0] / errors[1]), math.log2(errors[1] / errors[2])]
    assert orders[0] > 4, errors
    assert orders[1] > 1.7 * orders[0], errors  # no fixed order: it doubles with the grid


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_burgers_keeps_the_mean_and_the_maximum(dtype):
    initial = draw_initial_conditions(3, range(16)).evaluate(centres(512)).to(dtype)
    solved = solve_burgers1d(initial, nu=0.02, times=TIMES[::5])
    drift = (solved.double().mean(-1) - initial.double().mean(-1)[:, None]).abs().max()
    assert drift < 100 * torch.finfo(dtype).eps
    assert (solved.amax((1, 2)) <= initial.amax(1) + 5e-3).all()


def test_float32_agrees_with_float64():
    initial = draw_initial_conditions(0, range(16)).evaluate(centres(1024))
    single, double = (
        solve_burgers1d(initial.to(dtype), nu=0.01, times=TIMES[::5])
        for dtype in (torch.float32, torch.float64)
    )
    assert relative_l2(single, double).max() < 1e-5


@pytest.mark.parametrize(
    ("name", "nu", "refinement", "allowed"),
    [("Nu0.1", 0.1, 1, 2e-3), ("Nu0.01", 0.01, 1, 2e-3), ("Nu0.001", 0.001, 2, 1e-2)],
)
def test_burgers_agrees_with_pdebench_from_its_frame_0(name, nu, refinement, allowed):
    theirs = tensor_of(shared_file(f"1D_Burgers_Sols_{name}.hdf5"))
    initial = refine_periodic(theirs[:, 0], refinement)
    ours = solve_burgers1d(initial, nu=nu, times=TIMES, output_stride=refinement)
    assert relative_l2(ours, theirs).max() < allowed


@pytest.mark.parametrize("beta", [0.1, 0.4, 1.0])
def test_advection_agrees_with_pdebench_from_its_frame_0(beta):
    theirs = tensor_of(shared_file(f"1D_Advection_Sols_beta{beta}.hdf5"))
    ours = solve_advection1d(theirs[:, 0], beta=beta, times=TIMES)
    assert relative_l2(ours, theirs).max() < 2e-2  # their scheme's own error at t = 2: 1.3e-2


def test_sampled_advection_is_the_exact_shift_of_waves():
    x = centres(64)
    times = [0.0, 0.3, 1.7]
    solved = solve_advection1d(0.2 + torch.sin(6 * math.pi * x)[None], beta=0.7, times=times)
    exact = [0.2 + torch.sin(6 * math.pi * (x - 0.7 * time)) for time in times]
    torch.testing.assert_close(solved[0], torch.stack(exact), atol=1e-12, rtol=0)


def test_generated_advection_returns_after_one_period(advection, tmp_path):
    path = generate(advection, parameters={"beta": 0.5}, num_trajectories=40, seed=1,
                    out_dir=tmp_path, points=128, frames=5)  # fmt: skip
    solved = tensor_of(path)  # kinks and windows included
    torch.testing.assert_close(solved[:, -1], solved[:, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(solved[:, 2], solved[:, 0].roll(64, -1), atol=1e-6, rtol=0)


def test_initial_states_depend_on_seed_and_index_only():
    x = centres(256)
    few = draw_initial_conditions(5, range(3)).evaluate(x)
    many = draw_initial_conditions(5, range(10)).evaluate(x)
    assert torch.equal(many[:3], few)
    assert torch.equal(draw_initial_conditions(5, [7]).evaluate(x)[0], many[7])
    assert not torch.allclose(draw_initial_conditions(6, range(3)).evaluate(x), few)


def test_initial_states_have_period_one_and_the_family_s_statistics():
    family = draw_initial_conditions(0, range(2000))
    x = centres(256)
    values = family.evaluate(x)
    torch.testing.assert_close(family.evaluate(x + 1), values, atol=1e-9, rtol=0)
    assert values.abs().max() < 4
    assert set(family.wavenumber[:, 0].unique().tolist()) == {1, 2, 3, 4, 6, 8}
    assert (family.sign != 0).double().mean().item() == pytest.approx(0.1, abs=0.025)
    assert family.windowed.double().mean().item() == pytest.approx(0.1, abs=0.025)
    theirs = tensor_of(shared_file("1D_Advection_Sols_beta0.4.hdf5"))[:, 0]
    plain = values[(family.sign == 0) & ~family.windowed]
    assert plain.std(-1).mean().item() == pytest.approx(theirs.std(-1).mean().item(), rel=0.3)
    assert plain.mean(-1).std().item() == pytest.approx(theirs.mean(-1).std().item(), rel=0.4)


def test_trajectory_does_not_depend_on_count_or_batch(burgers, tmp_path):
    common = {"parameters": {"nu": 0.01}, "seed": 2, "points": 128, "frames": 11}
    one = generate(burgers, num_trajectories=7, batch_size=2, out_dir=tmp_path / "a", **common)
    two = generate(burgers, num_trajectories=5, batch_size=5, out_dir=tmp_path / "b", **common)
    again = generate(burgers, num_trajectories=7, batch_size=2, out_dir=tmp_path / "c", **common)
    torch.testing.assert_close(tensor_of(one)[:5], tensor_of(two), atol=1e-5, rtol=0)
    assert torch.equal(tensor_of(one), tensor_of(again))


def test_frame_0_is_the_initial_state_and_shared_by_both_equations(burgers, advection, tmp_path):
    common = {"num_trajectories": 20, "seed": 4, "out_dir": tmp_path, "points": 64, "frames": 3}
    initial = draw_initial_conditions(4, range(20)).evaluate(centres(64)).float()
    flow = generate(burgers, parameters={"nu": 0.02}, **common)
    shift = generate(advection, parameters={"beta": 0.4}, **common)
    assert torch.equal(tensor_of(flow)[:, 0], initial)
    assert torch.equal(tensor_of(shift)[:, 0], initial)


def test_coarse_output_is_as_accurate_as_fine(burgers, tmp_path):
    coarse = generate(burgers, parameters={"nu": 0.01}, num_trajectories=16, seed=0,
                      out_dir=tmp_path, points=256, frames=41)  # fmt: skip
    x = (torch.arange(2048, dtype=torch.float64) / 8 + 0.5) / 256
    initial = draw_initial_conditions(0, range(16)).evaluate(x)
    times = [0.05 * index for index in range(41)]
    reference = solve_burgers1d(initial, nu=0.01, times=times, output_stride=8, time_step=5e-4)
    assert relative_l2(tensor_of(coarse), reference).max() < 2e-4


def test_internal_grid_follows_the_shock_width():
    assert internal_refinement(1024, nu=0.01) == 1
    assert internal_refinement(256, nu=0.01) == 2
    assert internal_refinement(1024, nu=0.001) == 4
    assert internal_refinement(64, nu=4.0) == 4


def test_wrong_use_of_the_solver_is_a_value_error():
    initial = torch.zeros(1, 32)
    for wrong in ({"nu": 0.0}, {"times": [0.1, 0.1]}, {"times": []}, {"output_stride": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            solve_burgers1d(initial, **({"nu": 0.1, "times": [0.0, 0.1]} | wrong))


def test_state_that_is_not_finite_is_a_data_error():
    with pytest.raises(DataError, match="finite"):
        solve_burgers1d(torch.full((1, 32), math.nan), nu=0.1, times=[0.0, 0.1])


def storage(dataset: h5py.Dataset) -> tuple[object, ...]:
    return dataset.shape[1:], dataset.dtype, dataset.chunks, dataset.compression


@pytest.mark.parametrize(
    ("key", "parameters", "attribute"),
    [("burgers1d", {"nu": 0.1}, "Nu"), ("advection1d", {"beta": 0.4}, "beta")],
)
def test_file_looks_like_pdebench_s(key, parameters, attribute, tmp_path):
    path = generate(load_card(key), parameters=parameters, num_trajectories=2, seed=0,
                    out_dir=tmp_path)  # fmt: skip
    with h5py.File(path) as ours, h5py.File(shared_file(path.name)) as theirs:
        assert set(ours) == set(theirs)
        for name in theirs:
            assert storage(ours[name]) == storage(theirs[name])
        for name in ("t-coordinate", "x-coordinate"):
            assert ours[name].shape == theirs[name].shape
            np.testing.assert_allclose(ours[name][()], theirs[name][()], atol=3e-7)
        assert set(theirs.attrs) <= set(ours.attrs)
        assert ours.attrs[attribute] == theirs.attrs[attribute]
        assert ours.attrs.get_id(attribute).dtype == theirs.attrs.get_id(attribute).dtype
        assert ours.attrs.get_id(attribute).shape == theirs.attrs.get_id(attribute).shape == ()


def test_coarse_file_keeps_the_layout(burgers, tmp_path):
    path = generate(burgers, parameters={"nu": 0.03}, num_trajectories=2, seed=0,
                    out_dir=tmp_path, points=64, frames=41, dtype="float64")  # fmt: skip
    assert path == tmp_path / "1D_Burgers_Sols_Nu0.03.hdf5"
    with h5py.File(path) as file:
        assert file["tensor"].shape == (2, 41, 64)
        assert file["tensor"].dtype == np.float32
        assert file["tensor"].chunks is None
        np.testing.assert_allclose(file["t-coordinate"][()], 0.05 * np.arange(42), atol=3e-7)
        np.testing.assert_allclose(file["x-coordinate"][()], centres(64), atol=1e-7)
        assert file.attrs["Nu"] == 0.03
        assert file.attrs["generator_seed"] == 0


@pytest.mark.parametrize("key", ["burgers1d", "advection1d"])
def test_names_are_the_published_ones(key):
    card = load_card(key)
    for file in card.source.files:
        assert raw_file_name(card, file.parameters) == file.name


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_generation_leaves_no_raw_file(burgers, tmp_path, error):
    def stop(done: int, total: int) -> None:
        raise error

    with pytest.raises(error):
        generate(burgers, parameters={"nu": 0.1}, num_trajectories=2, seed=0, out_dir=tmp_path,
                 points=32, frames=3, progress=stop)  # fmt: skip
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_progress_counts_trajectories(burgers, tmp_path):
    calls = []
    generate(burgers, parameters={"nu": 0.1}, num_trajectories=5, seed=0, out_dir=tmp_path,
             points=32, frames=3, batch_size=2,
             progress=lambda done, total: calls.append((done, total)))  # fmt: skip
    assert calls == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"nu": 0.0}}, "nu=0 must be finite and at least 0.0001"),
        ({"parameters": {"nu": -1.0}}, "nu=-1 must be"),
        ({"parameters": {"nu": math.nan}}, "nu=nan"),
        ({"parameters": {"mu": 0.1}}, "unknown parameter 'mu'"),
        ({"parameters": {}}, "'nu' is missing"),
        ({"num_trajectories": 0}, "num_trajectories=0"),
        ({"points": 4}, "points=4"),
        ({"frames": 1}, "frames=1"),
        ({"seed": -1}, "seed=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"dtype": torch.float16}, "dtype=torch.float16"),
        ({"device": "abacus"}, "device=abacus"),
    ],
)
def test_bad_input_is_named(burgers, tmp_path, change, message):
    arguments = {"parameters": {"nu": 0.1}, "num_trajectories": 1, "seed": 0, "out_dir": tmp_path}
    with pytest.raises(UsageError, match=message):
        generate(burgers, **(arguments | change))
    assert list(tmp_path.iterdir()) == []


def test_card_without_a_generator_is_named(burgers, tmp_path):
    with pytest.raises(UsageError, match="burgers1d: has no built-in generator"):
        generate(burgers.model_copy(update={"generator": None}), parameters={"nu": 0.1},
                 num_trajectories=1, seed=0, out_dir=tmp_path)  # fmt: skip


def test_a_file_made_with_other_settings_is_not_taken_for_this_one(burgers, tmp_path):
    settings = {"parameters": {"nu": 0.1}, "num_trajectories": 2, "points": 64, "frames": 3}
    path = generate(burgers, seed=0, out_dir=tmp_path, **settings)
    before = path.stat().st_mtime_ns
    assert generate(burgers, seed=0, out_dir=tmp_path, **settings) == path
    assert path.stat().st_mtime_ns == before
    with pytest.raises(DataError, match="not what this command would make"):
        generate(burgers, seed=1, out_dir=tmp_path, **settings)
