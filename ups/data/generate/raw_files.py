"""Solved batches into raw files with the published datasets' keys, shapes, types and storage."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import h5py
import numpy as np
import numpy.typing as npt
import yaml

from ups.data.bulk import create_contiguous, reserve, write_at
from ups.data.generate.base import Grid, Solution
from ups.registry import DatasetCard

Array = npt.NDArray[Any]
_AROUND_BYTES = 2**15
"""More than what a group takes besides its values."""


@runtime_checkable
class RawWriter(Protocol):
    """A raw file that is being written; a context manager."""

    def append(self, solution: Solution) -> None:
        """Write the next trajectories."""
        ...

    def __enter__(self) -> RawWriter: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def raw_writer(
    path: Path,
    card: DatasetCard,
    grid: Grid,
    num_trajectories: int,
    parameters: Mapping[str, float],
    provenance: Mapping[str, str | int],
) -> RawWriter:
    """The writer of the card's layout."""
    if card.source.layout == "pdebench_groups":
        return GroupsWriter(path, card, grid, num_trajectories, parameters, provenance)
    return ArraysWriter(path, card, grid, num_trajectories, parameters, provenance)


class ArraysWriter:
    """The layouts with one big array: `tensor`, one per field, or Darcy's `nu` and `tensor`.

    The arrays are contiguous; their bytes are reserved at once and written batch by batch.
    """

    def __init__(
        self,
        path: Path,
        card: DatasetCard,
        grid: Grid,
        num_trajectories: int,
        parameters: Mapping[str, float],
        provenance: Mapping[str, str | int],
    ) -> None:
        drawn = card.generator.drawn if card.generator else ()
        self._drawn = {n: np.zeros(num_trajectories) for n in drawn if n not in parameters}
        shapes = _array_shapes(card, grid, num_trajectories)
        self._path, self._done = path, 0
        self._sizes = {name: 4 * math.prod(shape[1:]) for name, shape in shapes.items()}
        reserve(path, num_trajectories * sum(self._sizes.values()))
        with h5py.File(path, "w") as file:
            self._offsets = {
                name: create_contiguous(file, name, shape, np.float32)
                for name, shape in shapes.items()
            }
            _write_coordinates(file, card, grid)
            file.attrs.update(_attributes(card, parameters))
            file.attrs.update(provenance)
        self._end = path.stat().st_size
        last = max(self._offsets, key=lambda name: self._offsets[name])
        reserve(path, self._offsets[last] + num_trajectories * self._sizes[last])
        self._file = os.open(path, os.O_WRONLY)

    def append(self, solution: Solution) -> None:
        count = len(solution.fields)
        for (name, offset), values in zip(self._offsets.items(), _arrays(solution), strict=True):
            write_at(self._file, values, offset + self._done * self._sizes[name])
        for name, array in self._drawn.items():
            array[self._done : self._done + count] = solution.drawn[name]
        self._done += count

    def __enter__(self) -> ArraysWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.ftruncate(self._file, self._end)
        os.close(self._file)
        if error is None and self._drawn:
            with h5py.File(self._path, "r+") as file:
                for name, array in self._drawn.items():
                    file[f"parameters/{name}"] = array


class GroupsWriter:
    """The layout with one group for each trajectory, its parameters as YAML text beside it.

    The file's bytes are reserved at once, because HDF5 may crash on a disk that fills up.
    """

    def __init__(
        self,
        path: Path,
        card: DatasetCard,
        grid: Grid,
        num_trajectories: int,
        parameters: Mapping[str, float],
        provenance: Mapping[str, str | int],
    ) -> None:
        self._card, self._grid, self._parameters = card, grid, parameters
        self._done = 0
        self._order = getattr(card.source, "axis_order", None) or [
            axis.name for axis in card.discretisation.axes
        ]
        values = 4 * len(grid.times) * math.prod(grid.space) * len(card.fields)
        num_bytes = num_trajectories * (values + _AROUND_BYTES)
        reserve(path, num_bytes)
        with h5py.File(path, "w") as file:
            file.attrs.update(provenance)
        reserve(path, path.stat().st_size + num_bytes)
        self._file = h5py.File(path, "r+")

    def append(self, solution: Solution) -> None:
        fields = solution.fields.cpu().float().numpy()
        names = [axis.name for axis in self._card.discretisation.axes]
        raw = [0, *(1 + names.index(name) for name in self._order), fields.ndim - 2]
        for index, values in enumerate(fields):
            drawn = {name: float(array[index]) for name, array in solution.drawn.items()}
            self._write_group(values.transpose(raw), drawn)
            self._done += 1

    def _write_group(self, values: Array, drawn: Mapping[str, float]) -> None:
        group = self._file.create_group(f"{self._done:04d}")
        group["data"] = np.ascontiguousarray(values)
        for axis, spec in zip(self._grid.axes, self._card.discretisation.axes, strict=True):
            group[f"grid/{spec.name}"] = (axis.low + axis.centres()).numpy().astype(np.float32)
        group["grid/t"] = np.asarray(self._grid.times, dtype=np.float32)
        group.attrs["config"] = self._config({**self._parameters, **drawn})

    def _config(self, values: Mapping[str, float]) -> str:
        tree: dict[str, Any] = {"name": self._card.key}
        for parameter in self._card.parameters:
            *path, last = (parameter.attribute or parameter.name).split(".")
            node = tree
            for key in path:
                node = node.setdefault(key, {})
            node[last] = float(values[parameter.name])
        return yaml.safe_dump(tree, sort_keys=False)

    def __enter__(self) -> GroupsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _array_shapes(card: DatasetCard, grid: Grid, count: int) -> dict[str, tuple[int, ...]]:
    """Shape of each array, fields before inputs, in the card's order."""
    frames = (count, len(grid.times), *grid.space)
    if card.source.layout == "pdebench_tensor":
        return {"tensor": frames}
    if card.source.layout == "pdebench_darcy":
        return {"tensor": frames, "nu": (count, *grid.space)}
    fields = {spec.raw or spec.name: frames for spec in card.fields}
    return fields | {spec.raw or spec.name: (count, *grid.space) for spec in card.inputs}


def _arrays(solution: Solution) -> list[Array]:
    """Each field, then each input, as one array."""
    fields = solution.fields.cpu().float().numpy()
    arrays = [fields[..., channel] for channel in range(fields.shape[-1])]
    if solution.inputs is not None:
        inputs = solution.inputs.cpu().float().numpy()
        arrays += [inputs[..., channel] for channel in range(inputs.shape[-1])]
    return arrays


def _write_coordinates(file: h5py.File, card: DatasetCard, grid: Grid) -> None:
    times = grid.times
    if len(times) > 1:  # one entry more than there are frames, as in the published files
        times = (*times, 2 * times[-1] - times[-2])
    file["t-coordinate"] = np.asarray(times, dtype=np.float32)
    for axis, spec in zip(grid.axes, card.discretisation.axes, strict=True):
        file[f"{spec.name}-coordinate"] = (axis.low + axis.centres()).numpy().astype(np.float32)


def _attributes(card: DatasetCard, parameters: Mapping[str, float]) -> dict[str, np.float64]:
    return {
        parameter.attribute or parameter.name: np.float64(parameters[parameter.name])
        for parameter in card.parameters
        if parameter.name in parameters
    }
