"""The Well's HDF5 layout: scalar, vector and tensor fields of several trajectories in one file.

    dimensions/{time,<axis>}             coordinates, one array each
    boundary_conditions/<name>           bc_type, the axes it belongs to, a mask of where it holds
    scalars/<name>                       numbers for the file, for each trajectory or each time
    t{0,1,2}_fields/<name>               (trajectory, time, *space, *component)

Source:
    Ohana et al. 2024, The Well, arXiv:2412.00568, and the format's description in its repository.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ups.data.layouts import strided
from ups.data.layouts.base import (
    Array,
    coordinate,
    dataset_of,
    file_parameter,
    opening,
    reading,
)
from ups.data.layouts.spacing import straightened, uniform_step
from ups.data.layouts.the_well_boundaries import check_boundaries, flag, words
from ups.errors import ConfigError, DataError, did_you_mean
from ups.registry import DatasetCard, FieldSpec, Parameter

_ORDERS = {"t0_fields": 0, "t1_fields": 1, "t2_fields": 2}
_RAW = re.compile(r"(?:(t[012]_fields)/)?([^/\[\]]+)(?:\[(\d+(?:, ?\d+)?)\])?")
# Simulations write at the first solver step after the due time: frames come up to a solver step
# late, one or two per cent of the interval between frames.
_TIME_TOLERANCE, _SPACE_TOLERANCE = 2e-2, 1e-3


class TheWell:
    """Read one file of The Well's layout.

    `FieldSpec.raw` names an array, with its group where two groups hold one of that name, and the
    component of a vector or tensor: `density`, `velocity[0]`, `t2_fields/D[0,1]`. What the file
    stores once for all trajectories, all times or along an axis is repeated. A field without time
    may stand under the card's `inputs`, or under `fields`, where it is repeated in every frame.
    Parameters come from `scalars/`, else from the root's attributes. Of a symmetric tensor either
    of two equal components may be named: The Well stores both.

    Coordinates are kept as they are stored: the axes of a spherical file are its angles, and
    whoever writes its card says so. Uneven ones (a logarithmic radius) are refused. Times are
    made exactly even, from the first to the last stored one.

    Attributes:
        times: (time,).
        coords: (points,) for each axis.
        parameters: (trajectory, parameter) float64.

    Raises:
        DataError: An array or attribute is missing, shapes disagree, the axes or the boundaries
            are not those of the card, a grid or the time step is uneven, coordinates vary between
            trajectories, or a parameter varies in time.
    """

    def __init__(self, path: Path, card: DatasetCard) -> None:
        self.path = path
        self.times: Array
        self.coords: tuple[Array, ...]
        self.parameters: Array
        with opening(path) as file:
            self._file = file
            self.num_trajectories = _count(file, path)
            axes = _axis_names(file, card, path)
            self.times = _times(file, card, path)
            self.coords = tuple(_coords(file, axis, path) for axis in axes)
            check_boundaries(file, axes, card, path)
            self._fields = self._sources(card.fields)
            self._inputs = self._sources(card.inputs)
            for source in self._inputs:
                _check_constant(source, path)
            self._channels = len(card.fields), len(card.inputs)
            columns = [_column(file, p, self.num_trajectories, card, path) for p in card.parameters]
            empty = np.empty((self.num_trajectories, 0), np.float64)
            self.parameters = np.stack(columns, axis=1) if columns else empty

    def _sources(self, fields: Sequence[FieldSpec]) -> tuple[_Source, ...]:
        """The arrays behind `fields`, each once, however many of its components are wanted."""
        wanted: dict[str, list[tuple[int, tuple[int, ...]]]] = {}
        for channel, field in enumerate(fields):
            key, component = _resolve(self._file, field, self.path)
            wanted.setdefault(key, []).append((channel, component))
        axes = tuple(len(coord) for coord in self.coords)
        shape = (self.num_trajectories, len(self.times), *axes)
        return tuple(
            _source(dataset_of(self._file, key, self.path), shape, channels, self.path)
            for key, channels in wanted.items()
        )

    def read(self, trajectories: slice, frames: slice, stride_x: int = 1) -> Array:
        return self._read(self._fields, self._channels[0], trajectories, frames, stride_x)

    def read_inputs(self, trajectories: slice, stride_x: int = 1) -> Array | None:
        if not self._inputs:
            return None
        block = self._read(self._inputs, self._channels[1], trajectories, slice(0, 1), stride_x)
        return block[:, 0]

    def _read(
        self,
        sources: Sequence[_Source],
        channels: int,
        trajectories: slice,
        frames: slice,
        stride_x: int,
    ) -> Array:
        space = tuple(slice(0, len(coord), stride_x) for coord in self.coords)
        samples = range(self.num_trajectories)[trajectories]
        times = range(len(self.times))[frames]
        points = [len(coord[::stride_x]) for coord in self.coords]
        out = np.empty((len(samples), len(times), *points, channels), np.float32)
        with reading(self.path):
            for source in sources:
                source.fill(out, trajectories, frames, space)
        return out

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class _Source:
    """One array of the file, which axes it has, and the channels its components become.

    Attributes:
        varies: Along (trajectory, time, *space); where not, it is repeated.
        kept: Space axes along which it does not vary hold one entry; else they are absent.
        components: Their number over the array's last axes.
        channels: (channel, component in C order).
    """

    dataset: h5py.Dataset
    varies: tuple[bool, ...]
    kept: bool
    components: int
    channels: tuple[tuple[int, int], ...]

    def fill(self, out: Array, samples: slice, frames: slice, space: tuple[slice, ...]) -> None:
        """Write its channels of `out`, (trajectory, time, *space, channel)."""
        selection: list[slice] = []
        for axis, (varies, part) in enumerate(
            zip(self.varies, (samples, frames, *space), strict=True)
        ):
            if varies:
                selection.append(part)
            elif self.kept and axis > 1:
                selection.append(slice(0, 1))
        selection += [slice(None)] * (self.dataset.ndim - len(selection))
        sizes = [
            len(range(size)[part]) for size, part in zip(self.dataset.shape, selection, strict=True)
        ]
        block = np.empty(sizes, np.float32)
        strided.fill(block, self.dataset, tuple(selection))
        shape = [size if v else 1 for v, size in zip(self.varies, out.shape[:-1], strict=True)]
        block = block.reshape(*shape, self.components)
        for channel, component in self.channels:
            out[..., channel] = block[..., component]


def _source(
    dataset: h5py.Dataset,
    shape: tuple[int, ...],
    wanted: Sequence[tuple[int, tuple[int, ...]]],
    path: Path,
) -> _Source:
    """Check an array against (trajectory, time, *space) and place its components."""
    name = dataset.name.lstrip("/")
    order = _ORDERS[name.split("/")[0]]
    if dataset.dtype.kind not in "fiub":
        raise DataError(f"{path}: {name}: expected numbers, found {dataset.dtype}")
    by_axis = np.atleast_1d(np.asarray(dataset.attrs.get("dim_varying", True))).astype(bool)
    if by_axis.size not in (1, len(shape) - 2):
        raise DataError(f"{path}: {name}: dim_varying: {by_axis.size} of {len(shape) - 2} axes")
    axes = np.broadcast_to(by_axis, len(shape) - 2).tolist()
    varies = (flag(dataset, "sample_varying", True), flag(dataset, "time_varying", True), *axes)
    kept, trailing = _match(dataset, shape, varies, order, path)
    channels = [
        (channel, _flat(index, order, trailing, f"{path}: {name}")) for channel, index in wanted
    ]
    return _Source(dataset, varies, kept, math.prod(trailing), tuple(channels))


def _match(
    dataset: h5py.Dataset, shape: tuple[int, ...], varies: tuple[bool, ...], order: int, path: Path
) -> tuple[bool, tuple[int, ...]]:
    """Whether constant space axes are kept, and the shape of the components."""
    allowed = []
    for kept in (False, True):
        expected = tuple(
            size if along else 1
            for axis, (size, along) in enumerate(zip(shape, varies, strict=True))
            if along or (kept and axis > 1)
        )
        trailing = dataset.shape[len(expected) :]
        # A tensor's two axes may be stored as one.
        if dataset.shape[: len(expected)] == expected and len(trailing) in {order, min(order, 1)}:
            return kept, trailing
        allowed.append(expected)
    name = dataset.name.lstrip("/")
    raise DataError(
        f"{path}: {name}: shape {dataset.shape}, expected {allowed[0]} and the components of a "
        f"{('scalar', 'vector', 'tensor')[order]}"
    )


def _flat(index: tuple[int, ...], order: int, trailing: tuple[int, ...], where: str) -> int:
    """The place of a component in C order."""
    if len(index) != order:
        example = ("no index", "one index, [0]", "two indices, [0,1]")[order]
        raise DataError(f"{where}: a {('scalar', 'vector', 'tensor')[order]} needs {example}")
    side = math.isqrt(math.prod(trailing)) if order == 2 else (*trailing, 1)[0]
    if any(i >= side for i in index) or (order == 2 and side**2 != math.prod(trailing)):
        raise DataError(f"{where}: no component {list(index)} among {trailing}")
    return sum(i * side ** (order - 1 - place) for place, i in enumerate(index))


def _resolve(file: h5py.File, field: FieldSpec, path: Path) -> tuple[str, tuple[int, ...]]:
    """The array and the component that a field's raw name means."""
    raw = field.raw or field.name
    parts = _RAW.fullmatch(raw)
    if parts is None:
        raise ConfigError(
            f"{field.name}: raw: '{raw}' is not like density, velocity[0] or t2_fields/D[0,1]"
        )
    group, array, index = parts.groups()
    present = {
        f"{name}/{array_name}" for name in _ORDERS for array_name in _members(file, name, path)
    }
    found = [f"{g}/{array}" for g in ([group] if group else _ORDERS) if f"{g}/{array}" in present]
    if not found:
        raise DataError(
            f"{path}: no field '{raw}'{did_you_mean(raw, [p.split('/')[1] for p in present])}, "
            f"found {sorted(present)}",
            hint="is this a file of another dataset? ups data list",
        )
    if len(found) > 1:
        raise DataError(f"{path}: '{raw}' may be any of {found}: name it with its group")
    return found[0], tuple(int(i) for i in index.split(",")) if index else ()


