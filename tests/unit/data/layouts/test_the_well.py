"""The Well's layout: what is flattened, what is repeated, what is checked against the card."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from ups.data.layouts.base import RawTrajectories
from ups.data.layouts.the_well import TheWell
from ups.errors import ConfigError, DataError
from ups.registry import DatasetCard, load_card

N, T, W, H = 3, 5, 8, 6
RANDOM = np.random.default_rng(0)
VALUES = {
    "density": RANDOM.normal(size=(N, T, W, H)),
    "velocity": RANDOM.normal(size=(N, T, W, H, 2)),
    "D": RANDOM.normal(size=(N, T, W, H, 2, 2)),
    "mask": RANDOM.normal(size=(N, W, H)),
    "speed": RANDOM.normal(size=(W, H)),
    "profile": RANDOM.normal(size=(N, T, W)),
    "gravity": RANDOM.normal(size=(W, 1, 2)),
    "force": RANDOM.normal(size=(N, T, W, H, 4)),
}
ATTRIBUTES = {
    "mask": {"time_varying": False},
    "speed": {"time_varying": False, "sample_varying": False},
    "profile": {"dim_varying": [True, False]},
    "gravity": {"dim_varying": [True, False], "time_varying": False, "sample_varying": False},
    "D": {"symmetric": False, "antisymmetric": False},
}
GROUPS = {"velocity": "t1_fields", "gravity": "t1_fields", "D": "t2_fields", "force": "t2_fields"}


def put(file, key, values, **attributes):
    """An array with The Well's flags."""
    file[key] = np.asarray(values, np.float32)
    for name, value in ({"sample_varying": False, "time_varying": False} | attributes).items():
        file[key].attrs[name] = value


def boundary(file, axis, kind, mask):
    group = file.create_group(f"boundary_conditions/{axis}_{kind}")
    group["mask"] = np.asarray(mask, bool)
    group.attrs["bc_type"] = kind
    group.attrs["associated_dims"] = [axis]


@pytest.fixture
def well(tmp_path):
    """A whole file: periodic along x, open along y, 'a' of the file, 'b' of each trajectory."""
    path = tmp_path / "some.hdf5"
    with h5py.File(path, "w") as file:
        file.attrs.update(
            dataset_name="some", grid_type="cartesian", n_spatial_dims=2, n_trajectories=N,
            simulation_parameters=["a", "c"], a=0.25, c=7.0,
        )  # fmt: skip
        put(file, "dimensions/time", 0.5 * np.arange(T))
        put(file, "dimensions/x", (np.arange(W) + 0.5) / W)
        put(file, "dimensions/y", np.linspace(-1, 2, H))
        file["dimensions"].attrs["spatial_dims"] = ["x", "y"]
        put(file, "scalars/a", 0.25)
        put(file, "scalars/b", [1.0, 2.0, 3.0], sample_varying=True)
        put(file, "scalars/pull", np.arange(T), time_varying=True)
        for name, values in VALUES.items():
            flags = {"sample_varying": True, "time_varying": True, "dim_varying": [True, True]}
            key = f"{GROUPS.get(name, 't0_fields')}/{name}"
            put(file, key, values, **(flags | ATTRIBUTES.get(name, {})))
        boundary(file, "x", "PERIODIC", np.zeros(W))
        boundary(file, "y", "open", np.eye(1, H)[0] + np.eye(1, H, H - 1)[0])
    return path


def card(fields, inputs=(), parameters=(), boundaries=("periodic", "outflow"), step=0.5):
    """A card whose channels are called after their raw names."""

    def specs(raws):
        return [
            {"name": f"f{place}", "description": "", "raw": raw} for place, raw in enumerate(raws)
        ]

    return DatasetCard.model_validate(
        {
            "key": "some",
            "title": "",
            "description": "",
            "pde": {"family": "some", "equation": ""},
            "discretisation": {
                "kind": "grid",
                "axes": [
                    {"name": "x", "bounds": [0, 1], "points": W, "boundary": boundaries[0]},
                    {"name": "height", "raw": "y", "bounds": [-1, 2], "points": H,
                     "boundary": boundaries[1]},
                ],
            },
            "time": {"frames": T, "step": step},
            "fields": specs(fields),
            "inputs": specs(inputs),
            "parameters": [
                {"name": name, "symbol": name, "description": "", "range": [0, 10]}
                for name in parameters
            ],
            "source": {"name": "", "doi": "", "licence": "", "citation": "", "layout": "the_well"},
            "splits": {"test": "by_folder", "valid_fraction": 0.1, "kept_apart_by": "trajectory"},
            "config": "base.yaml",
        }
    )  # fmt: skip


