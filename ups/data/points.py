"""The store for meshes and particles: one sharded Zarr v3 folder for each converted version.

Trajectories lie one after the other along the first axis, without padding. With N_i the nodes of
trajectory i, T frames, and `rows` the sum of T N_i:

    /fields                 (rows, channel) float32, each trajectory in (frame, node) order
    /coords                 (row, dim) float32: N_i rows where nodes rest, T N_i where they move
    /inputs                 (nodes, input) float32; where the dataset has any
    /tags                   (nodes,) uint8; where the raw files have them
    /cells                  (cells, corner) int32; meshes only
    /edges                  (edges, 2) int32, both directions, node numbers inside the trajectory
    /offsets/nodes, coords, cells    (trajectory + 1,) int64
    /offsets/edge_lists     (trajectory + 1,) int64: one list where nodes rest or have cells, else T
    /offsets/edges          (list + 1,) int64
    /time, /parameters, /source, /place, /group, /split, /sha256, /statistics/<name>,
    /input_statistics/<name>    as in `ups.data.store`
    attrs: format, kind, neighbour_radius, identity, record_sha256 (of the metadata and the arrays
        from `offsets` on), metadata (`StoreMetadata`)

A window of frames is one run of rows in an uncompressed shard, hence one slice of a memory map.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ups import paths
from ups.data.partial import Fetch, presence_of
from ups.data.sharded import ShardedRows, array_of, open_group, values_of
from ups.data.splits import SPLITS
from ups.data.statistics import NAMES
from ups.data.store import StoreMetadata
from ups.data.versions import find_version
from ups.errors import DataError, did_you_mean

Array = npt.NDArray[Any]
FORMAT = "ups-points-1"
BULK = ("fields", "coords", "inputs", "tags", "cells", "edges")
_AGAIN = "convert again with --force"


class PointStore:
    """Read access to one converted version of a mesh or particle dataset.

    Safe across fork, and across spawn: a pickled store is its path, opened again.

    Args:
        path: The store's folder; `PointStore.open` finds it by dataset and version.
        fetch: Brings trajectories that are not here: `ups.data.partial`.

    Attributes:
        kind: 'mesh' or 'particles'.
        presence: What of the version is here; None for all of it.
        neighbour_radius: Within which particles are neighbours; None for meshes.
        time: (time,).
        parameters: (trajectory, parameter).
        sources, places: Raw file of each trajectory, and its place there, (trajectory,) each.
        digests: SHA-256 of each trajectory, (trajectory, 32) uint8.
        statistics: `mean`, `std`, `rms`, `min`, `max` of the training split, (channel,) each.
        input_statistics: The same of the inputs, (input,) each.

    Raises:
        DataError: The folder is missing, damaged or not a store.
    """

    def __init__(self, path: Path, fetch: Fetch | None = None) -> None:
        self.path, self._fetch = path, fetch
        group = open_group(path)
        self.metadata = _metadata(group, path)
        self.kind: Literal["mesh", "particles"] = group.attrs["kind"]
        self.neighbour_radius: float | None = group.attrs["neighbour_radius"]
        self.identity: str = group.attrs["identity"]
        self._record_sha256: str = group.attrs["record_sha256"]
        self._bulk = {
            name: ShardedRows(array_of(group, name, path), path / name)
            for name in BULK
            if (path / name).is_dir()
        }
        has_inputs = bool(self.metadata.inputs)
        self._offsets: dict[str, Array] = {
            name: values_of(group, f"offsets/{name}", path)
            for name in ("nodes", "coords", "cells", "edge_lists", "edges")
        }
        self.time = values_of(group, "time", path)
        self.parameters = values_of(group, "parameters", path)
        self.sources, self.places = (
            values_of(group, "source", path),
            values_of(group, "place", path),
        )
        self.groups, self.splits = values_of(group, "group", path), values_of(group, "split", path)
        self.digests = values_of(group, "sha256", path)
        self.statistics = {name: values_of(group, f"statistics/{name}", path) for name in NAMES}
        self.input_statistics = {
            name: values_of(group, f"input_statistics/{name}", path) for name in NAMES if has_inputs
        }
        self.presence = presence_of(path, self.splits, fetch)
        self._check_shapes()

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.path, self._fetch))

    @classmethod
    def open(cls, dataset: str, version: str = "latest") -> PointStore:
        """Open a version of a dataset; 'latest' is the most recently converted one."""
        path = find_version(dataset, version)
        if path.suffix != ".zarr":
            raise DataError(
                f"{path}: holds data on a grid; this needs a mesh or particles",
                hint="ups data list says which datasets are on what",
            )
        return cls(path)

    @property
    def name(self) -> str:
        return f"{self.metadata.dataset}/{self.metadata.version}"

    @property
    def num_trajectories(self) -> int:
        return len(self._offsets["nodes"]) - 1

    @property
    def num_frames(self) -> int:
        return len(self.time)

    @property
    def num_fields(self) -> int:
        return self._bulk["fields"].shape[1]

    @property
    def num_dims(self) -> int:
        return self._bulk["coords"].shape[1]

    @property
    def node_counts(self) -> Array:
        """Nodes of every trajectory, (trajectory,) int64."""
        return np.diff(self._offsets["nodes"])

    @property
    def extent(self) -> str:
        """What a frame consists of, in words: `420 to 1100 nodes`."""
        least, most = int(self.node_counts.min()), int(self.node_counts.max())
        what = "nodes" if self.kind == "mesh" else "particles"
        return f"{least} {what}" if least == most else f"{least} to {most} {what}"

    @property
    def mapped(self) -> bool:
        """Whether all values are read through memory maps, without zarr."""
        if self.presence is not None and not self.presence.complete:
            return False
        return all(array.mapped for array in self._bulk.values())

    def require(self, trajectories: Array) -> None:
        """Make sure that trajectories are here, where only some are.

        Raises:
            DataError: One is not, and nothing brings it.
        """
        if self.presence is not None:
            self.presence.require(trajectories)

    def split(self, name: str) -> Array:
        """Indices of the trajectories in 'train', 'valid' or 'test', in file order."""
        if name not in SPLITS:
            raise DataError(f"{name}: unknown split{did_you_mean(name, SPLITS)}")
        return np.flatnonzero(self.splits == SPLITS.index(name))

    def num_nodes(self, trajectory: int) -> int:
        first, end = self._range("nodes", trajectory)
        return end - first

    def moves(self, trajectory: int) -> bool:
        """Whether the nodes of a trajectory have a position for each frame."""
        first, end = self._range("coords", trajectory)
        return end - first > self.num_nodes(trajectory)

    def fields(self, trajectory: int, frames: slice = slice(None)) -> Array:
        """Field values of a run of frames, (frame, node, channel) float32, read-only."""
        first, nodes = self._range("nodes", trajectory)[0], self.num_nodes(trajectory)
        return self._window("fields", trajectory, first * self.num_frames, nodes, frames)

    def coords(self, trajectory: int, frames: slice = slice(None)) -> Array:
        """Positions: (node, dim) where nodes rest, else (frame, node, dim); float32, read-only."""
        first, end = self._range("coords", trajectory)
        if not self.moves(trajectory):
            return self._rows("coords", trajectory, first, end)
        return self._window("coords", trajectory, first, self.num_nodes(trajectory), frames)

    def inputs(self, trajectory: int) -> Array | None:
        """(node, input) float32; None where the dataset has none."""
        return self._of_nodes("inputs", trajectory)

    def tags(self, trajectory: int) -> Array | None:
        """(node,) uint8, 0 inside the domain; None where the raw files have none."""
        return self._of_nodes("tags", trajectory)

    def cells(self, trajectory: int) -> Array | None:
        """(cell, corner) int32; None for particles."""
        if "cells" not in self._bulk:
            return None
        return self._rows("cells", trajectory, *self._range("cells", trajectory))

    def edges(self, trajectory: int, frame: int | None = None) -> Array:
        """Pairs of neighbours in both directions, (edge, 2) int32.

        Args:
            frame: Which frame's, where particles move; meshes and resting particles have one list.
        Raises:
            ValueError: Particles move and no frame is given.
            IndexError: There is no such frame.
        """
        first, end = self._range("edge_lists", trajectory)
        if end - first > 1:
            if frame is None:
                raise ValueError(f"{self.name}: particles move: edges differ between frames")
            first = range(first, end)[frame]
        bounds = self._offsets["edges"]
        return self._rows("edges", trajectory, int(bounds[first]), int(bounds[first + 1]))

    def edge_counts(self, trajectory: int) -> Array:
        """Length of every edge list of a trajectory, (list,) int64."""
        first, end = self._range("edge_lists", trajectory)
        return np.diff(self._offsets["edges"][first : end + 1])

    def all_edges(self, trajectory: int) -> Array:
        """The edge lists of all frames, one after the other, (edge, 2) int32."""
        first, end = self._range("edge_lists", trajectory)
        bounds = self._offsets["edges"]
        return self._rows("edges", trajectory, int(bounds[first]), int(bounds[end]))

    def rows_of(self, trajectory: int) -> dict[str, tuple[int, int]]:
        """First and end of the rows that a trajectory has in every array of `bulk`."""
        (first, end), frames = self._range("nodes", trajectory), self.num_frames
        lists, bounds = self._range("edge_lists", trajectory), self._offsets["edges"]
        rows = {
            "fields": (first * frames, end * frames),
            "coords": self._range("coords", trajectory),
            "inputs": (first, end),
            "tags": (first, end),
            "cells": self._range("cells", trajectory),
            "edges": (int(bounds[lists[0]]), int(bounds[lists[1]])),
        }
        return {name: rows[name] for name in self._bulk}

    @property
    def bulk(self) -> Mapping[str, ShardedRows]:
        """The arrays that hold the trajectories, one after the other."""
        return self._bulk

    def digest(self, trajectory: int) -> bytes:
        """SHA-256 of a trajectory's values as they are now; compare with `digests`."""
        return point_digest(
            coords=self.coords(trajectory),
            fields=self.fields(trajectory),
            inputs=self.inputs(trajectory),
            cells=self.cells(trajectory),
            tags=self.tags(trajectory),
            edges=self.all_edges(trajectory),
            edge_counts=self.edge_counts(trajectory),
        )

    def record_is_true(self) -> bool:
        """Whether metadata, offsets, times, parameters, splits, statistics are as converted."""
        arrays = {f"offsets/{name}": values for name, values in self._offsets.items()}
        arrays |= {
            "time": self.time, "parameters": self.parameters, "source": self.sources,
            "place": self.places, "group": self.groups, "split": self.splits,
            "sha256": self.digests,
        }  # fmt: skip
        for kind, found in (
            ("statistics", self.statistics), ("input_statistics", self.input_statistics)
        ):  # fmt: skip
            arrays |= {f"{kind}/{name}": values for name, values in found.items()}
        about = [self.kind, self.neighbour_radius, self.metadata.to_json()]
        return record_sha256(arrays, about) == self._record_sha256

    def _range(self, kind: str, trajectory: int) -> tuple[int, int]:
        index = range(self.num_trajectories)[trajectory]
        bounds = self._offsets[kind]
        return int(bounds[index]), int(bounds[index + 1])

    def _of_nodes(self, name: str, trajectory: int) -> Array | None:
        if name not in self._bulk:
            return None
        return self._rows(name, trajectory, *self._range("nodes", trajectory))

    def _rows(self, name: str, trajectory: int, start: int, stop: int) -> Array:
        """Rows of an array that belong to a trajectory, which must be here. All values pass."""
        if self.presence is not None:
            self.presence.require(np.asarray([range(self.num_trajectories)[trajectory]]))
        return self._bulk[name].read(start, stop)

    def _window(self, name: str, trajectory: int, first: int, nodes: int, frames: slice) -> Array:
        start, stop, step = frames.indices(self.num_frames)
        if step < 1:
            raise ValueError(f"frames must go forward, not in steps of {step}")
        stop = max(start, stop)
        rows = self._rows(name, trajectory, first + start * nodes, first + stop * nodes)
        return rows.reshape(stop - start, nodes, rows.shape[-1])[::step]

    def _check_shapes(self) -> None:
        count, frames, wanted = self.num_trajectories, len(self.time), len(self.metadata.fields)
        nodes, offsets = int(self._offsets["nodes"][-1]), self._offsets
        lengths = {
            "fields": nodes * frames,
            "coords": int(offsets["coords"][-1]),
            "inputs": nodes if self.metadata.inputs else 0,
            "tags": nodes,
            "cells": int(offsets["cells"][-1]),
            "edges": int(offsets["edges"][-1]),
        }
        required = {"fields", "coords", "edges", *({"inputs"} if self.metadata.inputs else ()),
                    *({"cells"} if self.kind == "mesh" else ())}  # fmt: skip
        for name in sorted(required - set(self._bulk)):
            raise DataError(f"{self.path}: no array '{name}'", hint=_AGAIN)
        pairs = [(name, len(rows), lengths[name]) for name, rows in self._bulk.items()]
        pairs += [("fields: channels", self.num_fields, wanted)]
        pairs += [
            (name, len(getattr(self, name)), count)
            for name in ("parameters", "groups", "splits", "digests", "sources", "places")
        ]
        pairs += [
            (f"offsets/{name}", len(offsets[name]), count + 1)
            for name in ("coords", "cells", "edge_lists")
        ]
        pairs += [("offsets/edges", len(offsets["edges"]), int(offsets["edge_lists"][-1]) + 1)]
        for name, found, expected in pairs:
            if found != expected:
                raise DataError(
                    f"{self.path}: {name}: {found} entries, expected {expected}", hint=_AGAIN
                )
        for name, bounds in offsets.items():
            if bounds[0] != 0 or (np.diff(bounds) < 0).any():
                raise DataError(f"{self.path}: offsets/{name}: do not rise from 0", hint=_AGAIN)


