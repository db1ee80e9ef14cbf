"""The static layout: a coefficient field and its solution."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from ups.data.layouts import open_raw
from ups.errors import DataError
from ups.registry import load_card

N, NX, NY = 3, 6, 4
ALL = slice(None)


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "2D_DarcyFlow_beta0.1_Train.hdf5"


@pytest.fixture
def card():
    return load_card("darcy2d")


@pytest.fixture
def content():
    random = np.random.default_rng(0)
    return {
        "nu": random.choice([0.1, 1.0], size=(N, NX, NY)).astype(np.float32),
        "tensor": random.normal(size=(N, 1, NX, NY)).astype(np.float32),
        "x-coordinate": (np.arange(NX) + 0.5) / NX,
        "y-coordinate": (np.arange(NY) + 0.5) / NY,
        "t-coordinate": 0.25 * np.arange(10),
    }


def write(path, content, beta=0.1):
    with h5py.File(path, "w") as file:
        for key, array in content.items():
            file[key] = array
        file.attrs["beta"] = beta
    return path


def test_the_solution_is_one_frame_and_the_coefficient_an_input(raw, card, content):
    found = open_raw(write(raw, content), card)
    assert found.times.tolist() == [0.0]
    assert found.parameters.tolist() == [[0.1]] * N
    np.testing.assert_array_equal(found.read(slice(0, N), ALL)[..., 0], content["tensor"])
    np.testing.assert_array_equal(found.read_inputs(slice(0, N))[..., 0], content["nu"])
    np.testing.assert_array_equal(
        found.read(slice(1, 3), ALL, 2)[..., 0], content["tensor"][1:3, :, ::2, ::2]
    )
    np.testing.assert_array_equal(
        found.read_inputs(slice(1, 3), 2)[..., 0], content["nu"][1:3, ::2, ::2]
    )
    found.close()


@pytest.mark.parametrize("times", [None, np.array([3.0, 1.0]), np.array(["x"], "S1")])
def test_the_times_left_from_the_march_are_ignored(raw, card, content, times):
    del content["t-coordinate"]
    found = open_raw(write(raw, content | ({} if times is None else {"t": times})), card)
    assert found.times.tolist() == [0.0]
    found.close()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tensor": np.zeros((N, 2, NX, NY))}, r"tensor: shape .* is not \(trajectory, 1, x, y\)"),
        ({"tensor": np.zeros((N, NX, NY))}, r"tensor: shape .* is not \(trajectory, 1, x, y\)"),
        ({"nu": np.ones((N + 1, NX, NY))}, r"nu: shape \(4, 6, 4\) for solutions of \(3, 1, 6, 4"),
        ({"nu": np.ones((N, NX, NY), int)}, "nu: expected floating point, found int64"),
        ({"y-coordinate": np.arange(3.0)}, r"y-coordinate: \(3,\) entries for 4"),
    ],
)
def test_shapes_that_disagree_are_refused(raw, card, content, change, expected):
    write(raw, content | change)
    with pytest.raises(DataError, match=rf"^{raw}: {expected}"):
        open_raw(raw, card)


def test_pdebenchs_own_file_is_read(shared_pdebench, card):
    path = shared_pdebench / "2D_DarcyFlow_beta1.0_Train.hdf5"
    found = open_raw(path, card)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(found.read(slice(0, 8), ALL)[..., 0], file["tensor"][()])
        np.testing.assert_array_equal(found.read_inputs(slice(0, 8))[..., 0], file["nu"][()])
    assert found.parameters.tolist() == [[1.0]] * 8
    assert set(np.unique(found.read_inputs(slice(0, 8)))) == {np.float32(0.1), np.float32(1.0)}
    found.close()