def _members(file: h5py.File, group: str, path: Path) -> list[str]:
    found = file.get(group)
    if found is not None and not isinstance(found, h5py.Group):
        raise DataError(f"{path}: {group}: expected a group of arrays")
    return list(found or ())


def _check_constant(source: _Source, path: Path) -> None:
    if source.varies[1]:
        name = source.dataset.name.lstrip("/")
        raise DataError(
            f"{path}: {name}: varies in time, so it is no input",
            hint="list it under `fields` of the card",
        )


def _count(file: h5py.File, path: Path) -> int:
    value = np.asarray(file.attrs.get("n_trajectories", ()))
    if value.size != 1 or value.dtype.kind not in "iu" or int(value.reshape(())) < 1:
        raise DataError(
            f"{path}: attribute 'n_trajectories' is not a number of trajectories",
            hint="is this a file of The Well's layout?",
        )
    return int(value.reshape(()))


def _axis_names(file: h5py.File, card: DatasetCard, path: Path) -> tuple[str, ...]:
    """The file's space axes, which must be the card's, in the same order."""
    dimensions = file.get("dimensions")
    if not isinstance(dimensions, h5py.Group):
        raise DataError(f"{path}: no group 'dimensions', found {sorted(file)}")
    stored = words(dimensions.attrs.get("spatial_dims", ()))
    expected = tuple(axis.raw or axis.name for axis in card.discretisation.axes)
    if stored != expected:
        raise DataError(
            f"{path}: dimensions: spatial_dims {list(stored)}, the card has {list(expected)}",
            hint="the card's axes follow the file's order; `raw` gives an axis the file's name",
        )
    return stored


