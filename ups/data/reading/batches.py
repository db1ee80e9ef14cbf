"""What a model is given: windows of fields with what the problem they solve is known by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from ups.data.store import StoreMetadata
from ups.errors import DataError
from ups.registry import DatasetCard

Array = npt.NDArray[Any]
Kind = Literal["grid", "mesh", "particles"]

BOUNDARIES = ("periodic", "dirichlet", "neumann", "robin", "outflow", "wall")
"""A boundary's code is its place here; trained models rely on it, so new ones go to the end."""


@runtime_checkable
class Empty(Protocol):
    """Makes an uninitialised array; a worker's lie in shared memory."""

    def __call__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array: ...


@dataclass(frozen=True)
class Problem:
    """What is the same for all windows of a task.

    Attributes:
        task: Name of the `Windows`.
        family: The card's `pde.family`.
        boundaries: Code of the boundary condition at the lower and the upper end of each axis,
            (axis, 2) int64: place in `BOUNDARIES`.
        dt: Time between the frames of a window; None for a static problem.
        history: Frames given, out of the `time` of a window; the others are to be predicted.
        parameter_names: Columns of `parameters` and `conditions`.
    """

    task: str
    kind: Kind
    family: str
    boundaries: Array
    dt: float | None
    history: int
    parameter_names: tuple[str, ...]

    @property
    def boundary_one_hot(self) -> Array:
        """(axis, 2, boundary) float32."""
        return np.eye(len(BOUNDARIES), dtype=np.float32)[self.boundaries]


@dataclass(frozen=True)
class GridBatch:
    """Windows on one grid, physical units.

    Shape:
        fields: (batch, time, *space, channel) float32
        inputs: (batch, *space, input) float32, or None
        times: (batch, time) float64
        coords: one (points,) float64 for each axis
        parameters: (batch, parameter) float64, as stored
        conditions: (batch, parameter) float32, on [-1, 1] over the card's ranges
        trajectories, starts: (batch,) int64, rows of the store and first stored frames
    """

    problem: Problem
    fields: Array
    inputs: Array | None
    times: Array
    coords: tuple[Array, ...]
    parameters: Array
    conditions: Array
    trajectories: Array
    starts: Array

    def __len__(self) -> int:
        return len(self.trajectories)

    @property
    def nbytes(self) -> int:
        """Bytes of fields and inputs."""
        return self.fields.nbytes + (0 if self.inputs is None else self.inputs.nbytes)


@dataclass(frozen=True)
class PointBatch:
    """Windows on meshes or of particles, all nodes one after the other, physical units.

    Window i has nodes `node_offsets[i]` to `node_offsets[i + 1]`; edges and cells hold node
    numbers of the batch.

    Shape:
        fields: (time, node, channel) float32
        inputs: (node, input) float32, or None
        coords: (node, dim) float32, or (time, node, dim) if nodes move
        node_offsets, cell_offsets: (batch + 1,) int64
        edges: (edge, 2) int64, both directions
        edge_offsets: (list + 1,) int64; one list of all windows' edges, or if nodes move one for
            each time
        cells: (cell, corner) int64, or None
        tags: (node,) uint8, or None
        times, parameters, conditions, trajectories, starts: as in `GridBatch`
    """

    problem: Problem
    fields: Array
    inputs: Array | None
    coords: Array
    node_offsets: Array
    edges: Array
    edge_offsets: Array
    cells: Array | None
    cell_offsets: Array
    tags: Array | None
    times: Array
    parameters: Array
    conditions: Array
    trajectories: Array
    starts: Array

    def __len__(self) -> int:
        return len(self.trajectories)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored for each node, edge or cell."""
        parts = (self.fields, self.inputs, self.coords, self.edges, self.cells, self.tags)
        return sum(part.nbytes for part in parts if part is not None)

    def edges_of(self, time: int) -> Array:
        """Edges of all windows at one of their times, (edge, 2) int64."""
        row = range(self.fields.shape[0])[time] if len(self.edge_offsets) > 2 else 0
        return self.edges[self.edge_offsets[row] : self.edge_offsets[row + 1]]

    @property
    def window_of_node(self) -> Array:
        """Which window each node belongs to, (node,) int64."""
        return np.repeat(np.arange(len(self)), np.diff(self.node_offsets))


WindowBatch: TypeAlias = GridBatch | PointBatch


def boundary_codes(metadata: StoreMetadata, where: str) -> Array:
    """The code of each end's boundary condition, (axis, 2); `dirichlet/robin` differ in them."""
    codes = []
    for boundary in metadata.boundaries:
        lower, _, upper = boundary.partition("/")
        for end in (lower, upper or lower):
            if end not in BOUNDARIES:
                raise DataError(f"{where}: unknown boundary condition '{end}'")
            codes.append(BOUNDARIES.index(end))
    return np.asarray(codes, dtype=np.int64).reshape(-1, 2)


def unit_conditions(parameters: Array, card: DatasetCard, where: str) -> Array:
    """Parameters on [-1, 1] over the card's ranges, (trajectory, parameter) float32."""
    rows = np.empty(parameters.shape, dtype=np.float32)
    for column, parameter in enumerate(card.parameters):
        values, places = np.unique(parameters[:, column], return_inverse=True)
        if parameter.scale == "log" and (values <= 0).any():
            raise DataError(
                f"{where}: parameter '{parameter.name}' is {values[0]:g}, and its scale "
                "in the card is logarithmic"
            )
        mapped = [parameter.unit_interval(value) for value in values.tolist()]
        rows[:, column] = np.asarray(mapped, dtype=np.float32)[places.reshape(-1)]
    return rows
