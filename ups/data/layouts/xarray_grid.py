"""NetCDF and Zarr opened by xarray: named variables on a grid, cut into trajectories in time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ups.data.layouts.base import Array, rising
from ups.data.layouts.spacing import uniform_step
from ups.data.layouts.xarray_open import foreign, open_dataset, values_of
from ups.data.layouts.xarray_time import time_step
from ups.errors import ConfigError, DataError, did_you_mean
from ups.registry import Axis, DatasetCard, FieldSpec, Parameter

_RAW = re.compile(r"([^\[\]]+)(?:\[([^\[\]]+)\])?")
_CHOICE = re.compile(r"\s*([^=\s]+)\s*=\s*([-+.\deE]+)\s*")
_TIME_NAMES = ("time", "valid_time", "t")
_SAMPLE_NAMES = ("sample", "trajectory")
# Gaussian latitudes are uneven by less than this, rounded decimal coordinates by far less.
_SPACE_TOLERANCE = 1e-2


class XarrayGrid:
    """Read one NetCDF file or one Zarr store, such as a climate reanalysis.

    `FieldSpec.raw` names a variable and, where it has further dimensions, the coordinate to take
    of each: `geopotential[level=500]`, `t2m[number=0]`. `Axis.raw` names a dimension. Dimensions
    of one entry are dropped. Axes may be stored in any order and falling (latitude from north to
    south): values are turned so that coordinates rise. Missing values become NaN.

    One long series is cut into trajectories of the card's `time.frames` frames, in time order,
    each with times from zero; frames left over at the end are not used. A dimension `sample` or
    `trajectory` keeps several series apart. Variables without time may be `inputs`.

    Neighbouring trajectories follow one another: the last frame of one and the first of the next
    are a step apart. Blocks in time (`test: last_tenth`, `valid: last`) let that happen only at
    the borders of the splits; a longer distance needs files with a gap between them.

    Attributes:
        times: (time,) from zero, in the card's unit.
        coords: (points,) for each axis, rising.
        parameters: (trajectory, parameter) float64: global attributes, or variables of one value
            or of one for each sample.

    Raises:
        DataError: A variable, dimension or coordinate is missing, a dimension is left over, the
            grid or the time step is uneven, or the series is shorter than a trajectory.
        MissingExtraError: xarray is not installed.
    """

    def __init__(self, path: Path, card: DatasetCard) -> None:
        self.path = path
        self.times: Array
        self.coords: tuple[Array, ...]
        self.parameters: Array
        self._data = open_dataset(path)
        with ExitStack() as opened:
            opened.callback(self._data.close)
            self._axes = tuple(_read_axis(self._data, a, path) for a in card.discretisation.axes)
            self.coords = tuple(axis.coords for axis in self._axes)
            self._fields = self._variables(card.fields)
            self._inputs = tuple(_constant(v, path) for v in self._variables(card.inputs))
            self._cut(card)
            self.num_trajectories = self._samples * self._segments
            columns = [self._column(parameter) for parameter in card.parameters]
            empty = np.empty((self.num_trajectories, 0), np.float64)
            self.parameters = np.stack(columns, axis=1) if columns else empty
            opened.pop_all()  # all is well: the file stays open until `close`

    def _variables(self, fields: Sequence[FieldSpec]) -> tuple[_Variable, ...]:
        axes = tuple(axis.dim for axis in self._axes)
        return tuple(_variable(self._data, field, axes, self.path) for field in fields)

    def _cut(self, card: DatasetCard) -> None:
        """Lay out samples and segments: trajectory i is segment i % segments of its sample."""
        self._frames = card.time.frames
        lengths = {v.size(v.time) for v in self._fields if v.time}
        samples = {v.size(v.sample) for v in (*self._fields, *self._inputs) if v.sample}
        if len(lengths) > 1 or len(samples) > 1:
            raise DataError(
                f"{self.path}: variables of different lengths in time {sorted(lengths)} or of "
                f"different numbers of samples {sorted(samples)}"
            )
        self._samples = next(iter(samples), 1)
        length = next(iter(lengths), 1)
        self._segments = length // self._frames
        if not self._segments:
            raise DataError(
                f"{self.path}: {length} frames, fewer than the {self._frames} of a trajectory",
                hint="lower `frames` under `time` of the card, or join the files in time",
            )
        step = self._step(card)
        self.times = (step or 1.0) * np.arange(self._frames, dtype=np.float64)

    def _step(self, card: DatasetCard) -> float | None:
        dims = sorted({variable.time for variable in self._fields if variable.time})
        if len(dims) > 1:
            raise DataError(f"{self.path}: several time dimensions: {dims}")
        if not dims or self._frames == 1:
            return None
        if dims[0] in self._data.coords:
            return time_step(self._data.coords[dims[0]], card, self.path)
        if card.time.step is None:
            raise DataError(f"{self.path}: no coordinate '{dims[0]}' and no `step` in the card")
        return card.time.step

    def read(self, trajectories: slice, frames: slice, stride_x: int = 1) -> Array:
        chosen = range(self.num_trajectories)[trajectories]
        times = range(self._frames)[frames]
        space = [len(coord[::stride_x]) for coord in self.coords]
        out = np.empty((len(chosen), len(times), *space, len(self._fields)), np.float32)
        for first, count in self._runs(chosen, times):
            for channel, variable in enumerate(self._fields):
                place = first - chosen.start
                out[place : place + count, ..., channel] = self._block(
                    variable, first, count, times, stride_x
                )
        return out

    def _runs(self, chosen: range, times: range) -> list[tuple[int, int]]:
        """(first, count): neighbours of one sample are one piece in time if read in full."""
        if times != range(self._frames):
            return [(index, 1) for index in chosen]
        runs: list[tuple[int, int]] = []
        for index in chosen:
            if runs and index % self._segments:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((index, 1))
        return runs

    def _block(
        self, variable: _Variable, first: int, count: int, times: range, stride_x: int
    ) -> Array:
        """(trajectory, time, *space) of neighbouring trajectories of one sample."""
        sample, segment = divmod(first, self._segments)
        start = segment * self._frames
        end = start + (count - 1) * self._frames + times.stop
        steps = slice(start + times.start, end, times.step)
        values = variable.read(sample, steps, self._axes, stride_x, self.path)
        if variable.time is None:
            return values
        return values.reshape(count, len(times), *values.shape[1:])

    def read_inputs(self, trajectories: slice, stride_x: int = 1) -> Array | None:
        if not self._inputs:
            return None
        chosen = range(self.num_trajectories)[trajectories]
        space = [len(coord[::stride_x]) for coord in self.coords]
        out = np.empty((len(chosen), *space, len(self._inputs)), np.float32)
        for channel, variable in enumerate(self._inputs):
            read: dict[int, Array] = {}
            for place, index in enumerate(chosen):
                sample = index // self._segments if variable.sample else 0
                if sample not in read:
                    whole = slice(None)
                    read = {sample: variable.read(sample, whole, self._axes, stride_x, self.path)}
                out[place, ..., channel] = read[sample]
        return out

    def _column(self, parameter: Parameter) -> Array:
        """(trajectory,) float64."""
        name = parameter.attribute or parameter.name
        found = self._data.attrs.get(name)
        values = np.asarray(values_of(self._data[name], self.path) if name in self._data else found)
        if found is None and name not in self._data:
            raise DataError(f"{self.path}: no attribute or variable '{name}' for a parameter")
        if values.size not in (1, self._samples) or values.dtype.kind not in "fiu":
            raise DataError(f"{self.path}: {name}: is not one number, or one for each sample")
        if not np.isfinite(values).all():
            raise DataError(f"{self.path}: {name}: NaN or infinity")
        each = np.broadcast_to(values.reshape(-1).astype(np.float64), self._samples)
        return np.repeat(each, self._segments)

    def close(self) -> None:
        self._data.close()


@dataclass(frozen=True)
class _GridAxis:
    """A dimension of the file as an axis with rising coordinates."""

    dim: str
    coords: Array
    falls: bool

    def stored(self, stride: int) -> slice:
        """The entries of every `stride`-th point, in the order in which they are stored."""
        first = (len(self.coords) - 1) % stride if self.falls else 0
        return slice(first, None, stride)


@dataclass(frozen=True)
class _Variable:
    """A variable of which space axes and perhaps time and samples are left."""

    array: Any
    time: str | None
    sample: str | None

    def size(self, dim: str | None) -> int:
        return int(self.array.sizes[dim])

    def read(
        self, sample: int, times: slice, axes: Sequence[_GridAxis], stride: int, path: Path
    ) -> Array:
        """(time, *space), or (*space) without time; axes in the card's order, rising."""
        chosen: dict[str, Any] = {axis.dim: axis.stored(stride) for axis in axes}
        if self.time is not None:
            chosen[self.time] = times
        if self.sample is not None:
            chosen[self.sample] = sample
        with foreign(path, f"{self.array.name}: cannot be read"):
            part = self.array.isel(chosen)
            values = np.asarray(part.values)
        order = [self.time] * (self.time is not None) + [axis.dim for axis in axes]
        values = values.transpose([part.dims.index(dim) for dim in order])
        turned: Any = (..., *(slice(None, None, -1 if axis.falls else 1) for axis in axes))
        with np.errstate(over="ignore"):  # what does not fit float32 becomes inf, and is found
            return values[turned].astype(np.float32)