def _coords(file: h5py.File, axis: str, path: Path) -> Array:
    values = _shared(file, f"dimensions/{axis}", path)
    uniform_step(
        values, f"dimensions/{axis}", path, tolerance=_SPACE_TOLERANCE,
        hint="only even grids are read: interpolate the fields to one first",
    )  # fmt: skip
    return values


def _times(file: h5py.File, card: DatasetCard, path: Path) -> Array:
    values = _shared(file, "dimensions/time", path)
    step = uniform_step(values, "dimensions/time", path, tolerance=_TIME_TOLERANCE)
    stated = card.time.step
    if step and stated and abs(step - stated) > _TIME_TOLERANCE * stated:
        raise DataError(f"{path}: dimensions/time: frames are {step:g} apart, the card: {stated:g}")
    return straightened(values, step)


def _shared(file: h5py.File, key: str, path: Path) -> Array:
    """A coordinate that all trajectories and times share."""
    found = dataset_of(file, key, path)
    for name in ("sample_varying", "time_varying"):
        if flag(found, name, False):
            what = "trajectories" if name == "sample_varying" else "times"
            raise DataError(f"{path}: {key}: differs between {what} ({name}); one grid is needed")
    if found.ndim != 1:
        raise DataError(f"{path}: {key}: shape {found.shape} is not one axis")
    return coordinate(file, key, len(found), path)


def _column(
    file: h5py.File, parameter: Parameter, trajectories: int, card: DatasetCard, path: Path
) -> Array:
    """(trajectory,) float64: a scalar of the file or of each trajectory, else a root attribute."""
    name = (parameter.attribute or parameter.name).removeprefix("scalars/")
    if name not in _members(file, "scalars", path):
        value = file_parameter(file, parameter.model_copy(update={"attribute": name}), path, card)
        return np.full(trajectories, value, np.float64)
    key = f"scalars/{name}"
    found = dataset_of(file, key, path)
    if flag(found, "time_varying", False):
        raise DataError(
            f"{path}: {key}: varies in time, so it is no parameter",
            hint="a parameter is one number for a trajectory: take it out of the card",
        )
    size = trajectories if flag(found, "sample_varying", False) else 1
    if found.size != size or found.dtype.kind not in "fiu":
        raise DataError(f"{path}: {key}: {found.shape} of {found.dtype}, expected {size} numbers")
    values: Any = np.asarray(found[()], np.float64).reshape(-1)
    if not np.isfinite(values).all():
        raise DataError(f"{path}: {key}: NaN or infinity")
    return np.full(trajectories, values[0]) if size == 1 else values
