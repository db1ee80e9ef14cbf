"""Meshes and particles in HDF5: one group of arrays for each trajectory, read and written.

    /time                   (time,) float64; one entry for a static problem
    /<digits>/coords        (node, dim), or (time, node, dim) for what moves
    /<digits>/fields/<raw>  (time, node) for each field of the card
    /<digits>/inputs/<raw>  (node,) for each input of the card
    /<digits>/cells         (cell, corner) integers, meshes only
    /<digits>/tags          (node,) uint8: 0 inside, 1, 2, ... on the parts of the boundary

A parameter is an attribute of the group, else of the file, else what the card's list says.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np

from ups.data.bulk import reserve
from ups.data.layouts.base import (
    Array,
    PointTrajectory,
    coordinate,
    dataset_of,
    file_parameter,
    open_hdf5,
    reading,
)
from ups.errors import DataError
from ups.registry import DatasetCard, FieldSpec, Parameter

_DIGITS = re.compile(r"\d+")
_AROUND_BYTES = 2**16
_REFETCH = "fetch or generate the file again"


class PointsHdf5:
    """Read trajectories on meshes or of particles, each with its own nodes.

    Everything that the card and the other arrays imply is checked when a trajectory is read.
    Values of fields and inputs may be NaN or infinite: the converter decides about those.

    Attributes:
        times: (time,).
        parameters: (trajectory, parameter) float64.

    Raises:
        DataError: An array is missing or of another shape or kind, a cell names a node that is
            not there, a coordinate is not finite, a trajectory's number is missing or doubled.
    """

    def __init__(self, path: Path, card: DatasetCard) -> None:
        self.path = path
        self.times: Array
        self.parameters: Array
        self._card = card
        self._fields = raw_names(card.fields, path)
        self._inputs = raw_names(card.inputs, path)
        self._file = open_hdf5(path)
        with ExitStack() as opened, reading(path):
            opened.callback(self._file.close)
            time = dataset_of(self._file, "time", path)
            if time.ndim != 1 or not time.size:
                raise DataError(f"{path}: time: shape {time.shape} is not (time,)")
            self.times = coordinate(self._file, "time", time.shape[0], path)
            self._groups = _numbered(self._file, path)
            self.num_trajectories = len(self._groups)
            self.parameters = self._parameters()
            opened.pop_all()  # all is well: the file stays open until `close`

    def read(self, trajectory: int) -> PointTrajectory:
        """One trajectory, checked; coordinates, fields and inputs as float32."""
        name = self._groups[trajectory]
        with reading(self.path):
            group = self._file[name]
            coords = self._coords(group, f"{self.path}: {name}")
            nodes = coords.shape[-2]
            return PointTrajectory(
                coords=coords,
                fields=self._stacked(group, "fields", self._fields, (len(self.times), nodes)),
                inputs=self._stacked(group, "inputs", self._inputs, (nodes,))
                if self._inputs
                else None,
                cells=self._cells(group, nodes),
                tags=self._tags(group, nodes),
            )

    def close(self) -> None:
        self._file.close()

    def _parameters(self) -> Array:
        rows = [
            [self._parameter(self._file[name], parameter) for parameter in self._card.parameters]
            for name in self._groups
        ]
        return np.asarray(rows, np.float64).reshape(len(rows), len(self._card.parameters))

    def _parameter(self, group: h5py.Group, parameter: Parameter) -> float:
        name = parameter.attribute or parameter.name
        if name not in group.attrs:
            named = parameter.model_copy(update={"attribute": name})
            return file_parameter(self._file, named, self.path, self._card)
        value = np.asarray(group.attrs[name])
        if value.size != 1 or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            raise DataError(f"{self.path}: {group.name}: attribute '{name}' is not a number")
        return float(value.reshape(()))

    def _coords(self, group: h5py.Group, where: str) -> Array:
        stored = _array(group, "coords", "f", self.path)
        frames, dims = len(self.times), self._card.num_dims
        fits = stored.ndim == 2 or (stored.ndim == 3 and stored.shape[0] == frames)
        if not fits or stored.shape[-1] != dims or not stored.size:
            raise DataError(
                f"{where}: coords: shape {stored.shape} is neither (node, {dims}) "
                f"nor ({frames}, node, {dims})"
            )
        coords: Array = np.asarray(stored[()], dtype=np.float32)
        if not np.isfinite(coords).all():
            node = int(np.argwhere(~np.isfinite(coords))[0][-2])
            raise DataError(f"{where}: coords: node {node} has no finite position", hint=_REFETCH)
        return coords

    def _stacked(
        self, group: h5py.Group, kind: str, names: Sequence[str], shape: tuple[int, ...]
    ) -> Array:
        """The named arrays side by side, (*shape, channel) float32."""
        out = np.empty((*shape, len(names)), np.float32)
        for index, name in enumerate(names):
            stored = _array(group, f"{kind}/{name}", "f", self.path)
            if stored.shape != shape:
                raise DataError(
                    f"{self.path}: {group.name[1:]}: {kind}/{name}: expected shape {shape}, "
                    f"found {stored.shape}"
                )
            with np.errstate(over="ignore"):  # beyond float32 it becomes infinite, and is caught
                out[..., index] = stored[()]
        return out

    def _cells(self, group: h5py.Group, nodes: int) -> Array | None:
        where = f"{self.path}: {group.name[1:]}: cells"
        is_mesh = self._card.discretisation.kind == "mesh"
        if "cells" not in group and not is_mesh:
            return None
        if not is_mesh:
            raise DataError(f"{where}: particles have none")
        stored = _array(group, "cells", "iu", self.path)
        corners = self._card.num_dims + 1
        if stored.ndim != 2 or stored.shape[1] != corners or not stored.shape[0]:
            raise DataError(f"{where}: expected shape (cell, {corners}), found {stored.shape}")
        cells = stored[()]
        if int(cells.min()) < 0 or int(cells.max()) >= nodes:
            bad = int(cells.min()) if int(cells.min()) < 0 else int(cells.max())
            raise DataError(f"{where}: node {bad} is not one of the {nodes} nodes", hint=_REFETCH)
        return np.asarray(cells, np.int32)

    def _tags(self, group: h5py.Group, nodes: int) -> Array | None:
        if "tags" not in group:
            return None
        where = f"{self.path}: {group.name[1:]}: tags"
        stored = _array(group, "tags", "iu", self.path)
        if stored.shape != (nodes,):
            raise DataError(f"{where}: expected shape ({nodes},), found {stored.shape}")
        tags = stored[()]
        if int(tags.min()) < 0 or int(tags.max()) > 255:
            raise DataError(f"{where}: expected 0 to 255, found {tags.min()} to {tags.max()}")
        return np.asarray(tags, np.uint8)


class PointsWriter:
    """Write the layout, one trajectory after the other; the file is whole after each.

    The space of a trajectory is reserved before HDF5 touches the file, because a disk that fills
    up inside an HDF5 write can crash the process (see `ups.data.bulk`). Give it a temporary name
    from `ups.files.atomic_path`, whose error handling makes one line of a full disk.

    Args:
        path: Is replaced where it exists.
        times: (time,), rising.
        card: Names the arrays and attributes, and what a trajectory must have.

    Raises:
        DataError: A trajectory does not fit the card or the times.
        OSError: The disk is full; what was appended before is still whole.
    """

    def __init__(self, path: Path, times: Array, card: DatasetCard) -> None:
        self.path = path
        self.num_trajectories = 0
        self._card = card
        self._frames = len(times)
        self._fields = raw_names(card.fields, path)
        self._inputs = raw_names(card.inputs, path)
        path.unlink(missing_ok=True)
        reserve(path, times.nbytes)
        with h5py.File(path, "w") as file:
            file["time"] = np.asarray(times, np.float64)

    def append(self, trajectory: PointTrajectory, parameters: Mapping[str, float]) -> None:
        """Add the next trajectory and its parameters."""
        self._check(trajectory, parameters)
        arrays = dict(self._arrays(trajectory))
        payload = sum(array.nbytes for array in arrays.values()) + _AROUND_BYTES
        reserve(self.path, self.path.stat().st_size + payload)
        with h5py.File(self.path, "r+") as file:
            group = file.create_group(f"{self.num_trajectories:06d}")
            for name, array in arrays.items():
                group[name] = array
            for parameter in self._card.parameters:
                value = float(parameters[parameter.name])
                group.attrs[parameter.attribute or parameter.name] = value
        self.num_trajectories += 1

    def _arrays(self, trajectory: PointTrajectory) -> Iterator[tuple[str, Array]]:
        yield "coords", np.asarray(trajectory.coords, np.float32)
        for index, name in enumerate(self._fields):
            yield f"fields/{name}", np.asarray(trajectory.fields[..., index], np.float32)
        if trajectory.inputs is not None:
            for index, name in enumerate(self._inputs):
                yield f"inputs/{name}", np.asarray(trajectory.inputs[:, index], np.float32)
        if trajectory.cells is not None:
            yield "cells", np.asarray(trajectory.cells, np.int32)
        if trajectory.tags is not None:
            yield "tags", np.asarray(trajectory.tags, np.uint8)

    def _check(self, trajectory: PointTrajectory, parameters: Mapping[str, float]) -> None:
        where = f"{self.path}: trajectory {self.num_trajectories}"
        nodes, dims = trajectory.coords.shape[-2], self._card.num_dims
        given = {
            "coords": (trajectory.coords.shape, ((nodes, dims), (self._frames, nodes, dims))),
            "fields": (trajectory.fields.shape, ((self._frames, nodes, len(self._fields)),)),
            "inputs": (
                trajectory.inputs.shape if trajectory.inputs is not None else (nodes, 0),
                ((nodes, len(self._inputs)),),
            ),
        }
        for name, (shape, allowed) in given.items():
            if shape not in allowed:
                expected = " or ".join(map(str, allowed))
                raise DataError(f"{where}: {name}: expected shape {expected}, found {shape}")
        if (trajectory.cells is not None) != (self._card.discretisation.kind == "mesh"):
            raise DataError(f"{where}: cells: a mesh has them, particles have none")
        if set(parameters) != set(self._card.parameter_names):
            expected = ", ".join(self._card.parameter_names) or "none"
            raise DataError(f"{where}: parameters: {sorted(parameters)}, the card has {expected}")


def raw_names(specs: Sequence[FieldSpec], path: Path) -> tuple[str, ...]:
    """The names of fields or inputs in the raw file; two may not share one."""
    names = tuple(spec.raw or spec.name for spec in specs)
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise DataError(f"{path}: the card reads two fields from '{doubled[0]}'")
    return names


def _numbered(file: h5py.File, path: Path) -> list[str]:
    """The groups named by digits, in the order of their numbers, which must leave no gap."""
    names = sorted((name for name in file if _DIGITS.fullmatch(name)), key=int)
    names = [name for name in names if file.get(name, getclass=True) is h5py.Group]
    if not names:
        raise DataError(
            f"{path}: no group named by a number, found {sorted(file)[:8]}",
            hint="is this a file of another dataset? ups data list",
        )
    numbers = [int(name) for name in names]
    for number, following in itertools.pairwise(numbers):
        if number == following:
            raise DataError(f"{path}: two groups are trajectory {number}", hint=_REFETCH)
        if following != number + 1:
            raise DataError(f"{path}: trajectory {number + 1} is missing", hint=_REFETCH)
    return names


def _array(group: h5py.Group, name: str, kinds: str, path: Path) -> h5py.Dataset:
    """The array `name` of a trajectory, whole, inside this file, of one of numpy's `kinds`."""
    stored = dataset_of(group, name, path)
    if stored.dtype.kind not in kinds:
        expected = "floating point" if kinds == "f" else "integers"
        raise DataError(
            f"{path}: {group.name[1:]}: {name}: expected {expected}, found {stored.dtype}"
        )
    return stored
