"""PDEBench's raw layouts: what is read, what is tolerated, what is refused."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from ups.data.layouts import RawTrajectories, open_raw, open_raw_points
from ups.errors import DataError, UsageError
from ups.registry import load_card

ALL = slice(None)


@pytest.fixture
def burgers():
    return load_card("burgers1d")


@pytest.fixture
def tensor():
    return np.random.default_rng(0).normal(size=(6, 4, 8)).astype(np.float32)


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "1D_Burgers_Sols_Nu0.01.hdf5"


@pytest.mark.parametrize("extra_times", [0, 1])
def test_values_coordinates_and_parameters_are_those_of_the_file(
    raw, tensor, burgers, write_raw, extra_times
):
    write_raw(raw, tensor, {"Nu": 0.01, "unheard_of": 3}, dt=0.1, extra_times=extra_times)
    found = open_raw(raw, burgers)
    np.testing.assert_array_equal(found.read(slice(1, 5), ALL), tensor[1:5, ..., None])
    np.testing.assert_array_equal(
        found.read(slice(1, 5), slice(1, None, 2), 3), tensor[1:5, 1::2, ::3, None]
    )
    np.testing.assert_allclose(found.times, [0, 0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(found.coords[0], (np.arange(8) + 0.5) / 8, rtol=1e-6)
    assert found.parameters.tolist() == [[0.01]] * 6
    assert found.num_trajectories == 6
    assert found.read_inputs(slice(0, 6)) is None
    found.close()


def test_a_device_axis_is_folded_into_the_trajectories(raw, tensor, burgers, write_raw):
    write_raw(raw, tensor.reshape(2, 3, 4, 8), {"Nu": 0.01})
    found = open_raw(raw, burgers)
    assert found.num_trajectories == 6
    for start in range(7):
        for stop in range(start, 7):
            block = found.read(slice(start, stop), slice(None, None, 2), 2)
            np.testing.assert_array_equal(block[..., 0], tensor[start:stop, ::2, ::2])
    found.close()


def test_a_tensor_without_a_trajectory_axis_is_one_trajectory(raw, tensor, burgers, write_raw):
    write_raw(raw, tensor[0], {"Nu": 0.01})
    found = open_raw(raw, burgers)
    assert found.num_trajectories == 1
    np.testing.assert_array_equal(found.read(slice(0, 1), ALL, 2)[..., 0], tensor[:1, :, ::2])
    assert found.read(slice(1, 1), ALL).shape == (0, 4, 8, 1)
    found.close()


def test_float64_is_read_as_float32(raw, tensor, burgers, write_raw):
    write_raw(raw, tensor.astype(np.float64), {"Nu": 0.01})
    found = open_raw(raw, burgers)
    assert found.read(slice(0, 1), ALL).dtype == np.float32
    found.close()


def test_two_entries_too_many_in_time_are_refused(raw, tensor, burgers, write_raw):
    write_raw(raw, tensor, {"Nu": 0.01}, extra_times=2)
    with pytest.raises(DataError, match=r"t-coordinate: \(6,\) entries for 4"):
        open_raw(raw, burgers)


def test_a_missing_array_lists_what_is_there(raw, burgers):
    with h5py.File(raw, "w") as file:
        file["density"], file["Vx"] = [1.0], [2.0]
    with pytest.raises(DataError, match=r"no array 'tensor', found \['Vx', 'density'\]"):
        open_raw(raw, burgers)


def test_a_missing_attribute_is_known_by_the_cards_file_list(raw, tensor, burgers, write_raw):
    found = open_raw(write_raw(raw, tensor, {}), burgers)
    assert set(found.parameters[:, 0]) == {0.01}
    found.close()


def test_a_missing_attribute_lists_what_is_there(tmp_path, tensor, burgers, write_raw):
    raw = write_raw(tmp_path / "mine.hdf5", tensor, {"beta": 0.4})
    with pytest.raises(DataError, match=r"attribute 'Nu' is missing, found \['beta'\]"):
        open_raw(raw, burgers)


@pytest.mark.parametrize("shape", [(8,), (1, 2, 3, 4, 8)])
def test_another_rank_is_refused(raw, burgers, write_raw, shape):
    write_raw(raw, np.zeros((2, 4, 8), np.float32), {"Nu": 0.01})
    with h5py.File(raw, "r+") as file:
        del file["tensor"]
        file["tensor"] = np.zeros(shape, np.float32)
    with pytest.raises(DataError, match=r"tensor: shape .* is not \(trajectory, time, x\)"):
        open_raw(raw, burgers)


def test_whole_numbers_are_refused(raw, burgers, write_raw):
    write_raw(raw, np.zeros((2, 4, 8), np.int32), {"Nu": 0.01})
    with pytest.raises(DataError, match="expected floating point, found int32"):
        open_raw(raw, burgers)


def test_no_trajectories_are_an_error(raw, burgers, write_raw):
    write_raw(raw, np.zeros((0, 4, 8), np.float32), {"Nu": 0.01})
    with pytest.raises(DataError, match=r"tensor: shape \(0, 4, 8\) holds no values"):
        open_raw(raw, burgers)


def test_grids_and_points_are_opened_by_their_own_functions(raw, tensor, burgers, write_raw):
    write_raw(raw, tensor, {"Nu": 0.01})
    with pytest.raises(UsageError, match="burgers1d: holds values on a grid"):
        open_raw_points(raw, burgers)
    points = burgers.model_copy(
        update={"source": burgers.source.model_copy(update={"layout": "points"})}
    )
    with pytest.raises(UsageError, match="burgers1d: holds meshes or particles"):
        open_raw(raw, points)
    assert isinstance(open_raw(raw, burgers), RawTrajectories)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.01])
def test_a_truncated_file_is_called_truncated(raw, tensor, burgers, write_raw, share):
    write_raw(raw, np.tile(tensor, (20, 1, 1)), {"Nu": 0.01})
    content = raw.read_bytes()
    raw.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=f"^{raw}: .*truncated") as caught:
        open_raw(raw, burgers)
    assert caught.value.hint == "fetch or generate the file again"


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_a_file_of_something_else_is_not_hdf5(raw, burgers, content):
    raw.write_bytes(content)
    with pytest.raises(DataError, match=r"not an HDF5 file|truncated"):
        open_raw(raw, burgers)


def test_a_missing_file_is_named(raw, burgers):
    with pytest.raises(DataError, match=f"{raw}: no such file"):
        open_raw(raw, burgers)


AS_NOBODY = """
import os, sys
from pathlib import Path
from ups.data.convert import find_raw
from ups.data.layouts import open_raw
from ups.errors import UpsError
from ups.registry import load_card
card = load_card("burgers1d")
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    for path in find_raw(card, [Path(sys.argv[1])]):
        open_raw(path, card).read(slice(0, 1), slice(None))
