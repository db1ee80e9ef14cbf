"""Forecasts from users' own states: equal to evaluation, at any points, into every format."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
from PIL import Image
from scipy.io import netcdf_file
from tiny_runs import small_experiment
from typer.testing import CliRunner, Result

import ups
from ups.cli.main import app
from ups.data.conversion.neighbours import mesh_edges
from ups.data.versions import open_store
from ups.evaluation.context import open_context
from ups.evaluation.inference.forecast import Stored, infer


def cli(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["infer", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def trained(small):
    """trained(key): a tiny run, its context, and the first trajectory of its test split."""

    def make(key):
        small(key)
        run = ups.train(small_experiment(key))
        context = open_context(run)
        return run, context, int(context.members[0])

    return make


def given_arrays(context, row):
    """What evaluation gives of a trajectory, as a user would write it."""
    store, horizon = context.store, context.horizon
    frames = slice(0, horizon.first + 1, horizon.stride)
    if context.is_grid:
        found = {"fields": store.fields[row, frames]} if horizon.history else {}
        return found | ({} if store.inputs is None else {"inputs": store.inputs[row]})
    found = {"coords": store.coords(row), "fields": store.fields(row, frames)}
    if store.moves(row):
        found["coords"] = store.coords(row, frames)
    for name in ("cells", "inputs", "tags"):
        values = getattr(store, name)(row)
        if values is not None:
            found[name] = values
    return found


@pytest.mark.parametrize("key", ["burgers1d", "darcy2d_mesh", "particles_advect"])
def test_stored_and_own_states_are_predicted_as_evaluation_does(key, trained, tmp_path):
    run, context, row = trained(key)
    stored = infer(run, Stored(0, "test"))
    judged = next(iter(context.predict(np.array([row])))).prediction[0].numpy()
    np.testing.assert_allclose(stored.fields, judged, rtol=1e-3, atol=1e-3)
    assert stored.start == f"trajectory {row} (test)"
    assert stored.error is not None
    assert stored.error[1] == stored.num_frames
    np.savez(tmp_path / "own.npz", **given_arrays(context, row))
    own = infer(
        run, tmp_path / "own.npz", parameters=stored.parameters,
        horizon=None if context.is_steady else stored.num_frames,
    )  # fmt: skip
    np.testing.assert_allclose(own.fields, stored.fields, rtol=1e-5, atol=1e-6)


def test_a_grid_run_takes_files_of_every_kind_and_other_grids(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, context, row = trained("burgers1d")
    store = context.store
    initial, x = store.fields[row, 0], store.coords[0]
    np.save("a.npy", initial)
    np.savez("b.npz", u=initial[:, 0], nu=0.01)
    with h5py.File("c.h5", "w") as file:
        file["fields"], file["coords/x"], file["parameters/nu"] = initial[None], x, 0.01
    data = xarray.Dataset({"u": (("x", "time"), initial)}, {"x": x, "time": [0.0]})
    data.to_netcdf("d.nc", engine="h5netcdf")
    found = [
        infer(run, Path(name), horizon=3, parameters={"nu": 0.01}).fields
        for name in ("a.npy", "b.npz", "c.h5", "d.nc")
    ]
    for one in found[1:]:
        np.testing.assert_array_equal(one, found[0])

    fine = (np.arange(96) + 0.5) / 96
    smooth = {name: np.sin(2 * np.pi * line) + 2 for name, line in (("x", x), ("fine", fine))}
    np.savez("own.npz", u=smooth["x"], nu=0.01)
    np.savez("fine.npz", u=smooth["fine"], x=fine, nu=0.01)
    coarse = infer(run, Path("own.npz"), horizon=2)
    other = infer(run, Path("fine.npz"), horizon=2, points="grid:32")
    np.testing.assert_allclose(other.fields, coarse.fields, atol=2e-3)
    assert infer(run, Path("fine.npz"), horizon=2).fields.shape == (2, 96, 1)


def test_what_a_file_lacks_or_has_wrong_is_said_in_a_line(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, context, row = trained("burgers1d")
    initial = np.array(context.store.fields[row, 0])
    cases = {
        "shape": ({"u": initial[:20, 0]}, 3, "fields on 20 points, expected 32"),
        "name": ({"v": initial[:, 0]}, 3, "no fields: expected 'fields' with the channels u"),
        "channels": ({"fields": np.ones((1, 1, 32, 2))}, 3, "expected (time, *space, channel)"),
        "nan": ({"u": np.where(initial > 1, np.nan, initial)[:, 0]}, 3, "not finite"),
        "unit": ({"u": 1e4 * initial[:, 0]}, 3, "in another unit?"),
        "domain": ({"u": initial[:, 0], "x": np.linspace(3, 4, 32)}, 3, "the codec's from 0 to 1"),
        "uneven": ({"u": initial[:, 0], "x": np.linspace(0, 1, 32) ** 2}, 3, "not evenly spaced"),
    }  # fmt: skip
    for name, (arrays, code, expected) in cases.items():
        np.savez(f"{name}.npz", **arrays)
        result = cli(run, "--input", f"{name}.npz", "--horizon", 2, "--param", "nu=0.01", code=code)
        assert expected in result.stderr, name
        assert result.stderr.startswith("error: ")
    np.savez("good.npz", u=initial[:, 0])
    good = [run, "--input", "good.npz", "--horizon", 2]
    for extra, expected in (
        ((), "parameters missing: nu"),
        (("--param", "nuu=1"), "did you mean 'nu'?"),
        (("--param", "nu=9"), "nu = 9: the model knows 0.001 to 4"),
        (("--param", "nu=a"), "expected NAME=NUMBER"),
        (("--param", "nu=1", "--points", "grid:4x4"), "expected grid:64"),
        (("--param", "nu=1", "--members", 2), "gives one forecast only"),
        (("--param", "nu=1", "--out", "x.png2"), "cannot be written"),
        (("--param", "nu=1", "--split", "test"), "goes with --trajectory"),
    ):
        assert expected in cli(*good, *extra, code=2).stderr, extra
    cli(*good, "--param", "nu=9", "--extrapolate")
    cli(run, "--horizon", 2, code=2)
    assert "no trajectory 99" in cli(run, "--trajectory", 99, "--out", "y.h5", code=2).stderr
    assert "--horizon N" in cli(*good[:3], "--param", "nu=1", "--out", "y.h5", code=2).stderr
    again = cli(*good, "--param", "nu=1", code=2)
    assert "forecast.h5: there already" in again.stderr


def test_every_format_holds_the_same_forecast_and_can_be_continued(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, _, _ = trained("burgers1d")
    expected = infer(run, Stored(0, "test"), horizon=5)
    start = [run, "--trajectory", 0, "--split", "test", "--horizon", 5]
    said = cli(*start, "--out", "a.h5").stdout
    assert "5 frames, 0.25 apart, to t = 1.25: u at 32 points" in said
    assert "truth" in said
    for name in ("a.zarr", "a.nc", "a.gif", "a.png"):
        cli(*start, "--out", name)
    with h5py.File("a.h5") as file:
        np.testing.assert_array_equal(file["fields"], expected.fields)
        assert file.attrs["checkpoint_sha256"] == expected.checkpoint_sha256
        assert file["time"][:].tolist() == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.25])
    with netcdf_file("a.nc", mmap=False) as file:
        assert file.Conventions == b"CF-1.11"
        assert file.run == expected.run.encode()
        assert file.variables["u"].dimensions == ("time", "x")
    for opened in (
        xarray.open_dataset("a.nc", engine="scipy", decode_times=False),
        xarray.open_zarr("a.zarr", consolidated=False, decode_times=False),
    ):
        with opened as content:
            np.testing.assert_array_equal(content["u"].values, expected.fields[..., 0])
            assert content["u"].dims == ("time", "x")
            assert float(content["nu"]) == pytest.approx(0.01)
    with Image.open("a.gif") as picture:
        assert picture.n_frames == 5
    continued = infer(run, Path("a.h5"), horizon=2)
    whole = infer(run, Stored(0, "test"), horizon=7)
    np.testing.assert_allclose(continued.fields, whole.fields[5:], rtol=1e-3, atol=1e-4)
    cli(*start, "--out", "a.zarr", "--force")
    Path("mine.zarr").mkdir()
    assert "not replaced" in cli(*start, "--out", "mine.zarr", "--force", code=2).stderr


def square_mesh(points):
    """Triangles on the lattice of [0.2, 0.8]^2."""
    line = np.linspace(0.2, 0.8, points)
    coords = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    corner = (np.arange(points - 1)[:, None] * points + np.arange(points - 1)).ravel()
    low = np.stack([corner, corner + points, corner + 1], -1)
    high = np.stack([corner + points, corner + points + 1, corner + 1], -1)
    return coords, np.concatenate([low, high])


def test_a_mesh_run_takes_one_mesh_and_answers_on_another(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, _, _ = trained("darcy2d_mesh")
    for name, points in (("a", 9), ("b", 15)):
        coords, cells = square_mesh(points)
        assert len(mesh_edges(cells, len(coords)))
        edge = np.isclose(coords, 0.2) | np.isclose(coords, 0.8)
        np.savez(
            f"{name}.npz", coords=coords, cells=cells, a=np.full(len(coords), 3.0), beta=1.0,
            tags=edge.any(1).astype(np.uint8),
        )  # fmt: skip
    on_a = infer(run, Path("a.npz"))
    on_b = infer(run, Path("a.npz"), points="b.npz")
    assert on_b.fields.shape == (1, 225, 1)
    assert on_b.places.cells is not None
    corners_a, corners_b = [0, 8, 72, 80], [0, 14, 210, 224]
    np.testing.assert_allclose(
        on_b.fields[0, corners_b], on_a.fields[0, corners_a], rtol=1e-4, atol=1e-6
    )
    other = infer(run, Path("b.npz"))
    scale = np.abs(on_b.fields).max()
    np.testing.assert_allclose(other.fields, on_b.fields, atol=0.25 * scale)
    grid = infer(run, Path("a.npz"), points="grid:20x20")
    assert np.isnan(grid.fields[0, 0, 0]).all(), "outside of the mesh"
    inside = ~np.isnan(grid.fields[0, ..., 0])
    line = (np.arange(20) + 0.5) / 20
    wanted = (line > 0.2) & (line < 0.8)
    np.testing.assert_array_equal(inside, wanted[:, None] & wanted)
    assert grid.finite_frames == 1
    for name in ("m.nc", "m.h5", "m.zarr", "m.png"):
        cli(run, "--input", "a.npz", "--points", "b.npz", "--out", name)
    with xarray.open_dataset("m.nc", engine="scipy") as content:
        assert content["topology"].attrs["face_node_connectivity"] == "cells"
        assert content["u"].dims == ("node",)
    np.savez("none.npz", coords=coords, a=np.ones(len(coords)), beta=1.0)
    assert "no 'cells' (cell, 3)" in cli(run, "--input", "none.npz", code=3).stderr
    np.save("far.npy", np.array([[0.5, 1.7]]))
    far = cli(run, "--input", "a.npz", "--points", "far.npy", "--out", "z.h5", code=3)
    assert "the domain reaches from 0 to 1" in far.stderr


def test_moving_particles_carry_their_positions(trained, tmp_path):
    run, _, row = trained("particles_advect")
    found = infer(run, Stored(row))
    assert found.positions is not None
    assert found.positions.shape == (found.num_frames, 40, 2)
    start = open_store("particles_advect").coords(row, slice(0, 1))[0]
    step = np.linalg.norm((found.positions[0] - start + 0.5) % 1 - 0.5, axis=-1)
    assert 0 < step.max() < 0.5
    cli(run, "--trajectory", row, "--out", tmp_path / "p.gif")
    with Image.open(tmp_path / "p.gif") as picture:
        assert picture.n_frames == found.num_frames


def test_an_ensemble_is_drawn_from_a_residual_model(small, tmp_path):
    small("burgers1d")
    run = ups.train(small_experiment("burgers1d"), ["codec", "operator", "diff_residual"])
    first, again, other = (
        infer(run, Stored(0, "test"), horizon=2, members=3, seed=seed).fields for seed in (0, 0, 1)
    )
    assert first.shape == (3, 2, 32, 1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.ptp(first, axis=0).max() > 0
    out = tmp_path / "e.nc"
    cli(run, "--trajectory", 0, "--horizon", 2, "--members", 3, "--out", out)
    with xarray.open_dataset(out, engine="scipy", decode_times=False) as content:
        assert content["u"].dims == ("member", "time", "x")
    refused = cli(run, "--trajectory", 0, "--members", 3, "--out", tmp_path / "e.gif", code=2)
    assert "a picture shows one forecast" in refused.stderr
