"""PDEBench's layout of one group for each trajectory: `0000/data` (time, *space, channel)."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import h5py
import numpy as np

from ups.data.layouts.base import (
    Array,
    coordinate,
    dataset_of,
    file_parameter,
    opening,
    reading,
    values_of,
)
from ups.data.layouts.strided import fill
from ups.data.layouts.yaml_text import number_at, read_settings
from ups.errors import ConfigError, DataError
from ups.registry import DatasetCard

_DIGITS = re.compile(r"[0-9]{1,18}")


class PdebenchGroups:
    """Read `<number>/data`, `<number>/grid/{t,x,y}` and the settings in `<number>`'s `config`.

    Trajectories follow one another by number; other names are passed over. Coordinates are those
    of the first group, where every group repeats them. The space axes of `data` are in the order
    of the card's `source.axis_order` (reaction_diffusion2d keeps y before x) and are returned in
    the order of the card's axes. Groups are opened when they are read, because published files
    have ten thousand; only parameters, which stand in every `config`, are read at once.

    Raises:
        ConfigError: `axis_order` names other axes than the card has.
        DataError: No such groups, a key is missing, `config` is not YAML, or shapes disagree.
    """

    def __init__(self, path: Path, card: DatasetCard) -> None:
        self.path = path
        axes = tuple(axis.name for axis in card.discretisation.axes)
        raw_axes = card.source.axis_order or axes
        if sorted(raw_axes) != sorted(axes):
            raise ConfigError(f"{card.key}: source.axis_order: {raw_axes}, but the axes are {axes}")
        self._space_order = tuple(axes.index(name) for name in raw_axes)
        self._num_fields = len(card.fields)
        with opening(path) as file:
            self._file = file
            self._names = _numbered(file, path)
            self.num_trajectories = len(self._names)
            first = self._group(0)
            grid = {axis.name: axis.raw or f"grid/{axis.name}" for axis in card.discretisation.axes}
            lengths = {name: _length(first, key, path) for name, key in grid.items()}
            self.coords = tuple(
                coordinate(first, key, lengths[name], path) for name, key in grid.items()
            )
            self.times = coordinate(first, "grid/t", _length(first, "grid/t", path), path)
            self._shape = (len(self.times), *(lengths[n] for n in raw_axes), self._num_fields)
            self._values(0)
            self.parameters = self._parameter_rows(card)

    def _group(self, trajectory: int) -> h5py.Group:
        name = self._names[trajectory]
        group = self._file[name]
        if not isinstance(group, h5py.Group):
            raise DataError(f"{self.path}: {name}: expected a group, found an array")
        return group

    def _values(self, trajectory: int) -> h5py.Dataset:
        values = values_of(self._group(trajectory), "data", self.path)
        if values.shape != self._shape:
            raise DataError(
                f"{self.path}: {self._names[trajectory]}/data: shape {values.shape}, expected "
                f"{self._shape} by the first group's coordinates and the card's fields"
            )
        return values

    def _parameter_rows(self, card: DatasetCard) -> Array:
        rows = np.empty((self.num_trajectories, len(card.parameters)), np.float64)
        if not card.parameters:
            return rows
        for trajectory, name in enumerate(self._names):
            settings = read_settings(self._group(trajectory), self.path)
            for column, parameter in enumerate(card.parameters):
                value = number_at(settings, parameter.attribute) if parameter.attribute else None
                if parameter.attribute and value is None:
                    raise DataError(
                        f"{self.path}: {name}: config: no number at '{parameter.attribute}'"
                    )
                rows[trajectory, column] = (
                    file_parameter(self._file, parameter, self.path, card)
                    if value is None
                    else value
                )
        return rows

    def read(self, trajectories: slice, frames: slice, stride_x: int = 1) -> Array:
        chosen = range(self.num_trajectories)[trajectories]
        points = [len(coord[::stride_x]) for coord in self.coords]
        shape = (len(chosen), len(self.times[frames]), *points, self._num_fields)
        out = np.empty(shape, np.float32)
        space = (slice(None, None, stride_x),) * len(points)
        to_raw = (0, *(1 + axis for axis in self._space_order), 1 + len(points))
        with reading(self.path):
            for part, trajectory in zip(out, chosen, strict=True):
                fill(
                    part.transpose(to_raw),
                    self._values(trajectory),
                    (frames, *space, slice(None)),
                )
        return out

    def read_inputs(self, trajectories: slice, stride_x: int = 1) -> None:
        return None

    def close(self) -> None:
        self._file.close()


def _numbered(file: h5py.File, path: Path) -> list[str]:
    """Names of digits alone, by number."""
    found = sorted((name for name in file if _DIGITS.fullmatch(name)), key=int)
    if not found:
        raise DataError(
            f"{path}: no groups with numbers for names, found {sorted(file)[:10]}",
            hint="is this a file of another dataset? ups data list",
        )
    for before, after in itertools.pairwise(found):
        if int(before) == int(after):
            raise DataError(f"{path}: groups '{before}' and '{after}' have the same number")
    return found


def _length(group: h5py.Group, key: str, path: Path) -> int:
    return int(dataset_of(group, key, path).size)
