"""NetCDF and Zarr: names, axes, calendars, packed values, levels, and the cut into trajectories."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from ups.data.layouts.base import RawTrajectories
from ups.data.layouts.xarray_grid import XarrayGrid
from ups.data.layouts.xarray_open import is_zarr
from ups.errors import ConfigError, DataError, MissingExtraError
from ups.registry import DatasetCard, load_card

xarray = pytest.importorskip("xarray")

T, H, W, LEVELS = 11, 4, 8, [300, 500, 850]
LATITUDE = np.linspace(67.5, -67.5, H)  # from north to south, as reanalyses store it
LONGITUDE = 45.0 * np.arange(W)


def series(calendar="standard", hours=None, start="2001-02-27"):
    """A small reanalysis: t2m, z on levels, land without time, latitude falling."""
    random = np.random.default_rng(0)
    hours = 6.0 * np.arange(T) if hours is None else np.asarray(hours, float)
    time = ("time", hours, {"units": f"hours since {start}", "calendar": calendar})
    latlon = ("latitude", "longitude")
    data = xarray.Dataset(
        {
            "t2m": (("time", *latlon), random.normal(280, 9, (T, H, W)).astype(np.float32)),
            "z": (("time", "level", *latlon), random.normal(5e4, 99, (T, 3, H, W))),
            "land": (latlon, (random.random((H, W)) > 0.5).astype(np.int8)),
            "number": ((), 0.5),
        },
        coords={"latitude": LATITUDE, "longitude": LONGITUDE, "level": LEVELS},
        attrs={"co2": 400.0, "title": "made up"},
    )
    return data.assign_coords(time=time)


def write(data, path, encoding=None):
    """To NetCDF 4, NetCDF 3 or Zarr, by the name's end."""
    if path.suffix == ".zarr":
        data.to_zarr(path, encoding=encoding or {}, zarr_format=2, consolidated=False)
    elif path.suffix == ".nc3":
        data.to_netcdf(path, engine="scipy")
    else:
        data.to_netcdf(path, engine="h5netcdf", encoding=encoding or {})
    return path


def card(fields=("t2m",), inputs=(), parameters=(), frames=4, step=6.0, unit="h", **axis):
    def specs(raws):
        return [{"name": f"f{n}", "description": "", "raw": raw} for n, raw in enumerate(raws)]

    return DatasetCard.model_validate(
        {
            "key": "weather",
            "title": "",
            "description": "",
            "pde": {"family": "weather", "equation": ""},
            "discretisation": {
                "kind": "grid",
                "axes": [
                    {"name": "latitude", "bounds": [-90, 90], "boundary": "outflow", "points": H},
                    {"name": "lon", "raw": "longitude", "bounds": [0, 360], "points": W,
                     "boundary": "periodic"} | axis,
                ],
            },
            "time": {"frames": frames, "step": step, "unit": unit},
            "fields": specs(fields),
            "inputs": specs(inputs),
            "parameters": [
                {"name": name, "symbol": name, "description": "", "range": [0, 1000]}
                for name in parameters
            ],
            "source": {"name": "", "doi": "", "licence": "", "citation": "", "layout": "xarray"},
            "splits": {"test": "last_tenth", "valid": "last", "valid_fraction": 0.1,
                       "kept_apart_by": "trajectory"},
            "config": "base.yaml",
        }
    )  # fmt: skip


def everything(path, a_card):
    reader = XarrayGrid(path, a_card)
    try:
        return reader.read(slice(0, reader.num_trajectories), slice(0, len(reader.times)))
    finally:
        reader.close()


