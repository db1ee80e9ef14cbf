"""One group for each trajectory: order, axes, settings, damage."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import yaml

from ups.data.layouts import open_raw
from ups.errors import ConfigError, DataError
from ups.registry import load_card

T, NX, NY = 5, 6, 4
ALL = slice(None)


def data(trajectory, channels=1, shape=(T, NX, NY)):
    random = np.random.default_rng(trajectory)
    return random.normal(size=(*shape, channels)).astype(np.float32)


def settings(radius):
    return yaml.safe_dump({"name": "2d_rdb", "sim": {"dam_radius": radius, "seed": 1}})


def write_group(file, name, values, config=None, *, axes="xy"):
    group = file.create_group(name)
    group["data"] = values
    group["grid/t"] = 0.01 * np.arange(values.shape[0], dtype=np.float32)
    for axis, points in zip(axes, values.shape[1:-1], strict=True):
        group[f"grid/{axis}"] = np.arange(points, dtype=np.float32)
    if config is not None:
        group.attrs["config"] = config


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "2D_rdb_NA_NA.h5"


@pytest.fixture
def card():
    return load_card("shallow_water2d")


@pytest.fixture
def damaged(raw):
    """damaged(change) -> a file of three groups after change(file)."""

    def write(change):
        with h5py.File(raw, "w") as file:
            for i in range(3):
                write_group(file, f"{i:04d}", data(i), settings(0.3 + 0.1 * i))
            change(file)
        return raw

    return write


def test_trajectories_come_by_number_with_their_own_parameter(raw, card):
    names = ["10", "9", "0002", "1"]
    with h5py.File(raw, "w") as file:
        file["readme"] = "not a trajectory"
        for name in names:
            write_group(file, name, data(int(name)), settings(0.3 + int(name) / 100))
    found = open_raw(raw, card)
    expected = np.stack([data(i) for i in (1, 2, 9, 10)])
    np.testing.assert_array_equal(found.read(slice(0, 4), ALL), expected)
    np.testing.assert_array_equal(
        found.read(slice(1, 3), slice(0, 4, 3), 2), expected[1:3, 0:4:3, ::2, ::2]
    )
    np.testing.assert_allclose(found.parameters[:, 0], [0.31, 0.32, 0.39, 0.40])
    assert found.times == pytest.approx([0, 0.01, 0.02, 0.03, 0.04])
    assert [len(coord) for coord in found.coords] == [NX, NY]
    assert found.read_inputs(slice(0, 4)) is None
    found.close()


def test_space_axes_in_the_files_order_are_returned_in_the_cards(tmp_path):
    raw = tmp_path / "2D_diff-react_NA_NA.h5"
    card = load_card("reaction_diffusion2d")
    values = data(0, channels=2, shape=(T, NY, NX))
    with h5py.File(raw, "w") as file:
        write_group(file, "0000", values, axes="yx")
    found = open_raw(raw, card)
    assert [len(coord) for coord in found.coords] == [NX, NY]
    np.testing.assert_array_equal(found.read(slice(0, 1), ALL)[0], values.transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(
        found.read(slice(0, 1), slice(1, None, 2), 3)[0],
        values.transpose(0, 2, 1, 3)[1::2, ::3, ::3],
    )
    found.close()


def test_an_order_of_other_axes_is_the_cards_mistake(damaged, card):
    wrong = card.source.model_copy(update={"axis_order": ("x", "z")})
    with pytest.raises(ConfigError, match=r"source.axis_order: .*'z'.*, but the axes are"):
        open_raw(damaged(lambda file: None), card.model_copy(update={"source": wrong}))


def test_opening_opens_the_first_group_alone_where_no_parameter_is_drawn(tmp_path, monkeypatch):
    raw = tmp_path / "1D_diff-sorp_NA_NA.h5"
    with h5py.File(raw, "w") as file:
        for i in range(50):
            write_group(file, f"{i:04d}", data(i, shape=(T, NX)), axes="x")
    opened = []
    original = h5py.Group.__getitem__

    def spy(self, name):
        opened.append(str(name))
        return original(self, name)

    monkeypatch.setattr(h5py.Group, "__getitem__", spy)
    found = open_raw(raw, load_card("diffusion_sorption1d"))
    assert "0000" in opened
    assert "0001" not in opened
    assert found.num_trajectories == 50
    assert found.parameters.shape == (50, 0)
    found.close()


def test_a_number_written_without_a_point_is_still_a_number(damaged, card):
    config = "sim: {dam_radius: 4e-1}"  # YAML 1.1 calls this a text
    raw = damaged(lambda file: file["0001"].attrs.modify("config", config))
    found = open_raw(raw, card)
    assert found.parameters[1, 0] == 0.4
    found.close()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("sim: [1, 2", "0001/config: not YAML"),
        ("sim: !!python/object:os.system {}", "0001/config: not YAML"),
        ("just words", "expected keys and values, found str"),
        ("sim: {radius: 0.5}", "0001: config: no number at 'sim.dam_radius'"),
        ("sim: {dam_radius: true}", "no number at 'sim.dam_radius'"),
        ("sim: {dam_radius: .nan}", "no number at 'sim.dam_radius'"),
        ("sim: {dam_radius: [1]}", "no number at 'sim.dam_radius'"),
        ("sim: 2024-99-99\nother: 2024-13-41", "no number|not YAML"),
        ("a" * 100_000, "expected a short text"),
        ("[" * 5_000, "not YAML"),
        (3.5, "expected a short text, found float64"),
        (np.arange(4), "expected a short text, found ndarray"),
    ],
)
def test_settings_that_cannot_be_used_are_one_clear_line(damaged, card, config, expected):
    def change(file):
        del file["0001"].attrs["config"]
        file["0001"].attrs["config"] = config

    raw = damaged(change)
    with pytest.raises(DataError, match=rf"^{raw}: .*({expected})") as caught:
        open_raw(raw, card)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def replace(name, key, values):
    def change(file):
        del file[f"{name}/{key}"]
        if values is not None:
            file[f"{name}/{key}"] = values

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (replace("0000", "data", None), "no array '0000/data', found"),
        (replace("0000", "grid", None), "no array '0000/grid/x', found"),
        (replace("0000", "grid/y", np.arange(3.0)), r"0000/data: shape .*, expected \(5, 6, 3, 1"),
        (replace("0000", "grid/x", -np.arange(6.0)), "0000/grid/x: the values do not rise"),
        (replace("0000", "data", data(0, 2)), r"0000/data: shape \(5, 6, 4, 2\), expected"),
        (replace("0000", "data", np.zeros((T, NX, NY, 1), int)), "0000/data: expected floating"),
        (lambda file: file["0001"].attrs.pop("config"), "0001/config: attribute is missing"),
        (lambda file: file.move("0000", "2"), "groups '(2|0002)' and '(2|0002)' have the same"),
        (lambda file: file.update({"0": np.zeros(3)}) or file.pop("0000"), "0: expected a group"),
        (lambda file: [file.pop(f"000{i}") for i in range(3)], "no groups with numbers for names"),
    ],
)
def test_a_file_that_does_not_fit_together_is_refused_when_opened(damaged, card, change, expected):
    raw = damaged(change)
    with pytest.raises(DataError, match=rf"^{raw}: .*{expected}"):
        open_raw(raw, card)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (replace("0002", "data", data(0, shape=(T, NX, NX))), r"0002/data: shape \(5, 6, 6, 1\)"),
        (replace("0002", "data", np.array(b"text")), "0002/data: expected floating point"),
        (replace("0002", "data", None), "no array '0002/data'"),
    ],
)
def test_a_later_group_is_checked_when_it_is_read(damaged, card, change, expected):
    found = open_raw(damaged(change), card)
    np.testing.assert_array_equal(found.read(slice(1, 2), ALL)[0], data(1))
    with pytest.raises(DataError, match=expected):
        found.read(slice(1, 3), ALL)
    found.close()


@pytest.mark.parametrize(
    ("key", "name", "order"),
    [
        ("diffusion_sorption1d", "1D_diff-sorp_NA_NA.h5", (0, 1, 2)),
        ("reaction_diffusion2d", "2D_diff-react_NA_NA.h5", (0, 2, 1, 3)),
        ("shallow_water2d", "2D_rdb_NA_NA.h5", (0, 1, 2, 3)),
    ],
)
def test_pdebenchs_own_files_are_read(shared_pdebench, key, name, order):
    card = load_card(key)
    found = open_raw(shared_pdebench / name, card)
    block = found.read(slice(0, found.num_trajectories), ALL)
    with h5py.File(shared_pdebench / name) as file:
        for trajectory, group in enumerate(file):
            stored = file[group]["data"][()]
            np.testing.assert_array_equal(block[trajectory], stored.transpose(order))
            text = file[group].attrs["config"]
            expected = [yaml.safe_load(text)["sim"]["dam_radius"]] if card.parameters else []
            assert found.parameters[trajectory].tolist() == expected
    assert np.diff(found.times) == pytest.approx(card.time.step, rel=1e-4)
    assert len(found.times) == card.time.frames
    for axis, coord in zip(card.discretisation.axes, found.coords, strict=True):
        half = (coord[1] - coord[0]) / 2
        assert (coord[0] - half, coord[-1] + half) == pytest.approx(axis.bounds, abs=1e-5)
    found.close()
