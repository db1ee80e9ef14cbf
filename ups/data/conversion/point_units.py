"""One unit of a mesh or particle conversion: some trajectories as plain arrays in a folder.

How many edges a trajectory has is known only when they have been found, so the values of a unit
wait in files of their own, one for each kind of array, until all units are there and the store can
be laid out. A unit's folder appears under its name when it is whole, and not before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from ups.data.conversion.neighbours import mesh_edges, radius_neighbours
from ups.data.conversion.plan import Recipe
from ups.data.layouts import open_raw_points
from ups.data.layouts.base import PointTrajectory, RawPoints
from ups.data.points import BULK, point_digest
from ups.data.statistics import Moments, joined, moments
from ups.errors import DataError, translated_os_errors
from ups.files import flush
from ups.registry import DatasetCard

Array = npt.NDArray[Any]
DTYPES = {"fields": "<f4", "coords": "<f4", "inputs": "<f4", "tags": "|u1", "cells": "<i4",
          "edges": "<i4"}  # fmt: skip
_COUNTS = ("nodes", "coords", "cells", "edge_lists")
_MOMENTS = ("count", "mean", "squares", "low", "high")
_RECORD = "record.npz"


@dataclass(frozen=True)
class PointUnit:
    """Neighbouring trajectories of one raw file: places `first` to `end`."""

    index: int
    source: int
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first


@dataclass(frozen=True)
class PointRecord:
    """What is known of a unit whose values are written.

    Attributes:
        counts: 'nodes', 'coords' (rows of positions), 'cells' and 'edge_lists', (trajectory,) each.
        edges: Length of every edge list, (list,).
        widths: Columns of each array that the unit has.
        digests: `point_digest` of each trajectory, (trajectory, 32) uint8.
        fields, inputs: Moments of each trajectory; inputs None where there are none.
    """

    counts: dict[str, Array]
    edges: Array
    widths: dict[str, int]
    digests: Array
    fields: Moments
    inputs: Moments | None

    @property
    def finite(self) -> Array:
        """Trajectories without NaN and infinity, (trajectory,)."""
        fine = self.fields.finite
        return fine if self.inputs is None else fine & self.inputs.finite

    def rows(self, name: str, num_frames: int) -> int:
        """Rows of one of the unit's arrays."""
        if name in ("coords", "cells"):
            return int(self.counts[name].sum())
        if name == "edges":
            return int(self.edges.sum())
        return int(self.counts["nodes"].sum()) * (num_frames if name == "fields" else 1)

    def save(self, folder: Path) -> None:
        arrays: dict[str, Any] = {f"counts.{name}": array for name, array in self.counts.items()}
        arrays |= {f"widths.{name}": np.asarray(width) for name, width in self.widths.items()}
        for kind, found in (("fields", self.fields), ("inputs", self.inputs)):
            if found is not None:
                arrays |= {f"{kind}.{part}": getattr(found, part) for part in _MOMENTS}
        with (folder / _RECORD).open("wb") as file:
            np.savez(file, edges=self.edges, digests=self.digests, **arrays)

    @classmethod
    def load(cls, folder: Path, num_frames: int) -> PointRecord | None:
        """The record of a finished unit; None where it is absent or its arrays are not whole."""
        with (
            suppress(OSError, ValueError, KeyError, EOFError, BadZipFile),
            np.load(folder / _RECORD) as file,
        ):
            widths = {k.removeprefix("widths."): int(file[k]) for k in file if "widths." in k}
            found = {
                kind: Moments(*(file[f"{kind}.{part}"] for part in _MOMENTS))
                for kind in ("fields", "inputs")
                if f"{kind}.count" in file
            }
            record = cls(
                {name: file[f"counts.{name}"] for name in _COUNTS},
                file["edges"],
                widths,
                file["digests"],
                found["fields"],
                found.get("inputs"),
            )
            if all(
                (folder / f"{name}.bin").stat().st_size
                == record.rows(name, num_frames) * width * np.dtype(DTYPES[name]).itemsize
                for name, width in widths.items()
            ):
                return record
        return None