@pytest.mark.parametrize("name", ["a.nc", "a.nc3", "a.zarr"])
def test_a_series_is_cut_into_trajectories_on_a_rising_grid(tmp_path, name):
    data = series()
    path = write(data, tmp_path / name)
    reader = XarrayGrid(path, card(["t2m", "z[level=500]"], ["land"], ["co2", "number"]))
    assert isinstance(reader, RawTrajectories)
    assert reader.num_trajectories == 2  # 11 frames: two times four, three are left over
    np.testing.assert_array_equal(reader.times, [0, 6, 12, 18])
    np.testing.assert_array_equal(reader.coords[0], LATITUDE[::-1])
    np.testing.assert_array_equal(reader.coords[1], LONGITUDE)
    np.testing.assert_array_equal(reader.parameters, [[400, 0.5]] * 2)
    found = reader.read(slice(0, 2), slice(0, 4))
    expected = np.stack([data.t2m.values, data.z.values[:, 1]], axis=-1)[:8, ::-1]
    np.testing.assert_array_equal(found, expected.reshape(2, 4, H, W, 2).astype(np.float32))
    land = reader.read_inputs(slice(0, 2))
    np.testing.assert_array_equal(land, np.stack([data.land.values[::-1, :, None]] * 2))
    assert (found.dtype, land.dtype) == (np.float32, np.float32)
    reader.close()


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pieces_are_those_of_the_whole(tmp_path, stride):
    path = write(series(), tmp_path / "a.nc")
    a_card = card(["t2m", "z[level=300]"], ["land"], frames=3)
    whole = everything(path, a_card)
    reader = XarrayGrid(path, a_card)
    piece = reader.read(slice(1, 3), slice(0, 3, 2), stride)
    np.testing.assert_array_equal(piece, whole[1:3, 0:3:2, ::stride, ::stride])
    rest = reader.read(slice(1, 3), slice(0, 3), stride)
    np.testing.assert_array_equal(rest, whole[1:3, :, ::stride, ::stride])
    inputs = reader.read_inputs(slice(0, 3))
    np.testing.assert_array_equal(
        reader.read_inputs(slice(1, 2), stride), inputs[1:2, ::stride, ::stride]
    )
    reader.close()


@pytest.mark.parametrize(
    "order", [("longitude", "latitude", "time"), ("time", "longitude", "latitude")]
)
def test_the_order_of_stored_dimensions_does_not_matter(tmp_path, order):
    expected = everything(write(series(), tmp_path / "a.nc"), card())
    turned = series()
    turned["t2m"] = turned["t2m"].transpose(*order)
    np.testing.assert_array_equal(everything(write(turned, tmp_path / "b.nc"), card()), expected)


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day", "proleptic_gregorian"])
@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
def test_time_passes_as_its_calendar_says(tmp_path, calendar, name):
    path = write(series(calendar, start="2000-02-28"), tmp_path / name)
    reader = XarrayGrid(path, card(frames=11))
    np.testing.assert_allclose(reader.times, 6.0 * np.arange(11))
    reader.close()


def test_dates_without_a_leap_day_are_uneven_in_a_calendar_that_has_one(tmp_path):
    """The same hours, written as dates of a calendar without 29 February, skip a day."""
    days = [0, 24, 72, 96, 120, 144, 168, 192, 216, 240, 264]
    path = write(series(hours=days, start="2000-02-27"), tmp_path / "a.nc")
    with pytest.raises(DataError, match=r"a step of 48 h between .* 24 h: after 2000-02-28T00:00"):
        XarrayGrid(path, card(step=24.0))
    even = write(series("noleap", hours=24 * np.arange(T), start="2000-02-27"), tmp_path / "b.nc")
    XarrayGrid(even, card(step=24.0)).close()


@pytest.mark.parametrize(("unit", "step"), [("s", 21600.0), ("min", 360.0), ("d", 0.25)])
@pytest.mark.parametrize("calendar", ["standard", "noleap"])
def test_times_come_in_the_cards_unit(tmp_path, unit, step, calendar):
    path = write(series(calendar), tmp_path / "a.nc")
    reader = XarrayGrid(path, card(unit=unit, step=step))
    np.testing.assert_allclose(reader.times, step * np.arange(4))
    reader.close()


def test_plain_numbers_are_times_in_the_cards_unit(tmp_path):
    path = write(series().assign_coords(time=0.1 * np.arange(T)), tmp_path / "a.nc")
    reader = XarrayGrid(path, card(unit="1", step=0.1))
    np.testing.assert_allclose(reader.times, [0, 0.1, 0.2, 0.3])
    reader.close()


@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
def test_packed_values_are_unpacked_and_missing_ones_are_nan(tmp_path, name):
    data = series()
    missing = np.zeros((T, H, W), bool)
    missing[2, 1, 3] = missing[9, 0, 0] = True
    data["t2m"] = data["t2m"].where(~missing)
    packed = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32768}
    path = write(data, tmp_path / name, {"t2m": packed})
    found = everything(path, card()).reshape(8, H, W)
    np.testing.assert_array_equal(np.isnan(found), missing[:8, ::-1])
    np.testing.assert_allclose(found, data.t2m.values[:8, ::-1], atol=0.0051)


