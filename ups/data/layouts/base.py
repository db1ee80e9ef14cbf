"""What every layout reader offers to the converter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import h5py
import numpy as np
import numpy.typing as npt

from ups.errors import DataError, translated_os_errors
from ups.registry import DatasetCard, Parameter

Array = npt.NDArray[Any]


@runtime_checkable
class RawTrajectories(Protocol):
    """One raw file of a grid dataset as trajectories, read in pieces of any size.

    Attributes:
        times: (time,), the card's unit; one entry for a static problem.
        coords: One (points,) array per space axis, in the card's order.
        parameters: (trajectory, parameter) float64, in the card's order.
    """

    path: Path
    num_trajectories: int
    times: Array
    coords: tuple[Array, ...]
    parameters: Array

    def read(self, trajectories: slice, frames: slice, stride_x: int = 1) -> Array:
        """Values as (trajectory, time, *space, channel) float32, channels in the card's order.

        Args:
            trajectories: With a start and a stop, without a step.
            frames: May have a step; only what it names is read.
            stride_x: Every which point along each space axis.
        """
        ...

    def read_inputs(self, trajectories: slice, stride_x: int = 1) -> Array | None:
        """The card's `inputs` as (trajectory, *space, input) float32; None where it has none."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class PointTrajectory:
    """One trajectory on a mesh or of particles, physical units.

    Attributes:
        coords: (node, dim) float32 for a mesh at rest, (time, node, dim) for what moves.
        fields: (time, node, channel) float32, channels in the card's order.
        inputs: (node, input) float32: coefficient, radius; None where the card has none.
        cells: (cell, corner) int32 of a mesh: triangles or tetrahedra; None for particles.
        tags: (node,) uint8, 0 inside, 1, 2, ... on the parts of the boundary; None if unknown.
    """

    coords: Array
    fields: Array
    inputs: Array | None = None
    cells: Array | None = None
    tags: Array | None = None


@runtime_checkable
class RawPoints(Protocol):
    """One raw file of a mesh or particle dataset; every trajectory may have its own nodes.

    Attributes:
        times: (time,), the card's unit; one entry for a static problem.
        parameters: (trajectory, parameter) float64, in the card's order.
    """

    path: Path
    num_trajectories: int
    times: Array
    parameters: Array

    def read(self, trajectory: int) -> PointTrajectory: ...

    def close(self) -> None: ...


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, or say in one line why not."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with translated_os_errors(path, "reading"):
        path.open("rb").close()
    try:
        return h5py.File(path, "r")
    except OSError as error:
        text = str(error)
        if "truncated file" in text:
            what = "the file is truncated: it ends before its header says"
        elif "signature not found" in text:
            what = "not an HDF5 file"
        else:
            what = f"HDF5 cannot open it: {' '.join(text.split())}"
        raise DataError(f"{path}: {what}", hint="fetch or generate the file again") from error


def dataset_of(file: h5py.File, key: str, path: Path) -> h5py.Dataset:
    """The array under `key`, or an error that lists what is there."""
    if key not in file or not isinstance(file[key], h5py.Dataset):
        raise DataError(
            f"{path}: no array '{key}', found {sorted(file.keys())}",
            hint="is this a file of another dataset? ups data list",
        )
    return file[key]


def coordinate(file: h5py.File, key: str, length: int, path: Path, *, extra: int = 0) -> Array:
    """A coordinate array of `length` entries as float64; up to `extra` more are cut off."""
    values = np.asarray(dataset_of(file, key, path)[()], dtype=np.float64)
    if values.ndim != 1 or not length <= len(values) <= length + extra:
        raise DataError(f"{path}: {key}: {values.shape} entries for {length} along the data's axis")
    if not np.isfinite(values).all() or (len(values) > 1 and not (np.diff(values) > 0).all()):
        raise DataError(f"{path}: {key}: the values do not rise from each to the next")
    return values[:length]


def file_parameter(file: h5py.File, parameter: Parameter, path: Path, card: DatasetCard) -> float:
    """A parameter that is one number for the whole file: its attribute, or what the card lists."""
    if parameter.attribute and parameter.attribute in file.attrs:
        value = np.asarray(file.attrs[parameter.attribute])
        if value.size != 1 or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            raise DataError(f"{path}: attribute '{parameter.attribute}': {value} is not a number")
        return float(value.reshape(()))
    published = card.source.file(path.name)
    if published and parameter.name in published.parameters:
        return published.parameters[parameter.name]
    raise DataError(
        f"{path}: attribute '{parameter.attribute}' is missing, found {sorted(file.attrs)}"
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translate what h5py raises in the middle of a damaged file."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: damaged: {' '.join(str(error).split())}",
            hint="fetch or generate the file again",
        ) from error