except UpsError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("locked", ["file", "folder", "parent"])
def test_a_file_that_may_not_be_read_is_one_clear_line(tensor, write_raw, locked):
    with tempfile.TemporaryDirectory() as name:
        parent = Path(name)
        raw = write_raw(parent / "raw" / "1D_Burgers_Sols_Nu0.01.hdf5", tensor, {"Nu": 0.01})
        parent.chmod(0o755)
        place = {"file": raw, "folder": raw.parent, "parent": parent}[locked]
        place.chmod(0)
        try:
            result = subprocess.run(
                [sys.executable, "-c", AS_NOBODY, raw.parent], capture_output=True, text=True
            )
        finally:
            place.chmod(0o755)
    assert result.returncode == 3, result.stdout + result.stderr
    assert len(result.stdout.splitlines()) == 1
    assert "no permission for reading" in result.stdout
    assert str(place) in result.stdout
    assert result.stderr == ""


def test_pdebenchs_own_files_are_read(shared_pdebench, burgers):
    found = open_raw(shared_pdebench / "1D_Burgers_Sols_Nu0.001.hdf5", burgers)
    assert set(found.parameters[:, 0]) == {0.001}
    assert (len(found.times), len(found.coords[0])) == (201, 1024)
    assert found.times[1] - found.times[0] == pytest.approx(0.01)
    assert np.isfinite(found.read(slice(0, 1), ALL)).all()
    found.close()