def test_samples_keep_their_own_series_and_parameters(tmp_path):
    both = xarray.concat([series(), 2 * series()], dim="sample").transpose("sample", ...)
    both["land"] = series()["land"]
    both["co2"] = ("sample", [1.0, 2.0])
    both["number"] = 0.5
    path = write(both, tmp_path / "a.nc")
    a_card = card(["t2m"], ["land"], ["co2"])
    reader = XarrayGrid(path, a_card)
    assert reader.num_trajectories == 4
    np.testing.assert_array_equal(reader.parameters[:, 0], [1, 1, 2, 2])
    found = everything(path, a_card)
    np.testing.assert_array_equal(found[2:], 2 * found[:2])
    np.testing.assert_array_equal(reader.read(slice(1, 3), slice(1, 3)), found[1:3, 1:3])
    assert reader.read_inputs(slice(0, 4)).shape == (4, H, W, 1)
    reader.close()


def test_a_static_problem_has_one_frame_for_each_sample(tmp_path):
    data = xarray.Dataset(
        {"u": (("sample", "latitude", "longitude"), np.arange(3.0 * H * W).reshape(3, H, W))},
        coords={"latitude": LATITUDE, "longitude": LONGITUDE},
    )
    reader = XarrayGrid(write(data, tmp_path / "a.nc"), card(["u"], frames=1, step=None))
    found = reader.read(slice(0, 3), slice(0, 1))
    np.testing.assert_array_equal(found[:, 0, :, :, 0], data.u.values[:, ::-1])
    assert (reader.num_trajectories, len(reader.times)) == (3, 1)
    reader.close()


def test_an_input_stored_for_one_time_is_constant(tmp_path):
    data = series()
    data["orography"] = data["t2m"].isel(time=[0]).rename(time="valid_time").drop_vars("valid_time")
    reader = XarrayGrid(write(data, tmp_path / "a.nc"), card(["t2m"], ["orography"]))
    found = reader.read_inputs(slice(0, 1))
    np.testing.assert_array_equal(found[0, ..., 0], data.t2m.values[0, ::-1])
    reader.close()


def gap(data):
    return data.isel(time=[0, 1, 2, 4, 5, 6, 7, 8])


def closed(data):
    last = data.isel(longitude=[0]).assign_coords(longitude=[360.0])
    return xarray.concat([data, last], dim="longitude", data_vars="minimal")


@pytest.mark.parametrize(
    ("change", "options", "expected"),
    [
        (gap, {}, r"time: a step of 12 h between entries 2 and 3.*after 2001-02-27T12:00"),
        (lambda d: d.isel(time=slice(None, None, -1)), {}, "time: the values do not rise"),
        (lambda d: d.isel(time=slice(3)), {}, "3 frames, fewer than the 4 of a trajectory"),
        (lambda d: d, {"step": 1.0}, "frames are 6 h apart, the card says 1"),
        (lambda d: d, {"fields": ["T2m"]}, r"no variable 'T2m' \(did you mean 't2m'\?\)"),
        (lambda d: d, {"fields": ["z"]}, "z: dimension 'level' of 3 is left over"),
        (lambda d: d, {"fields": ["z[level=400]"]}, r"level=400 is not there once.*\[300, 500, 8"),
        (lambda d: d, {"fields": ["z[height=400]"]}, "z: no dimension 'height' with coordinates"),
        (lambda d: d, {"inputs": ["t2m"]}, "t2m: varies in time, so it is no input"),
        (lambda d: d, {"parameters": ["title"]}, "title: is not one number"),
        (lambda d: d, {"parameters": ["ch4"]}, "no attribute or variable 'ch4'"),
        (lambda d: d.rename(longitude="lon"), {}, "no dimension 'longitude'.*found .*'lon'"),
        (lambda d: d.drop_vars("longitude"), {}, "dimension 'longitude' has no coordinates"),
        (lambda d: d.assign_coords(longitude=LONGITUDE**1.1), {}, "longitude: a step of .* entr"),
        (lambda d: d.isel(longitude=[0, 1, 3, 2, 4, 5, 6, 7]), {}, "longitude: the values do not"),
        (closed, {}, r"longitude: 9 points 45 apart do not fill the period \(0.0, 360.0\)"),
        (lambda d: d.assign(t2m=d.t2m.isel(latitude=0)), {}, "t2m: no dimension 'latitude'"),
        (lambda d: d.assign(t2m=d.t2m.astype(str)), {}, "t2m: expected numbers"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_the_card_is_one_clear_line(tmp_path, change, options, expected):
    path = write(change(series()), tmp_path / "a.nc")
    with pytest.raises(DataError, match=f"^{path}: .*{expected}") as caught:
        XarrayGrid(path, card(**options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"fields": ["z[500]"]}, r"f0: raw: '500' is not like level=500"),
        ({"fields": ["z[level=5e]"]}, r"f0: raw: 'level=5e' is not like"),
        ({"fields": ["z[level"]}, r"f0: raw: 'z\[level' is not like"),
        ({"unit": "fortnight"}, "time.unit: 'fortnight'"),
    ],
)
def test_a_card_that_cannot_be_meant_is_a_config_error(tmp_path, options, expected):
    with pytest.raises(ConfigError, match=expected):
        XarrayGrid(write(series(), tmp_path / "a.nc"), card(**options))


@pytest.mark.parametrize("content", [b"", b"GRIB....7777", b"CDF\x01xx", b"\x89HDF\r\n\x1a\nxxxx"])
def test_a_file_of_something_else_is_one_clear_line(tmp_path, content):
    path = tmp_path / "a.nc"
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=f"^{path}: (neither NetCDF|cannot be opened|HDF5 cannot)"
    ) as caught:
        XarrayGrid(path, card())
    assert "\n" not in str(caught.value)