def _read_axis(data: Any, axis: Axis, path: Path) -> _GridAxis:
    dim = axis.raw or axis.name
    if dim not in data.dims:
        known = [str(name) for name in data.dims]
        raise DataError(
            f"{path}: no dimension '{dim}'{did_you_mean(dim, known)}, found {known}",
            hint="`raw` gives an axis of the card the file's name",
        )
    if dim not in data.coords:
        raise DataError(f"{path}: dimension '{dim}' has no coordinates")
    values = values_of(data.coords[dim], path)
    if values.dtype.kind not in "fiu" or values.ndim != 1 or not values.size:
        raise DataError(f"{path}: {dim}: the coordinates are not numbers along one axis")
    values = values.astype(np.float64)
    falls = bool(len(values) > 1 and values[0] > values[-1])
    values = rising(values[::-1] if falls else values, dim, path)
    step = uniform_step(
        values, dim, path, tolerance=_SPACE_TOLERANCE,
        hint="only even grids are read: interpolate the file to one first (cdo remapbil)",
    )  # fmt: skip
    if step and axis.boundary == "periodic":
        _check_period(values, step, axis, dim, path)
    return _GridAxis(dim, values, falls)


def _check_period(values: Array, step: float, axis: Axis, dim: str, path: Path) -> None:
    """A point stored twice, at 0 and at 360 degrees, would break the period."""
    length = axis.bounds[1] - axis.bounds[0]
    if abs(len(values) * step - length) > 0.5 * step:
        raise DataError(
            f"{path}: {dim}: {len(values)} points {step:g} apart do not fill the period "
            f"{axis.bounds} of the card",
            hint="is the first point stored again at the end, or is this a part of the circle?",
        )


