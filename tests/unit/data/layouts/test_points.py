"""The HDF5 layout of meshes and particles: what is written is read, and every defect is named."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from scipy.spatial import Delaunay

from ups.data.layouts.base import PointTrajectory, RawPoints
from ups.data.layouts.points import PointsHdf5, PointsWriter
from ups.errors import DataError
from ups.files import atomic_path
from ups.registry import DatasetCard

TIMES = np.array([0.0, 0.5, 1.0])


def make_card(kind="mesh", **changes):
    content = {
        "key": "tiny",
        "title": "Tiny",
        "description": "for tests",
        "pde": {"family": "none", "equation": "u_t = 0"},
        "discretisation": {
            "kind": kind,
            "axes": [
                {"name": name, "bounds": (0.0, 1.0), "boundary": "wall"} for name in ("x", "y")
            ],
            "neighbour_radius": 0.3 if kind == "particles" else None,
        },
        "time": {"frames": 3, "step": 0.5},
        "fields": [
            {"name": "u", "description": "one"},
            {"name": "v", "description": "two", "raw": "second"},
        ],
        "inputs": [{"name": "a", "description": "coefficient"}],
        "parameters": [
            {"name": "nu", "symbol": "v", "description": "viscosity", "range": (0.0, 1.0)}
        ],
        "source": {"name": "tests", "doi": "", "licence": "", "citation": "", "layout": "points"},
        "splits": {"test": "last_tenth", "valid_fraction": 0.2, "kept_apart_by": "trajectory"},
        "config": "none",
    }
    return DatasetCard.model_validate({**content, **changes})


def trajectory(seed=0, nodes=12, moving=False, mesh=True):
    rng = np.random.default_rng(seed)
    coords = rng.random((nodes, 2)).astype(np.float32)
    return PointTrajectory(
        coords=np.stack([coords, coords, coords]) if moving else coords,
        fields=rng.normal(size=(3, nodes, 2)).astype(np.float32),
        inputs=rng.normal(size=(nodes, 1)).astype(np.float32),
        cells=Delaunay(coords).simplices.astype(np.int32) if mesh else None,
        tags=np.arange(nodes, dtype=np.uint8) % 3 if mesh else None,
    )


@pytest.fixture
def raw(tmp_path):
    """A file of three trajectories of 10, 11 and 12 nodes."""
    path = tmp_path / "raw.h5"
    writer = PointsWriter(path, TIMES, make_card())
    for index in range(3):
        writer.append(trajectory(index, 10 + index), {"nu": 0.1 * (index + 1)})
    return path


@pytest.mark.parametrize("kind", ["mesh", "particles"])
def test_what_is_written_is_read(tmp_path, kind):
    path, card = tmp_path / "raw.h5", make_card(kind)
    given = [trajectory(i, 10 + i, moving=i == 1, mesh=kind == "mesh") for i in range(3)]
    writer = PointsWriter(path, TIMES, card)
    for index, each in enumerate(given):
        writer.append(each, {"nu": 0.1 * index})
    raw = PointsHdf5(path, card)
    assert isinstance(raw, RawPoints)
    assert raw.num_trajectories == 3
    np.testing.assert_array_equal(raw.times, TIMES)
    np.testing.assert_allclose(raw.parameters, [[0.0], [0.1], [0.2]])
    for index, expected in enumerate(given):
        found = raw.read(index)
        for name in ("coords", "fields", "inputs", "cells", "tags"):
            one, other = getattr(found, name), getattr(expected, name)
            if other is None:
                assert one is None
            else:
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)
    raw.close()


def test_a_parameter_is_of_the_group_else_of_the_file_else_of_the_cards_list(raw):
    with h5py.File(raw, "r+") as file:
        file.attrs["nu"] = 0.7
        del file["000001"].attrs["nu"]
    assert PointsHdf5(raw, make_card()).parameters[:, 0] == pytest.approx([0.1, 0.7, 0.3])
    with h5py.File(raw, "r+") as file:
        del file.attrs["nu"]
    with pytest.raises(DataError, match="attribute 'nu' is missing"):
        PointsHdf5(raw, make_card())
    card = make_card()
    listed = {"name": "raw.h5", "url": "", "md5": "0" * 32, "trajectories": 3}
    source = card.source.model_dump() | {"files": [{**listed, "parameters": {"nu": 0.9}}]}
    found = PointsHdf5(raw, make_card(source=source)).parameters[:, 0]
    assert found == pytest.approx([0.1, 0.9, 0.3])


def test_one_dimension_more_means_tetrahedra(tmp_path):
    card = make_card()
    axes = [{"name": n, "bounds": (0.0, 1.0), "boundary": "wall"} for n in "xyz"]
    card = make_card(discretisation={"kind": "mesh", "axes": axes})
    coords = np.random.default_rng(0).random((12, 3)).astype(np.float32)
    given = replace(trajectory(), coords=coords, cells=Delaunay(coords).simplices.astype(np.int32))
    PointsWriter(tmp_path / "raw.h5", TIMES, card).append(given, {"nu": 0.1})
    assert PointsHdf5(tmp_path / "raw.h5", card).read(0).cells.shape[1] == 4


def put(group, name, values):
    del group[name]
    group[name] = values


DAMAGE = {
    "coords: shape": lambda g: put(g, "coords", np.zeros((11, 3))),
    r"coords: shape .2, 11, 2. is": lambda g: put(g, "coords", np.zeros((2, 11, 2))),
    "coords: shape .0, 2. is": lambda g: put(g, "coords", np.zeros((0, 2))),
    "node 4 has no finite position": lambda g: g["coords"].__setitem__((4, 1), np.nan),
    "no array '000001/coords', found": lambda g: g.__delitem__("coords"),
    "no array '000001/fields/second'": lambda g: g.__delitem__("fields/second"),
    "no array '000001/fields/u'": lambda g: g.__delitem__("fields"),
    r"fields/u: expected shape .3, 11., found .3, 10.": lambda g: put(
        g, "fields/u", np.zeros((3, 10))
    ),
    "fields/u: expected floating point, found int": lambda g: put(
        g, "fields/u", np.zeros((3, 11), int)
    ),
    r"inputs/a: expected shape .11,., found .12,.": lambda g: put(g, "inputs/a", np.zeros(12)),
    "no array '000001/cells'": lambda g: g.__delitem__("cells"),
    "cells: node 11 is not one of the 11": lambda g: g["cells"].__setitem__((0, 0), 11),
    "cells: node -1 is not one of the 11": lambda g: g["cells"].__setitem__((0, 0), -1),
    r"cells: expected shape .cell, 3.": lambda g: put(g, "cells", np.zeros((4, 4), int)),
    "cells: expected integers, found float": lambda g: put(g, "cells", np.zeros((4, 3))),
    "tags: expected shape": lambda g: put(g, "tags", np.zeros(3, np.uint8)),
    "tags: expected 0 to 255, found 0 to 300": lambda g: put(
        g, "tags", np.arange(11, dtype=np.int64) * 30
    ),
    "damaged": lambda g: (
        g.__delitem__("tags"),
        g.__setitem__("tags", h5py.SoftLink("/nowhere")),
    ),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_damaged_trajectory_is_named_in_one_line(raw, message):
    with h5py.File(raw, "r+") as file:
        DAMAGE[message](file["000001"])
    opened = PointsHdf5(raw, make_card())
    opened.read(0)
    with pytest.raises(DataError, match=message) as caught:
        opened.read(1)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(raw))


def put_root(name, values):
    def change(file):
        del file[name]
        file[name] = values

    return change


ROOT = {
    "time: the values do not rise": put_root("time", [0.0, 0.0, 1.0]),
    "time: shape .* is not .time,.": put_root("time", [[0.0, 1.0]]),
    "no array 'time'": lambda file: file.__delitem__("time"),
    "two groups are trajectory 2": lambda file: file.copy("000002", "2"),
    "trajectory 1 is missing": lambda file: file.__delitem__("000001"),
    "attribute 'nu' is not a number": lambda file: file["000001"].attrs.__setitem__("nu", "high"),
    "no group named by a number, found ..time": lambda file: [
        file.__delitem__(f"00000{i}") for i in range(3)
    ],
}


@pytest.mark.parametrize("message", ROOT)
def test_a_damaged_file_is_refused_when_it_is_opened(raw, message):
    with h5py.File(raw, "r+") as file:
        ROOT[message](file)
    with pytest.raises(DataError, match=message):
        PointsHdf5(raw, make_card())


def test_particles_have_no_cells(raw):
    with pytest.raises(DataError, match="cells: particles have none"):
        PointsHdf5(raw, make_card("particles")).read(0)


def test_two_fields_from_one_array_are_a_mistake_of_the_card(raw):
    fields = [{"name": n, "description": n, "raw": "u"} for n in ("u", "v")]
    with pytest.raises(DataError, match="two fields from 'u'"):
        PointsHdf5(raw, make_card(fields=fields))


def test_a_mutated_file_never_ends_in_a_foreign_exception(raw, tmp_path):
    whole, rng = raw.read_bytes(), np.random.default_rng(0)
    copy, refused = tmp_path / "copy.h5", []
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 12):
            damaged[place] = rng.integers(256)
        copy.write_bytes(damaged[: rng.integers(len(whole) // 2, len(whole) + 1)])
        try:
            opened = PointsHdf5(copy, make_card())
            for index in range(opened.num_trajectories):
                opened.read(index)
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert not any("\n" in message for message in refused)


def test_the_writer_refuses_what_the_card_does_not_have(tmp_path):
    writer = PointsWriter(tmp_path / "raw.h5", TIMES, make_card())
    good = trajectory()
    bad = {
        "fields: expected shape": replace(good, fields=good.fields[:2]),
        "inputs: expected shape": replace(good, inputs=None),
        "cells: a mesh has them": replace(good, cells=None),
        "coords: expected shape": replace(good, coords=good.coords[:, :1]),
    }
    for message, each in bad.items():
        with pytest.raises(DataError, match=message):
            writer.append(each, {"nu": 0.1})
    with pytest.raises(DataError, match="parameters"):
        writer.append(good, {"mu": 0.1})
    writer.append(good, {"nu": 0.1})
    assert PointsHdf5(tmp_path / "raw.h5", make_card()).num_trajectories == 1


def test_the_same_trajectories_give_the_same_bytes_and_no_slack(tmp_path):
    for name in ("a.h5", "b.h5"):
        writer = PointsWriter(tmp_path / name, TIMES, make_card())
        for index in range(4):
            writer.append(trajectory(index), {"nu": 0.1})
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert (tmp_path / "a.h5").stat().st_size < 64 * 2**10


_FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {folder!r})
from test_points import TIMES, make_card, trajectory
from ups.data.layouts.points import PointsWriter
from ups.errors import DataError
from ups.files import atomic_path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.dont_write_bytecode = True  # a cut-off module would spoil later imports
resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, 2**21))
try:
    with atomic_path(Path({target!r})) as temporary:
        writer = PointsWriter(temporary, TIMES, make_card())
        for index in range(1000):
            writer.append(trajectory(index, 2000), {{"nu": 0.1}})
except DataError as error:
    print(writer.num_trajectories, error)
    sys.exit(3)
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    target = tmp_path / "out" / "raw.h5"
    code = _FULL.format(folder=str(__file__.rpartition("/")[0]), target=str(target))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "file-size limit" in done.stdout
    assert int(done.stdout.split()[0]) > 2
    assert done.stderr == ""
    assert list(target.parent.iterdir()) == []


def test_atomic_writing_leaves_the_whole_file(tmp_path):
    with atomic_path(tmp_path / "raw.h5") as temporary:
        PointsWriter(temporary, TIMES, make_card()).append(trajectory(), {"nu": 0.1})
    assert PointsHdf5(tmp_path / "raw.h5", make_card()).num_trajectories == 1
