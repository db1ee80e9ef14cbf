"""What every layout reader offers to the converter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import h5py
import numpy as np
import numpy.typing as npt

from ups.errors import DataError, translated_os_errors
from ups.registry import DatasetCard, Parameter

Array = npt.NDArray[Any]

_AGAIN = "fetch or generate the file again"


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


@runtime_checkable
class PlainTrajectories(RawTrajectories, Protocol):
    """A reader whose file may hold the values exactly as a store does."""

    def plain_offset(self) -> int | None:
        """Where in the file all values lie in one run of (trajectory, time, *space, channel),
        little-endian float32; None if they do not.
        """
        ...


def plain_offset(dataset: h5py.Dataset) -> int | None:
    """First byte of a contiguous little-endian float32 array in its file, else None."""
    if dataset.chunks is not None or dataset.dtype.str != "<f4":
        return None
    offset = dataset.id.get_offset()
    return None if offset is None else int(offset)


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


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translate what h5py and numpy raise when they meet a damaged or foreign file.

    Values that overflow or are no numbers pass quietly: who checks them says where they are.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    except MemoryError as error:
        raise DataError(
            f"{path}: one piece of it does not fit into memory",
            hint="if its stated shape is wrong, the file is damaged: fetch or generate it again",
        ) from error
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: damaged: {_short(error)}", hint=_AGAIN) from error


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, or say in one line why not."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with translated_os_errors(path, "reading"):
        path.open("rb").close()
    try:
        with reading(path):
            return h5py.File(path, "r")
    except DataError as error:
        text = str(error)
        if "truncated file" in text:
            what = "the file is truncated: it ends before its header says"
        elif "signature not found" in text:
            what = "not an HDF5 file"
        else:
            what = f"HDF5 cannot open it: {_short(error.__cause__ or error)}"
        raise DataError(f"{path}: {what}", hint=_AGAIN) from error


@contextmanager
def opening(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file that stays open if the block succeeds and is closed if it fails.

    Raises:
        DataError: The file cannot be opened, or HDF5 fails in the block.
    """
    file = open_hdf5(path)
    with ExitStack() as stack:
        stack.callback(file.close)
        with reading(path):
            yield file
        stack.pop_all()


def dataset_of(group: h5py.Group, key: str, path: Path) -> h5py.Dataset:
    """The array under `key`, whole and inside this file, or an error that lists what is there."""
    found = None
    if key in group:  # `get` would call an array missing that is there and damaged
        found = group[key]
    if not isinstance(found, h5py.Dataset):
        raise DataError(
            f"{path}: no array '{_within(group, key)}', found {_names(group)}",
            hint="is this a file of another dataset? ups data list",
        )
    _check_storage(found, _within(group, key), path)
    return found


def values_of(group: h5py.Group, key: str, path: Path) -> h5py.Dataset:
    """The floating-point array under `key`, with at least one entry along every axis."""
    found = dataset_of(group, key, path)
    if found.dtype.kind != "f":
        kind = _short(found.dtype)
        raise DataError(f"{path}: {_within(group, key)}: expected floating point, found {kind}")
    if found.size == 0:
        raise DataError(f"{path}: {_within(group, key)}: shape {found.shape} holds no values")
    return found


def _check_storage(dataset: h5py.Dataset, key: str, path: Path) -> None:
    """Values outside the file are in no checksum of it; bytes that are not there are no values."""
    if dataset.shape is None:
        raise DataError(f"{path}: {key}: an empty array without a shape")
    if dataset.is_virtual or dataset.external or dataset.file.filename != str(path):
        raise DataError(f"{path}: {key}: its values are stored in another file")
    if dataset.chunks:  # some may be left out or compressed away, but no trajectory has none
        needed, stored = -(-dataset.shape[0] // dataset.chunks[0]), dataset.id.get_num_chunks()
    else:
        needed, stored = dataset.nbytes, dataset.id.get_storage_size()
    if stored < needed and dataset.size:
        what = "chunks" if dataset.chunks else "bytes"
        raise DataError(
            f"{path}: {key}: shape {dataset.shape} needs {needed} {what}, {stored} are stored",
            hint=_AGAIN,
        )


def coordinate(group: h5py.Group, key: str, length: int, path: Path, *, extra: int = 0) -> Array:
    """A coordinate array of `length` entries as float64; up to `extra` more are cut off."""
    found, name = dataset_of(group, key, path), _within(group, key)
    if found.dtype.kind not in "fiu":
        raise DataError(f"{path}: {name}: expected numbers, found {_short(found.dtype)}")
    if found.ndim != 1 or not length <= len(found) <= length + extra:
        raise DataError(f"{path}: {name}: {found.shape} entries for {length} along the data's axis")
    return rising(np.asarray(found[()], dtype=np.float64), name, path)[:length]


def rising(values: Array, name: str, path: Path) -> Array:
    """`values` if they are finite and each is greater than the one before."""
    if not np.isfinite(values).all() or not (np.diff(values) > 0).all():
        raise DataError(f"{path}: {name}: the values do not rise from each to the next")
    return values


def parameter_rows(file: h5py.File, path: Path, card: DatasetCard, trajectories: int) -> Array:
    """(trajectory, parameter) float64: arrays in `parameters/`, else one number for the file."""
    drawn = {p.name: key for p in card.parameters if (key := f"parameters/{p.name}") in file}
    row = [0.0 if p.name in drawn else file_parameter(file, p, path, card) for p in card.parameters]
    rows = np.tile(np.asarray(row, np.float64), (trajectories, 1))
    for column, name in enumerate(card.parameter_names):
        if name in drawn:
            rows[:, column] = _drawn(file, drawn[name], path, trajectories)
    return rows


def _drawn(file: h5py.File, key: str, path: Path, trajectories: int) -> Array:
    found = dataset_of(file, key, path)
    if found.shape != (trajectories,) or found.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: {key}: {found.shape} of {_short(found.dtype)} for {trajectories} trajectories"
        )
    values = np.asarray(found[()], dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{path}: {key}: NaN or infinity")
    return values


def file_parameter(file: h5py.File, parameter: Parameter, path: Path, card: DatasetCard) -> float:
    """A parameter that is one number for the whole file: its attribute, or what the card lists."""
    name = parameter.attribute
    if name and name in file.attrs:
        value = np.asarray(file.attrs[name])
        if value.size != 1 or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            raise DataError(f"{path}: attribute '{name}': {_short(value)} is not a number")
        return float(value.reshape(()))
    published = card.source.file(path.name)
    if published and parameter.name in published.parameters:
        return published.parameters[parameter.name]
    missing = f"attribute '{name}'" if name else f"parameter '{parameter.name}'"
    raise DataError(f"{path}: {missing} is missing, found {_names(file.attrs)}")


def _within(group: h5py.Group, key: str) -> str:
    return f"{group.name or ''}/{key}".lstrip("/")


def _names(found: Mapping[str, Any]) -> str:
    """The names in a group or among attributes, at most ten of them."""
    names = sorted(found.keys())
    return _short(names) if len(names) <= 10 else f"{_short(names[:10])} and {len(names) - 10} more"


def _short(thing: object) -> str:
    """One line of at most 200 characters."""
    text = " ".join(str(thing).split())
    return text if len(text) <= 200 else f"{text[:197]}..."