@dataclass
class UnitConverter:
    """Converts units one after the other; the raw file stays open between them.

    Attributes:
        sources: Raw files, in the plan's order.
        folder: Where the units' folders go.
    """

    card: DatasetCard
    recipe: Recipe
    sources: tuple[Path, ...]
    folder: Path
    _open: RawPoints | None = None

    def __call__(self, unit: PointUnit) -> int:
        """Write the unit's folder; returns how many trajectories it holds.

        Raises:
            DataError: A trajectory cannot be read, or is not finite and the recipe does not allow
                it, or the disk is full.
        """
        target = unit_folder(self.folder, unit.index)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        with translated_os_errors(self.folder, "writing"):
            try:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
                self._write(unit, temporary).save(temporary)
                for path in temporary.iterdir():
                    flush(path)
                shutil.rmtree(target, ignore_errors=True)
                os.replace(temporary, target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return len(unit)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _write(self, unit: PointUnit, folder: Path) -> PointRecord:
        source, rows = self._source(unit), []
        widths: dict[str, int] = {}
        with ExitStack() as stack:
            files: dict[str, Any] = {}
            for place in range(unit.first, unit.end):
                arrays, edge_counts = self._trajectory(source, place)
                for name, array in arrays.items():
                    if name not in files:
                        files[name] = stack.enter_context((folder / f"{name}.bin").open("wb"))
                        widths[name] = array.shape[1] if array.ndim > 1 else 1
                    files[name].write(np.ascontiguousarray(array, DTYPES[name]).data)
                rows.append(self._described(source, place, arrays, edge_counts))
                if set(arrays) != set(widths):
                    raise DataError(
                        f"{source.path}: trajectory {place}: has {sorted(arrays)}, others have "
                        f"{sorted(widths)}"
                    )
        counts, edges, digests, fields, inputs = zip(*rows, strict=True)
        return PointRecord(
            {name: np.asarray([row[name] for row in counts], np.int64) for name in _COUNTS},
            np.concatenate(edges),
            widths,
            np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
            joined(fields),
            joined(inputs) if self.card.inputs else None,
        )

    def _source(self, unit: PointUnit) -> RawPoints:
        path = self.sources[unit.source]
        if self._open is None or self._open.path != path:
            self.close()
            self._open = open_raw_points(path, self.card)
        return self._open

    def _trajectory(self, source: RawPoints, place: int) -> tuple[dict[str, Array], Array]:
        """A trajectory's arrays as rows of the store, and the length of its edge lists."""
        found = reduced(source.read(place), self.recipe.stride_t)
        try:
            lists = list(edge_lists(found, self.card))
        except DataError as error:
            raise DataError(f"{source.path}: trajectory {place}: {error}") from error
        arrays = {
            "fields": found.fields.reshape(-1, found.fields.shape[-1]),
            "coords": found.coords.reshape(-1, found.coords.shape[-1]),
            "inputs": found.inputs,
            "tags": found.tags,
            "cells": found.cells,
            "edges": np.concatenate(lists),
        }
        named = {name: arrays[name] for name in BULK}
        present = {name: array for name, array in named.items() if array is not None}
        return present, np.asarray([len(each) for each in lists], np.int64)

    def _described(
        self, source: RawPoints, place: int, arrays: dict[str, Array], edge_counts: Array
    ) -> tuple[dict[str, int], Array, bytes, Moments, Moments | None]:
        frames = len(range(0, len(source.times), self.recipe.stride_t))
        nodes = len(arrays["fields"]) // frames
        moving = len(arrays["coords"]) > nodes
        counts = {
            "nodes": nodes,
            "coords": len(arrays["coords"]),
            "cells": len(arrays.get("cells", ())),
            "edge_lists": len(edge_counts),
        }
        fields = moments(arrays["fields"][None])
        inputs = moments(arrays["inputs"][None]) if "inputs" in arrays else None
        self._check_finite(source, place, arrays, fields, inputs)
        coords = arrays["coords"]
        digest = point_digest(
            coords=coords.reshape(frames, nodes, -1) if moving else coords,
            fields=arrays["fields"].reshape(frames, nodes, -1),
            inputs=arrays.get("inputs"),
            cells=arrays.get("cells"),
            tags=arrays.get("tags"),
            edges=arrays["edges"],
            edge_counts=edge_counts,
        )
        return counts, edge_counts, digest, fields, inputs

    def _check_finite(
        self,
        source: RawPoints,
        place: int,
        arrays: dict[str, Array],
        fields: Moments,
        inputs: Moments | None,
    ) -> None:
        if self.recipe.exclude_invalid:
            return
        where = f"{source.path}: trajectory {place}: NaN or infinity"
        hint = "--exclude-invalid keeps such trajectories out of every split and records them"
        if not fields.finite.all():
            values = arrays["fields"]
            nodes = len(values) // len(range(0, len(source.times), self.recipe.stride_t))
            frame = int(np.argwhere(~np.isfinite(values))[0][0]) // nodes * self.recipe.stride_t
            raise DataError(f"{where} first at frame {frame}", hint=hint)
        if inputs is not None and not inputs.finite.all():
            raise DataError(f"{where} in its inputs", hint=hint)


def reduced(found: PointTrajectory, stride_t: int) -> PointTrajectory:
    """Every `stride_t`-th frame; positions of a single frame are positions at rest."""
    coords = found.coords[::stride_t] if found.coords.ndim == 3 else found.coords
    if coords.ndim == 3 and len(coords) == 1:
        coords = coords[0]
    return PointTrajectory(coords, found.fields[::stride_t], found.inputs, found.cells, found.tags)


def edge_lists(found: PointTrajectory, card: DatasetCard) -> Iterator[Array]:
    """The edges of a mesh; the neighbours of particles, frame by frame where they move."""
    if found.cells is not None:
        yield mesh_edges(found.cells, found.coords.shape[-2])
        return
    radius = card.discretisation.neighbour_radius
    if radius is None:  # the card's own check rules it out
        raise DataError(f"{card.key}: discretisation: particles need `neighbour_radius`")
    axes = card.discretisation.axes
    periods = [a.bounds[1] - a.bounds[0] if a.boundary == "periodic" else None for a in axes]
    for positions in found.coords if found.coords.ndim == 3 else found.coords[None]:
        yield radius_neighbours(positions, radius, periods)


def unit_folder(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}"


def read_rows(folder: Path, name: str, width: int, block_bytes: int) -> Iterator[Array]:
    """A unit's array in blocks of rows, (row, width) or (row,) for what has no columns."""
    dtype = np.dtype(DTYPES[name])
    rows = max(1, block_bytes // (width * dtype.itemsize))
    with (folder / f"{name}.bin").open("rb") as file:
        while piece := file.read(rows * width * dtype.itemsize):
            values = np.frombuffer(piece, dtype)
            yield values if name == "tags" else values.reshape(-1, width)