def _variable(data: Any, field: FieldSpec, axes: tuple[str, ...], path: Path) -> _Variable:
    raw = field.raw or field.name
    parts = _RAW.fullmatch(raw)
    if parts is None:
        raise ConfigError(f"{field.name}: raw: '{raw}' is not like t2m or z[level=500]")
    name, choices = parts.groups()
    if name not in data.data_vars:
        known = [str(key) for key in data.data_vars]
        more = "" if len(known) <= 10 else f" and {len(known) - 10} more"
        raise DataError(
            f"{path}: no variable '{name}'{did_you_mean(name, known)}, found {known[:10]}{more}",
            hint="is this a file of another dataset? ups data list",
        )
    array = data[name]
    if array.dtype.kind not in "fiub":
        raise DataError(f"{path}: {name}: expected numbers, found {array.dtype}")
    for choice in choices.split(",") if choices else ():
        array = _choose(array, choice, field, path)
    return _without_singles(data, array, axes, path)


def _choose(array: Any, choice: str, field: FieldSpec, path: Path) -> Any:
    """Take one entry of a dimension, by the value of its coordinate."""
    parts = _CHOICE.fullmatch(choice)
    try:
        dim, value = (parts[1], float(parts[2])) if parts else (None, 0.0)
    except ValueError:
        dim = None
    if dim is None:
        raise ConfigError(f"{field.name}: raw: '{choice}' is not like level=500")
    if dim not in array.dims or dim not in array.coords:
        raise DataError(
            f"{path}: {array.name}: no dimension '{dim}' with coordinates, found {[*array.dims]}"
        )
    known = values_of(array.coords[dim], path)
    numbers = known if known.dtype.kind in "fiu" else np.empty(0)
    near = np.flatnonzero(np.isclose(numbers, value, rtol=1e-6))
    if near.size != 1:
        raise DataError(
            f"{path}: {array.name}: {dim}={value:g} is not there once, found {known[:20].tolist()}"
        )
    return array.isel({dim: int(near[0])})


def _without_singles(data: Any, array: Any, axes: tuple[str, ...], path: Path) -> _Variable:
    """Drop dimensions of one entry; what is left must be time, samples and the axes."""
    absent = [dim for dim in axes if dim not in array.dims]
    if absent:
        raise DataError(f"{path}: {array.name}: no dimension '{absent[0]}', has {[*array.dims]}")
    left = [dim for dim in array.dims if dim not in axes]
    sample = next((dim for dim in left if dim in _SAMPLE_NAMES), None)
    time = next((dim for dim in left if _is_time(data, dim)), None)
    for dim in left:
        if dim not in (time, sample):
            if array.sizes[dim] != 1:
                raise DataError(
                    f"{path}: {array.name}: dimension '{dim}' of {array.sizes[dim]} is left over",
                    hint=f'choose one of them in the card: raw: "{array.name}[{dim}=...]"',
                )
            array = array.isel({dim: 0})
    return _Variable(array, time, sample)


def _constant(variable: _Variable, path: Path) -> _Variable:
    """An input: without time, or stored for one time only."""
    if variable.time is None:
        return variable
    if variable.size(variable.time) > 1:
        raise DataError(
            f"{path}: {variable.array.name}: varies in time, so it is no input",
            hint="list it under `fields` of the card",
        )
    return replace(variable, array=variable.array.isel({variable.time: 0}), time=None)


def _is_time(data: Any, dim: str) -> bool:
    if dim in _TIME_NAMES:
        return True
    return dim in data.coords and data.coords[dim].dtype.kind == "M"