def everything(path, a_card):
    reader = TheWell(path, a_card)
    values = reader.read(slice(0, reader.num_trajectories), slice(0, len(reader.times)))
    reader.close()
    return values


def test_scalars_vectors_and_tensors_become_channels_in_the_cards_order(well):
    raws = ["velocity[1]", "density", "t2_fields/D[0,1]", "velocity[0]", "D[1, 0]", "force[1,0]"]
    found = everything(well, card(raws))
    expected = [
        VALUES["velocity"][..., 1],
        VALUES["density"],
        VALUES["D"][..., 0, 1],
        VALUES["velocity"][..., 0],
        VALUES["D"][..., 1, 0],
        VALUES["force"][..., 2],  # a tensor whose two axes are stored as one
    ]
    np.testing.assert_array_equal(found, np.stack(expected, axis=-1).astype(np.float32))
    assert found.dtype == np.float32


def test_axes_times_and_parameters_are_those_of_the_file(well):
    reader = TheWell(well, card(["density"], parameters=["a", "b", "c"]))
    assert isinstance(reader, RawTrajectories)
    np.testing.assert_allclose(reader.times, 0.5 * np.arange(T))
    np.testing.assert_allclose(reader.coords[0], (np.arange(W) + 0.5) / W)
    np.testing.assert_allclose(reader.coords[1], np.linspace(-1, 2, H), rtol=1e-6)
    np.testing.assert_array_equal(reader.parameters, [[0.25, 1, 7], [0.25, 2, 7], [0.25, 3, 7]])
    assert reader.read_inputs(slice(0, N)) is None
    reader.close()


def test_what_is_stored_once_is_repeated(well):
    found = everything(well, card(["density", "speed", "profile", "gravity[1]", "mask"]))
    shape = (N, T, W, H)
    expected = [
        VALUES["density"],
        np.broadcast_to(VALUES["speed"], shape),
        np.broadcast_to(VALUES["profile"][..., None], shape),
        np.broadcast_to(VALUES["gravity"][..., 1], shape),
        np.broadcast_to(VALUES["mask"][:, None], shape),
    ]
    np.testing.assert_array_equal(found, np.stack(expected, axis=-1).astype(np.float32))


def test_pieces_are_those_of_the_whole(well):
    a_card = card(["density", "velocity[1]", "profile"], ["mask", "speed", "gravity[0]"])
    whole = everything(well, a_card)
    reader = TheWell(well, a_card)
    piece = reader.read(slice(1, 3), slice(1, 5, 2), stride_x=2)
    np.testing.assert_array_equal(piece, whole[1:3, 1:5:2, ::2, ::2])
    inputs = reader.read_inputs(slice(1, 3), stride_x=2)
    gravity = np.broadcast_to(VALUES["gravity"][..., 0], (W, H))
    expected = np.stack(
        [VALUES["mask"][1:3], *(np.broadcast_to(v, (2, W, H)) for v in (VALUES["speed"], gravity))],
        axis=-1,
    )
    np.testing.assert_array_equal(inputs, expected[:, ::2, ::2].astype(np.float32))
    reader.close()


def test_frames_a_little_late_are_put_at_even_times(well):
    late = 0.5 * np.arange(T) + 0.004 * np.asarray([0, 1, 0, 1, 0])
    with h5py.File(well, "r+") as file:
        file["dimensions/time"][...] = late
    reader = TheWell(well, card(["density"]))
    np.testing.assert_allclose(reader.times, 0.5 * np.arange(T), atol=1e-6)
    reader.close()


def uneven(file, key="dimensions/x"):
    file[key][2] += 0.3 * (file[key][3] - file[key][2])


def without(key):
    def change(file):
        del file[key]

    return change


def replaced(key, values):
    def change(file):
        flags = dict(file[key].attrs)
        del file[key]
        file[key] = values
        file[key].attrs.update(flags)

    return change


