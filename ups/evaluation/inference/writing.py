"""A forecast as a file: HDF5, Zarr, NetCDF.

HDF5 holds the fields in one array, as `ups infer --input` reads them:

    /fields             (time, *space, channel) float32; of an ensemble (member, time, ...)
    /time               (time,) float64, from the last given frame; not for a steady problem
    /coords/<axis>      (points,) float64, on a grid
    /coords             (node, axis) float64, elsewhere; (time, node, axis) where nodes move
    /cells              (cell, corner) int32, on meshes
    /parameters/<name>  one number each
    attrs               format, run, stage, checkpoint_sha256, dataset, version, ups_version,
                        created, start, fields, units

Zarr (version 3) and NetCDF (classic, 64-bit offsets) hold one array for each field, with named
axes, units and the same attributes, as the CF conventions have them: (time, *axes) on a grid,
(time, node) elsewhere, and a UGRID topology on meshes. Outside of a mesh fields are NaN.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import zarr
from scipy.io import netcdf_file

import ups
from ups import files
from ups.errors import UsageError, did_you_mean, translated_os_errors
from ups.evaluation.inference.forecast import Forecast

Array = npt.NDArray[Any]
FORMAT = "ups-forecast-1"
DATA = (".h5", ".hdf5", ".zarr", ".nc")


@dataclass(frozen=True, eq=False)
class Variable:
    """An array with named axes and attributes."""

    dims: tuple[str, ...]
    values: Array
    attributes: dict[str, Any] = field(default_factory=dict)


def check_free(path: Path, *, force: bool) -> None:
    """Refuse to write over what is there.

    Raises:
        UsageError: The path is there, or with `force` is a folder other than a Zarr store.
    """
    if path.exists() and not force:
        raise UsageError(f"--out {path}: there already", hint="--force replaces it")
    if path.is_dir() and not (path.suffix == ".zarr" and (path / "zarr.json").is_file()):
        raise UsageError(f"--out {path}: is a folder, and is not replaced")


def write_forecast(forecast: Forecast, path: Path, *, force: bool = False) -> None:
    """Write a forecast, whole or not at all, in the format of the path's suffix.

    Raises:
        UsageError: It is there already, or ends in something else.
    """
    check_free(path, force=force)
    match path.suffix.lower():
        case ".h5" | ".hdf5":
            _write_hdf5(forecast, path)
        case ".zarr":
            _write_zarr(forecast, path)
        case ".nc":
            _write_netcdf(forecast, path)
        case suffix:
            raise UsageError(
                f"--out {path}: '{suffix}' cannot be written{did_you_mean(suffix, DATA)}",
                hint=f"end it in one of {', '.join(DATA)}",
            )


def attributes_of(forecast: Forecast) -> dict[str, str]:
    """Who made a forecast, from what."""
    return {
        "format": FORMAT,
        "run": forecast.run,
        "stage": forecast.stage,
        "checkpoint_sha256": forecast.checkpoint_sha256,
        "dataset": forecast.card.key,
        "version": forecast.version,
        "ups_version": ups.__version__,
        "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "start": forecast.start,
    }


def variables_of(forecast: Forecast) -> dict[str, Variable]:
    """One variable for each field, and what says where, when and under which parameters."""
    card, places = forecast.card, forecast.places
    found = _coordinates(forecast)
    timed = ("time",) if forecast.dt is not None else ()
    if timed:
        units = "1" if card.time.unit == "1" else card.time.unit
        about = {"units": units, "axis": "T", "long_name": "time since the last given frame"}
        found["time"] = Variable(timed, forecast.times, about)
    for spec in card.parameters:
        if spec.name in forecast.parameters:
            value = np.array(forecast.parameters[spec.name])
            found[spec.name] = Variable((), value, {"units": spec.unit, **_said(spec)})
    names = tuple(axis.name for axis in card.discretisation.axes)
    space = names if places.axes is not None else ("node",)
    members = ("member",) if forecast.is_ensemble else ()
    at = 1 if forecast.is_ensemble else 0
    for channel, one in enumerate(card.fields):
        values = forecast.fields[..., channel]
        values = values if timed else values.take(0, axis=at)
        about = {"units": one.unit, **_said(one)}
        if places.axes is None:
            about["coordinates"] = " ".join(names)
        if places.cells is not None:
            about |= {"mesh": "topology", "location": "node"}
        found[one.name] = Variable((*members, *timed, *space), values, about)
    return found


def _coordinates(forecast: Forecast) -> dict[str, Variable]:
    card, places = forecast.card, forecast.places
    axes = card.discretisation.axes
    if places.axes is not None:
        return {
            axis.name: Variable((axis.name,), values, {"units": axis.unit, "axis": letter})
            for axis, values, letter in zip(axes, places.axes, "XYZ", strict=False)
        }
    moving = forecast.positions
    dims = ("member", "time", "node") if forecast.is_ensemble else ("time", "node")
    found = {
        axis.name: Variable(
            ("node",) if moving is None else dims,
            places.coords[:, index] if moving is None else moving[..., index],
            {"units": axis.unit},
        )
        for index, axis in enumerate(axes)
    }
    if places.cells is not None:
        kind = "face" if len(axes) == 2 else "volume"
        found["cells"] = Variable(("cell", "corner"), places.cells.astype(np.int32),
                                  {"start_index": np.int32(0)})  # fmt: skip
        about = {
            "cf_role": "mesh_topology",
            "topology_dimension": np.int32(len(axes)),
            "node_coordinates": " ".join(axis.name for axis in axes),
            f"{kind}_node_connectivity": "cells",
        }
        found["topology"] = Variable((), np.array(0, np.int32), about)
    return found


def _said(spec: Any) -> dict[str, str]:
    return {"long_name": spec.description} if spec.description else {}


def _write_hdf5(forecast: Forecast, path: Path) -> None:
    card, places = forecast.card, forecast.places
    with files.atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file["fields"] = forecast.fields
        if forecast.dt is not None:
            file["time"] = forecast.times
        if places.axes is not None:
            for axis, values in zip(card.discretisation.axes, places.axes, strict=True):
                file[f"coords/{axis.name}"] = values
        else:
            file["coords"] = places.coords if forecast.positions is None else forecast.positions
        if places.cells is not None:
            file["cells"] = places.cells.astype(np.int32)
        for name, value in forecast.parameters.items():
            file[f"parameters/{name}"] = value
        file.attrs.update(attributes_of(forecast))
        file.attrs["fields"] = list(card.field_names)
        file.attrs["units"] = [one.unit for one in card.fields]


def _write_zarr(forecast: Forecast, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with translated_os_errors(path, "writing"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            group: Any = zarr.open_group(temporary, mode="w", zarr_format=3)
            for name, one in variables_of(forecast).items():
                array = group.create_array(
                    name, shape=one.values.shape, dtype=one.values.dtype, dimension_names=one.dims
                )
                array[...] = one.values
                array.attrs.update({key: _plain(value) for key, value in one.attributes.items()})
            group.attrs.update({"Conventions": "CF-1.11", **attributes_of(forecast)})
            if path.exists():
                shutil.rmtree(path)
            temporary.rename(path)
            files.flush(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_netcdf(forecast: Forecast, path: Path) -> None:
    with files.atomic_path(path) as temporary, netcdf_file(temporary, "w", version=2) as file:
        file.Conventions = "CF-1.11 UGRID-1.0" if forecast.places.cells is not None else "CF-1.11"
        for name, value in attributes_of(forecast).items():
            setattr(file, name, value)
        for name, one in variables_of(forecast).items():
            for axis, size in zip(one.dims, one.values.shape, strict=True):
                if axis not in file.dimensions:
                    file.createDimension(axis, size)
            kind = {"f": "f8" if one.values.dtype == np.float64 else "f4"}.get(
                one.values.dtype.kind, "i4"
            )
            variable = file.createVariable(name, kind, one.dims)
            variable[...] = one.values
            for key, value in one.attributes.items():
                setattr(variable, key, value)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