def test_only_a_folder_with_zarrs_marks_is_a_store(tmp_path):
    with pytest.raises(DataError, match="a folder that is no Zarr store"):
        XarrayGrid(tmp_path, card())
    with pytest.raises(DataError, match="no such file"):
        XarrayGrid(tmp_path / "a.nc", card())
    assert is_zarr(write(series(), tmp_path / "a.zarr"))
    assert not is_zarr(tmp_path)


@pytest.mark.parametrize("share", [0.97, 0.6, 0.2, 0.01])
def test_a_truncated_file_is_one_clear_line(tmp_path, share):
    path = write(series(), tmp_path / "a.nc")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=f"^{path}: .*truncated") as caught:
        XarrayGrid(path, card())
    assert "\n" not in str(caught.value)


def test_without_xarray_the_extra_is_named(tmp_path, monkeypatch):
    path = write(series(), tmp_path / "a.nc")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "xarray" else found(name)
    )
    with pytest.raises(MissingExtraError, match="xarray: not installed") as caught:
        XarrayGrid(path, card())
    assert caught.value.exit_code == 7
    assert caught.value.hint == "pip install 'universal-physics-stack[climate]'"


def test_the_shipped_card_reads_a_store_of_the_names_it_states(tmp_path):
    shipped = load_card("era5_64x32")
    north, east = -87.1875 + 5.625 * np.arange(32), 5.625 * np.arange(64)
    flat, full = (("time", "longitude", "latitude"), (80, 64, 32)), ("longitude", "latitude")
    aloft = (("time", "level", *full), np.full((80, 2, 64, 32), [[[[5.0]], [[6.0]]]], np.float32))
    surface = ["2m_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind",
               "mean_sea_level_pressure"]  # fmt: skip
    data = xarray.Dataset(
        {name: (flat[0], np.full(flat[1], n, np.float32)) for n, name in enumerate(surface)}
        | {"temperature": aloft, "geopotential": aloft}
        | {n: (full, np.ones((64, 32))) for n in ("geopotential_at_surface", "land_sea_mask")},
        coords={"latitude": north, "longitude": east, "level": [850, 500],
                "time": ("time", 6 * np.arange(80), {"units": "hours since 1959-01-01"})},
    )  # fmt: skip
    path = write(data, tmp_path / "1959-64x32_equiangular_conservative.zarr")
    reader = XarrayGrid(path, shipped)
    found = reader.read(slice(0, 2), slice(0, 40))
    assert found.shape == (2, 40, 32, 64, 6)
    np.testing.assert_array_equal(found[0, 0, 0, 0], [0, 1, 2, 3, 5, 6])
    assert reader.read_inputs(slice(0, 2)).shape == (2, 32, 64, 2)
    reader.close()