def point_digest(
    *,
    coords: Array,
    fields: Array,
    inputs: Array | None,
    cells: Array | None,
    tags: Array | None,
    edges: Array,
    edge_counts: Array,
) -> bytes:
    """SHA-256 over names, shapes and values of everything a trajectory consists of."""
    digest = hashlib.sha256()
    for name, array in (
        ("coords", coords), ("fields", fields), ("inputs", inputs), ("cells", cells),
        ("tags", tags), ("edges", edges), ("edge_counts", edge_counts),
    ):  # fmt: skip
        if array is not None:
            digest.update(f"{name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.digest()


def record_sha256(arrays: dict[str, Array], about: list[Any]) -> str:
    """SHA-256 over what JSON can say, and names, shapes and values of arrays in any order."""
    digest = hashlib.sha256(json.dumps(about).encode())
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{values.shape}{values.dtype.str}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _metadata(group: Any, path: Path) -> StoreMetadata:
    found = group.attrs.get("format")
    if found != FORMAT:
        raise DataError(f"{path}: not a store of format '{FORMAT}', found {found!r}", hint=_AGAIN)
    try:
        if group.attrs["kind"] not in ("mesh", "particles"):
            raise ValueError(f"kind {group.attrs['kind']!r}")
        for name in ("neighbour_radius", "identity", "record_sha256"):
            group.attrs[name]
        return StoreMetadata.from_json(json.dumps(group.attrs["metadata"]))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: its metadata cannot be read: {error}", hint=_AGAIN) from error


def point_store_path(dataset: str, version: str) -> Path:
    return paths.data_dir(dataset) / f"{version}.zarr"