def flagged(key, name, value):
    return lambda file: file[key].attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (uneven, r"dimensions/x: a step of 0\.\d+ between entries 1 and 2, .*usual one is 0\.125"),
        (lambda f: uneven(f, "dimensions/time"), "dimensions/time: a step of .* entries 1 and 2"),
        (replaced("dimensions/time", np.arange(5.0)), "frames are 1 apart, the card: 0.5"),
        (replaced("dimensions/x", np.ones((N, W))), r"dimensions/x: shape \(3, 8\) is not one"),
        (flagged("dimensions/x", "sample_varying", True), "dimensions/x: differs between traj"),
        (flagged("dimensions/y", "time_varying", True), "dimensions/y: differs between times"),
        (flagged("dimensions", "spatial_dims", ["y", "x"]),
         r"spatial_dims \['y', 'x'\], the card has \['x', 'y'\]"),
        (without("dimensions"), "no group 'dimensions'"),
        (without("dimensions/y"), "no array 'dimensions/y'"),
        (flagged("/", "n_trajectories", 4), r"t0_fields/density: shape .*expected \(4, 5, 8, 6\)"),
        (flagged("/", "n_trajectories", 0), "'n_trajectories' is not a number of traj"),
        (flagged("/", "n_trajectories", "many"), "'n_trajectories' is not a number of traj"),
        (without("t0_fields/density"), "no field 'density'"),
        (without("t0_fields"), "no field 'density'"),
        (replaced("t0_fields/density", np.ones((N, T, W), np.float32)), "t0_fields/density: shape"),
        (replaced("t0_fields/density", b"text"), "t0_fields/density: expected numbers"),
        (flagged("t0_fields/density", "dim_varying", [True] * 3), "dim_varying: 3 of 2 axes"),
        (lambda f: f.move("t0_fields/density", "t0_fields/Density"),
         r"no field 'density' \(did you mean 'Density'\?\)"),
        (lambda f: f.copy("t0_fields/density", "t1_fields/density"),
         "'density' may be any of .*name it with its group"),
        (flagged("scalars/b", "time_varying", True), "scalars/b: varies in time, so it is no par"),
        (replaced("scalars/b", [1.0, 2.0]), r"scalars/b: \(2,\) of float64, expected 3 numbers"),
        (replaced("scalars/b", [1.0, np.nan, 2.0]), "scalars/b: NaN"),
        (without("scalars/b"), "attribute 'b' is missing"),
        (flagged("boundary_conditions/x_PERIODIC", "bc_type", "WALL"),
         "x_PERIODIC: 'wall' along x, where the card says 'periodic'"),
        (flagged("boundary_conditions/y_open", "bc_type", "Periodic"),
         "y_open: 'periodic' along y, where the card says 'outflow'"),
        (flagged("boundary_conditions/y_open", "bc_type", "sticky"),
         "bc_type 'sticky' is not one of"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_the_card_says_is_one_clear_line(well, change, expected):
    with h5py.File(well, "r+") as file:
        change(file)
    with pytest.raises(DataError, match=f"^{well}: .*{expected}") as caught:
        everything(well, card(["density"], parameters=["b"]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "family", "expected"),
    [
        ("velocity", DataError, r"t1_fields/velocity: a vector needs one index, \[0\]"),
        ("velocity[2]", DataError, r"no component \[2\] among \(2,\)"),
        ("D[0]", DataError, r"a tensor needs two indices, \[0,1\]"),
        ("D[0,2]", DataError, r"no component \[0, 2\] among \(2, 2\)"),
        ("density[0]", DataError, "a scalar needs no index"),
        ("velocity[x]", ConfigError, r"raw: 'velocity\[x\]' is not like"),
    ],
)
def test_a_raw_name_that_names_no_channel_is_refused(well, raw, family, expected):
    with pytest.raises(family, match=expected):
        TheWell(well, card([raw]))


def test_an_input_that_varies_in_time_is_refused(well):
    with pytest.raises(DataError, match="t0_fields/density: varies in time, so it is no input"):
        TheWell(well, card(["velocity[0]"], ["density"]))


@pytest.mark.parametrize(
    ("kind", "mask", "stated", "agrees"),
    [
        ("WALL", np.eye(1, H)[0], "outflow", False),
        ("WALL", np.eye(1, H)[0], "dirichlet", True),
        ("WALL", np.eye(1, H, 3)[0], "outflow", True),  # an obstacle, not an end
        ("WALL", np.zeros(H), "outflow", False),  # a mask that nobody filled in
        ("open", np.eye(1, H, H - 1)[0], "neumann", True),
    ],
)
def test_a_boundary_counts_where_it_lies_at_an_end_of_the_axis(well, kind, mask, stated, agrees):
    with h5py.File(well, "r+") as file:
        del file["boundary_conditions"]
        boundary(file, "y", kind, mask)
    if agrees:
        TheWell(well, card(["density"], boundaries=("periodic", stated))).close()
    else:
        with pytest.raises(DataError, match=f"'{kind.lower()}' along y, .*says '{stated}'"):
            TheWell(well, card(["density"], boundaries=("periodic", stated)))


def test_a_wall_in_two_dimensions_must_fill_a_whole_face(well):
    mask = np.zeros((W, H), bool)
    mask[0, :3] = True
    with h5py.File(well, "r+") as file:
        del file["boundary_conditions"]
        boundary(file, "x", "WALL", mask)
        file["boundary_conditions/x_WALL"].attrs["associated_dims"] = ["x", "y"]
    TheWell(well, card(["density"])).close()
    with h5py.File(well, "r+") as file:
        mask[0] = True
        file["boundary_conditions/x_WALL/mask"][...] = mask
    with pytest.raises(DataError, match="'wall' along x"):
        TheWell(well, card(["density"]))


@pytest.mark.parametrize("share", [0.97, 0.6, 0.2, 0.01])
def test_a_truncated_file_is_one_clear_line(well, share):
    content = well.read_bytes()
    well.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=f"^{well}: .*truncated") as caught:
        TheWell(well, card(["density"]))
    assert "\n" not in str(caught.value)


