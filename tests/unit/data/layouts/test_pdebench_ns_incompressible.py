"""Incompressible flow: components, 2-D times, frames that were never computed."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from ups.data.layouts import open_raw
from ups.errors import DataError
from ups.registry import load_card

N, T, NX, NY = 2, 5, 6, 4
ALL = slice(None)
CONFIG = "domain_size:\n- 3\n- 1.0\nNU: 0.01\n"


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "ns_incom_inhom_2d_512-0.h5"


@pytest.fixture
def card():
    return load_card("navier_stokes2d")


@pytest.fixture
def content():
    random = np.random.default_rng(0)
    return {
        "velocity": random.normal(size=(N, T, NX, NY, 2)).astype(np.float32),
        "particles": random.normal(size=(N, T, NX, NY, 1)).astype(np.float32),
        "force": random.normal(size=(N, NX, NY, 2)).astype(np.float32),
        "t": np.tile(0.005 * np.arange(T), (N, 1)),
    }


def write(path, content, **attributes):
    with h5py.File(path, "w") as file:
        for key, array in content.items():
            if array is not None:
                file[key] = array
        file.attrs.update({"config": CONFIG, "latestIndex": T - 1} | attributes)
    return path


def test_components_become_channels_and_the_force_an_input(raw, card, content):
    found = open_raw(write(raw, content), card)
    expected = np.concatenate([content["velocity"], content["particles"]], axis=-1)
    np.testing.assert_array_equal(found.read(slice(0, N), ALL), expected)
    np.testing.assert_array_equal(
        found.read(slice(1, 2), slice(1, None, 3), 2), expected[1:2, 1::3, ::2, ::2]
    )
    np.testing.assert_array_equal(found.read_inputs(slice(0, N)), content["force"])
    np.testing.assert_array_equal(
        found.read_inputs(slice(0, 1), 3), content["force"][0:1, ::3, ::3]
    )
    assert found.times == pytest.approx(0.005 * np.arange(T))
    assert found.coords[0] == pytest.approx([0.25, 0.75, 1.25, 1.75, 2.25, 2.75])
    assert found.coords[1] == pytest.approx([0.125, 0.375, 0.625, 0.875])
    assert found.parameters.shape == (N, 0)
    found.close()


def test_channels_follow_the_card_and_not_the_components(raw, card, content):
    turned = card.model_copy(update={"fields": card.fields[::-1]})
    found = open_raw(write(raw, content), turned)
    expected = np.concatenate([content["particles"], content["velocity"][..., ::-1]], axis=-1)
    np.testing.assert_array_equal(found.read(slice(0, N), ALL), expected)
    found.close()


@pytest.mark.parametrize("latest", [0, 2])
def test_frames_after_the_latest_are_not_there(raw, card, content, latest):
    content["t"][:, latest + 1 :] = 0
    found = open_raw(write(raw, content, latestIndex=latest), card)
    assert found.times == pytest.approx(0.005 * np.arange(latest + 1))
    for frames in (ALL, slice(0, None), slice(0, T)):
        block = found.read(slice(0, N), frames)
        np.testing.assert_array_equal(block[..., :2], content["velocity"][:, : latest + 1])
    found.close()


def test_zeros_after_a_missing_latest_frame_are_found_by_the_times(raw, card, content):
    content["t"][:, 3:] = 0
    write(raw, content)
    with pytest.raises(DataError, match="t: the values do not rise"):
        open_raw(raw, card)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"force": None}, "no array 'force'"),
        ({"force": np.zeros((N, NX, NX, 2))}, r"force: shape .* does not begin with \(2, 6, 4\)"),
        ({"velocity": np.zeros((N, T, NX, NY, 1))}, "velocity: shape .* at least 2 components"),
        ({"velocity": np.zeros((N, T, NX, NY))}, "velocity: shape .* expected 5 axes"),
        ({"particles": np.zeros((N, T + 1, NX, NY, 1))}, "particles: shape .* not begin with"),
        ({"t": np.zeros(T)}, r"t: shape \(5,\), expected numbers of shape \(2, 5\)"),
        ({"t": np.arange(N * T).reshape(N, T)}, "t: the trajectories have different times"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(raw, card, content, change, expected):
    write(raw, content | change)
    with pytest.raises(DataError, match=rf"^{raw}: {expected}"):
        open_raw(raw, card)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"latestIndex": -1}, "'latestIndex': not the number of a frame"),
        ({"latestIndex": "last"}, "'latestIndex': not the number of a frame"),
        ({"latestIndex": np.array([1, 2])}, "'latestIndex': not the number of a frame"),
        ({"config": "NU: 0.01"}, "domain_size: expected 2 lengths, found None"),
        ({"config": "domain_size: [1]"}, "domain_size: expected 2 lengths"),
        ({"config": "domain_size: [1, -1]"}, "domain_size: expected 2 lengths"),
        ({"config": "domain_size: [1, true]"}, "domain_size: expected 2 lengths"),
        ({"config": "domain_size: [1, .inf]"}, "domain_size: expected 2 lengths"),
        ({"config": "{"}, "config: not YAML"),
    ],
)
def test_attributes_that_cannot_be_used_are_refused(raw, card, content, attributes, expected):
    write(raw, content, **attributes)
    with pytest.raises(DataError, match=rf"^{raw}: .*{expected}"):
        open_raw(raw, card)


def test_pdebenchs_own_file_is_read(shared_pdebench, card):
    path = shared_pdebench / "ns_incom_inhom_2d_512-0.h5"
    found = open_raw(path, card)
    block = found.read(slice(0, 2), ALL)
    assert block.shape == (2, 25, 64, 64, 3)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(block[..., :2], file["velocity"][()])
        np.testing.assert_array_equal(block[..., 2:], file["particles"][()])
        np.testing.assert_array_equal(found.read_inputs(slice(0, 2)), file["force"][()])
    assert found.times[1] == pytest.approx(card.time.step)
    for axis, coord in zip(card.discretisation.axes, found.coords, strict=True):
        assert (coord[0] - 1 / 128, coord[-1] + 1 / 128) == pytest.approx(axis.bounds)
    found.close()
