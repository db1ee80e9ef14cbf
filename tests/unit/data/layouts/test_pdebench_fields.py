"""One array for each field: compressible flow, and our own generated 2-D datasets."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from ups.data.layouts import RawTrajectories, open_raw
from ups.errors import DataError
from ups.registry import FieldSpec, load_card

KEYS = {
    1: ("density", "pressure", "Vx"),
    2: ("density", "pressure", "Vx", "Vy"),
    3: ("density", "pressure", "Vx", "Vy", "Vz"),
}
SPACE = (8, 6, 4)
ATTRIBUTES = {"M": 0.1, "eta": 0.01, "zeta": 0.02}
ALL = slice(None)


def values(dims, trajectories=3, frames=5):
    shape = (trajectories, frames, *SPACE[:dims])
    random = np.random.default_rng(dims)
    return {key: random.normal(size=shape).astype(np.float32) for key in KEYS[dims]}


def write(path, arrays, *, extra_times=1, attributes=ATTRIBUTES, **more):
    frames, *space = next(iter(arrays.values())).shape[-1 - path_dims(path) :]
    content = dict(arrays)
    content["t-coordinate"] = 0.05 * np.arange(frames + extra_times, dtype=np.float32)
    for axis, points in zip("xyz", space, strict=False):
        content[f"{axis}-coordinate"] = ((np.arange(points) + 0.5) / points).astype(np.float32)
    with h5py.File(path, "w") as file:
        for key, array in (content | more).items():
            if array is not None:
                file[key] = array
        file.attrs.update(attributes)
    return path


def path_dims(path):
    return int(path.name[0])


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "2D_CFD_mine.hdf5"


@pytest.fixture
def card():
    return load_card("compressible_ns2d")


def stacked(arrays):
    return np.stack(list(arrays.values()), axis=-1)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("extra_times", [0, 1])
def test_channels_come_in_the_cards_order_in_every_dimension(tmp_path, dims, extra_times):
    arrays = values(dims)
    path = write(tmp_path / f"{dims}D_CFD_mine.hdf5", arrays, extra_times=extra_times)
    found = open_raw(path, load_card(f"compressible_ns{dims}d"))
    assert isinstance(found, RawTrajectories)
    np.testing.assert_array_equal(found.read(slice(0, 3), ALL), stacked(arrays))
    space = (slice(None, None, 2),) * dims
    np.testing.assert_array_equal(
        found.read(slice(1, 3), slice(1, None, 2), 2),
        stacked(arrays)[(slice(1, 3), slice(1, None, 2), *space)],
    )
    assert found.times == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert [len(coord) for coord in found.coords] == list(SPACE[:dims])
    expected = [0.1, 0.01, 0.02] if dims > 1 else [0.01, 0.02]
    assert found.parameters.tolist() == [expected] * 3
    assert found.read_inputs(slice(0, 3)) is None
    found.close()


def test_arrays_without_a_trajectory_axis_are_one_trajectory(raw, card):
    arrays = values(2, trajectories=1)
    write(raw, {key: array[0] for key, array in arrays.items()})
    found = open_raw(raw, card)
    assert found.num_trajectories == 1
    np.testing.assert_array_equal(found.read(slice(0, 1), ALL), stacked(arrays))
    assert found.read(slice(1, 2), ALL).shape == (0, 5, 8, 6, 4)
    found.close()


def test_parameters_drawn_for_each_trajectory_come_before_the_files(raw, card):
    write(raw, values(2), **{"parameters/eta": np.array([1.0, 2.0, 3.0])})
    found = open_raw(raw, card)
    assert found.parameters.tolist() == [[0.1, 1.0, 0.02], [0.1, 2.0, 0.02], [0.1, 3.0, 0.02]]
    found.close()


def test_a_file_without_attributes_takes_what_its_name_is_published_with(tmp_path, card):
    name = "2D_CFD_Rand_M0.1_Eta1e-08_Zeta1e-08_periodic_512_Train.hdf5"
    found = open_raw(write(tmp_path / name, values(2), attributes={}), card)
    assert found.parameters[0].tolist() == [0.1, 1e-8, 1e-8]
    found.close()


def test_inputs_have_no_time_axis(raw, card):
    given = np.random.default_rng(9).normal(size=(3, 8, 6)).astype(np.float32)
    with_input = card.model_copy(
        update={"inputs": (FieldSpec(name="wall", description="", raw="mask"),)}
    )
    write(raw, values(2), mask=given)
    found = open_raw(raw, with_input)
    np.testing.assert_array_equal(found.read_inputs(slice(0, 3)), given[..., None])
    np.testing.assert_array_equal(found.read_inputs(slice(1, 2), 3), given[1:2, ::3, ::3, None])
    found.close()
    write(raw, values(2), mask=given[:, :-1])
    with pytest.raises(DataError, match=r"mask: shape \(3, 7, 6\), expected \(3, 8, 6\)"):
        open_raw(raw, with_input)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"Vy": None}, r"no array 'Vy', found \['Vx', 'density'"),
        ({"Vy": np.zeros((3, 5, 8, 5), np.float32)}, r"Vy: shape \(3, 5, 8, 5\), but density has"),
        ({"Vy": np.zeros((3, 5, 8, 6), np.int64)}, "Vy: expected floating point, found int64"),
        ({"Vy": np.zeros((3, 5, 8, 6), [("a", "f4")])}, "Vy: expected floating point"),
        ({"Vy": np.zeros((3, 5, 8, 6), complex)}, "Vy: expected floating point, found complex128"),
        ({"y-coordinate": None}, "no array 'y-coordinate'"),
        ({"y-coordinate": np.arange(7.0)}, r"y-coordinate: \(7,\) entries for 6"),
        ({"y-coordinate": -np.arange(6.0)}, "y-coordinate: the values do not rise"),
        ({"x-coordinate": np.full(8, np.nan)}, "x-coordinate: the values do not rise"),
        ({"x-coordinate": np.array(["a"] * 8, "S1")}, "x-coordinate: expected numbers"),
        ({"t-coordinate": np.arange(7.0)}, r"t-coordinate: \(7,\) entries for 5"),
        ({"parameters/eta": np.zeros(2)}, r"parameters/eta: \(2,\) of float64 for 3 trajectories"),
        ({"parameters/eta": np.array([1, np.inf, 2])}, "parameters/eta: NaN or infinity"),
    ],
)
def test_what_does_not_fit_together_is_one_clear_line(raw, card, more, expected):
    write(raw, values(2), **more)
    with pytest.raises(DataError, match=rf"^{raw}: .*{expected}") as caught:
        open_raw(raw, card)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 5, 8, 6), ()])
def test_another_rank_is_refused(raw, card, shape):
    write(raw, values(2), **{key: np.zeros(shape, np.float32) for key in KEYS[2]})
    with pytest.raises(DataError, match=r"density: shape .*, expected 4 axes"):
        open_raw(raw, card)


def test_no_trajectories_are_an_error(raw, card):
    write(raw, values(2, trajectories=0))
    with pytest.raises(DataError, match=r"density: shape \(0, 5, 8, 6\) holds no values"):
        open_raw(raw, card)


@pytest.mark.parametrize("value", ["fast", np.array([1.0, 2.0]), np.nan, h5py.Empty("f4"), True])
def test_an_attribute_that_is_no_number_is_refused(raw, card, value):
    write(raw, values(2), attributes=ATTRIBUTES | {"eta": value})
    with pytest.raises(DataError, match=r"attribute 'eta': .* is not a number"):
        open_raw(raw, card)


def test_values_outside_of_the_file_are_refused(raw, card, tmp_path):
    arrays = values(2)
    other = write(tmp_path / "2D_other.hdf5", arrays)
    write(raw, arrays, Vy=None)
    with h5py.File(raw, "r+") as file:
        file["Vy"] = h5py.ExternalLink(other.name, "Vy")
    with pytest.raises(DataError, match="Vy: its values are stored in another file"):
        open_raw(raw, card)
    with h5py.File(raw, "r+") as file:
        del file["Vy"]
        file["Vy"] = h5py.ExternalLink("nowhere.hdf5", "Vy")
    with pytest.raises(DataError, match=f"^{raw}: "):
        open_raw(raw, card)


def test_an_array_that_was_never_written_is_refused(raw, card):
    write(raw, values(2), Vy=None)
    with h5py.File(raw, "r+") as file:
        file.create_dataset("Vy", (3, 5, 8, 6), "f4")
    with pytest.raises(DataError, match=r"Vy: shape .* needs 2880 bytes, 0 are stored"):
        open_raw(raw, card)


def test_a_file_that_is_refused_is_closed(raw, card):
    write(raw, values(2), Vy=None)
    with pytest.raises(DataError):
        open_raw(raw, card)
    h5py.File(raw, "r+").close()  # HDF5 refuses to write to what is still open for reading


@pytest.mark.parametrize(
    ("dims", "name", "shape"),
    [
        (1, "1D_CFD_Rand_Eta0.01_Zeta0.01_periodic_Train.hdf5", (3, 101, 256, 3)),
        (2, "2D_CFD_Rand_M0.1_Eta0.01_Zeta0.01_periodic_128_Train.hdf5", (2, 21, 128, 128, 4)),
        (3, "3D_CFD_Rand_M1.0_Eta1e-08_Zeta1e-08_periodic_Train.hdf5", (1, 21, 24, 24, 24, 5)),
    ],
)
def test_pdebenchs_own_files_are_read(shared_pdebench, dims, name, shape):
    card = load_card(f"compressible_ns{dims}d")
    found = open_raw(shared_pdebench / name, card)
    block = found.read(slice(0, found.num_trajectories), ALL)
    assert block.shape == shape
    with h5py.File(shared_pdebench / name) as file:
        for channel, key in enumerate(KEYS[dims]):
            np.testing.assert_array_equal(block[..., channel], file[key][()])
        for axis, coord in zip("xyz", found.coords, strict=False):
            np.testing.assert_array_equal(coord, file[f"{axis}-coordinate"][()])
    published = card.source.file(name)
    assert published is not None
    stated = [published.parameters[p] for p in card.parameter_names]
    assert found.parameters.tolist() == [stated] * shape[0]
    assert found.times[1] == pytest.approx(card.time.step)
    assert (block[..., :2] > 0).all()
    for axis, coord in zip(card.discretisation.axes, found.coords, strict=True):
        half = (coord[1] - coord[0]) / 2
        assert (coord[0] - half, coord[-1] + half) == pytest.approx(axis.bounds, abs=1e-5)
    found.close()
