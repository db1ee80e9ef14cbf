"""Windows of meshes and particles, ragged: nodes, edges and cells one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.data.points import PointStore
from ups.data.reading.augment import Components, moved_points, with_components
from ups.data.reading.batches import Empty
from ups.data.reading.mapped_pages import MappedPages
from ups.data.reading.symmetries import Geometry, Move

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Points:
    """The values of `PointBatch` that a reader knows."""

    fields: Array
    inputs: Array | None
    coords: Array
    node_offsets: Array
    edges: Array
    edge_offsets: Array
    cells: Array | None
    cell_offsets: Array
    tags: Array | None


class PointReader:
    """Windows of a point store.

    Args:
        length, stride_t: Frames in a window, and stored frames from one to the next.
        vectors: Of the fields, and of the inputs.
        chosen: The trajectories that will be read.
    """

    def __init__(
        self,
        store: PointStore,
        *,
        length: int,
        stride_t: int,
        vectors: tuple[Components, Components],
        geometry: Geometry,
        chosen: Array,
    ) -> None:
        self.store, self.length, self.stride_t = store, length, stride_t
        self._vectors, self._geometry = vectors, geometry
        self._pages = MappedPages()
        self._wrapped = tuple(
            axis
            for axis, boundary in enumerate(geometry.boundaries)
            if boundary == "periodic" and geometry.kind == "particles"
        )
        self._moving = any(store.moves(int(each)) for each in chosen)
        self.window_bytes = max(self._bytes_of(int(each)) for each in chosen)

    def _bytes_of(self, trajectory: int) -> int:
        """Most bytes of a window of one trajectory."""
        store, nodes = self.store, self.store.num_nodes(trajectory)
        rows = self.length if self._moving else 1
        cells = store.cells(trajectory)
        counts = store.edge_counts(trajectory)
        edges = int(np.sort(counts)[-self.length :].sum()) if len(counts) > 1 else int(counts.sum())
        if len(counts) == 1:
            edges *= rows
        of_nodes = self.length * store.num_fields + len(store.metadata.inputs)
        of_nodes += rows * store.num_dims + 1
        return 4 * nodes * of_nodes + 16 * edges + (0 if cells is None else 2 * cells.nbytes)

    def read(
        self,
        trajectories: Array,
        starts: Array,
        moves: list[Move] | None,
        empty: Empty,
    ) -> Points:
        """Everything that a window consists of."""
        chosen, firsts = trajectories.tolist(), starts.tolist()
        nodes = _offsets([self.store.num_nodes(each) for each in chosen])
        fields = empty((self.length, int(nodes[-1]), self.store.num_fields), np.float32)
        coords = self._coords_for(int(nodes[-1]), empty)
        inputs = self._of_nodes("inputs", chosen, empty)
        for row, (trajectory, start) in enumerate(zip(chosen, firsts, strict=True)):
            place = slice(int(nodes[row]), int(nodes[row + 1]))
            move, frames = moves[row] if moves else None, self._frames(start)
            self._read_fields(fields[:, place], trajectory, frames, move)
            self._read_coords(coords[..., place, :], trajectory, frames, move)
            if inputs is not None and move is not None:
                inputs[place] = with_components(inputs[place], self._vectors[1], move.orientation)
        edges, edge_offsets = self._edges(chosen, firsts, nodes, empty)
        cells, cell_offsets = self._cells(chosen, nodes, moves, empty)
        tags = self._of_nodes("tags", chosen, empty)
        self._pages.release()
        return Points(
            fields, inputs, coords, nodes, edges, edge_offsets, cells, cell_offsets, tags
        )  # fmt: skip

    def _frames(self, start: int) -> slice:
        return slice(start, start + (self.length - 1) * self.stride_t + 1, self.stride_t)

    def _coords_for(self, nodes: int, empty: Empty) -> Array:
        times = (self.length,) if self._moving else ()
        return empty((*times, nodes, self.store.num_dims), np.float32)

    def _read_fields(self, out: Array, trajectory: int, frames: slice, move: Move | None) -> None:
        values = self.store.fields(trajectory, frames)
        self._pages.touched(values)
        if move is not None:
            values = with_components(values, self._vectors[0], move.orientation)
        out[...] = values

    def _read_coords(self, out: Array, trajectory: int, frames: slice, move: Move | None) -> None:
        values = self.store.coords(trajectory, frames)
        self._pages.touched(values)
        if move is not None:
            values = moved_points(
                values, move.orientation, move.distances(self._geometry), self._geometry.bounds,
                self._wrapped,
            )  # fmt: skip
        out[...] = values

    def _of_nodes(self, name: str, chosen: Sequence[int], empty: Empty) -> Array | None:
        parts = [getattr(self.store, name)(trajectory) for trajectory in chosen]
        if any(part is None for part in parts):
            return None
        for part in parts:
            self._pages.touched(part)
        out = empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
        return np.concatenate(parts, out=out)

    def _edges(
        self, chosen: Sequence[int], firsts: Sequence[int], nodes: Array, empty: Empty
    ) -> tuple[Array, Array]:
        """All windows' edges, list by list, numbered through the batch."""
        lists = []
        for time in range(self.length if self._moving else 1):
            for trajectory, start in zip(chosen, firsts, strict=True):
                lists.append(self.store.edges(trajectory, start + time * self.stride_t))
                self._pages.touched(lists[-1])
        ends = _offsets([len(each) for each in lists])
        out = _numbered(lists, ends, nodes[:-1].tolist() * (len(lists) // len(chosen)), empty)
        return out, np.ascontiguousarray(ends[:: len(chosen)])

    def _cells(
        self, chosen: Sequence[int], nodes: Array, moves: list[Move] | None, empty: Empty
    ) -> tuple[Array | None, Array]:
        tables = [self.store.cells(trajectory) for trajectory in chosen]
        found = [table for table in tables if table is not None]
        ends = _offsets([0 if table is None else len(table) for table in tables])
        if len(found) < len(tables):
            return None, np.zeros_like(ends)
        for table in found:
            self._pages.touched(table)
        out = _numbered(found, ends, nodes[:-1].tolist(), empty)
        for row, move in enumerate(moves or ()):
            if move.orientation.mirrors:  # corners keep turning the same way round
                own = out[ends[row] : ends[row + 1]]
                own[:, -2:] = own[:, :-3:-1].copy()
        return out, ends


def _offsets(counts: Sequence[int]) -> Array:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


def _numbered(tables: Sequence[Array], ends: Array, first: Sequence[int], empty: Empty) -> Array:
    """Tables of node numbers, one below the other, with each one's first node added."""
    out = empty((int(ends[-1]), tables[0].shape[1]), np.int64)
    for row, table in enumerate(tables):
        np.add(table, first[row], out=out[ends[row] : ends[row + 1]], casting="unsafe")
    return out