def test_the_wells_own_file_is_read(shared_pdebench):
    path = shared_pdebench.parent / "the_well" / "dummy_dataset.hdf5"
    if not path.is_file():
        pytest.skip(f"no {path}")
    a_card = card(["field[1]", "field[0]"], ["constant_field"], ["a", "b"],
                  ("periodic", "periodic"), step=1 / 9)  # fmt: skip
    reader = TheWell(path, a_card)
    assert reader.num_trajectories == 2
    assert (len(reader.times), [len(c) for c in reader.coords]) == (10, [32, 32])
    np.testing.assert_array_equal(reader.parameters, [[0.25, 0.75]] * 2)
    with h5py.File(path) as file:
        stored = file["t1_fields/field"][()]
        constant = file["t0_fields/constant_field"][()]
    np.testing.assert_array_equal(reader.read(slice(0, 2), slice(0, 10)), stored[..., ::-1])
    np.testing.assert_array_equal(reader.read_inputs(slice(0, 2))[..., 0], constant)
    reader.close()
    with pytest.raises(DataError, match="scalars/time_varying_scalar: varies in time"):
        TheWell(path, card(["field[0]"], (), ["time_varying_scalar"], ("periodic",) * 2, 1 / 9))


def test_the_shipped_card_reads_a_file_of_the_shape_it_states(tmp_path):
    shipped = load_card("turbulent_radiative_layer2d")
    path = tmp_path / "turbulent_radiative_layer_tcool_0.03.hdf5"
    points = [axis.points // 16 for axis in shipped.discretisation.axes]
    with h5py.File(path, "w") as file:
        file.attrs["n_trajectories"] = 2
        put(file, "dimensions/time", shipped.time.step * np.arange(4))
        put(file, "dimensions/x", np.linspace(-0.5, 0.5, points[0]))
        put(file, "dimensions/y", np.linspace(-1, 2, points[1]))
        file["dimensions"].attrs["spatial_dims"] = ["x", "y"]
        put(file, "scalars/tcool", 0.03)
        flags = {"sample_varying": True, "time_varying": True, "dim_varying": [True, True]}
        for place, name in enumerate(["t0_fields/density", "t0_fields/pressure"]):
            put(file, name, np.full((2, 4, *points), place), **flags)
        put(file, "t1_fields/velocity", np.full((2, 4, *points, 2), [2, 3]), **flags)
        boundary(file, "x", "PERIODIC", np.ones(points[0]))
        boundary(file, "y", "OPEN", np.ones(points[1]))
    found = everything(path, shipped)
    assert found.shape == (2, 4, *points, 4)
    np.testing.assert_array_equal(found[0, 0, 0, 0], [0, 1, 2, 3])
