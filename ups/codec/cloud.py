"""The nodes of a batch of meshes, or particles: where they are, and how much each stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64
from scipy.spatial import cKDTree
from torch import Tensor

from ups.data.conversion.neighbours import mesh_edges, radius_neighbours
from ups.data.points import PointStore
from ups.errors import DataError

Array = npt.NDArray[Any]
Periods = Sequence[float | None]

_NEIGHBOURS = {1: 2, 2: 6, 3: 12}
"""Nearest particles whose distance says how much room a particle has, by dimension."""


@dataclass(frozen=True)
class Cloud:
    """Nodes of one or several samples, all one after the other.

    Attributes:
        coords: Positions, physical units.
        sample: Which sample each node belongs to, in rising order.
        volumes: Share of each node in the volume of its sample; adds up to 1 in every sample.
        edges: Pairs of neighbours, in both directions, numbers of nodes of the batch.
        normals: Integral of the outward normal times the node's hat function over the boundary:
            direction of the boundary and its length (area) around the node, zero inside. None
            where there are no cells.
        tags: 0 inside, a kind of boundary each otherwise; None where the data have none.
        num_samples: Samples in the batch.
    """

    coords: Float[Tensor, "node dim"]
    sample: Int64[Tensor, " node"]
    volumes: Float[Tensor, " node"]
    edges: Int64[Tensor, "edge 2"]
    normals: Float[Tensor, "node dim"] | None = None
    tags: Int64[Tensor, " node"] | None = None
    num_samples: int = 1

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def counts(self) -> Int64[Tensor, " sample"]:
        """Nodes of every sample."""
        return torch.bincount(self.sample, minlength=self.num_samples)

    def to(self, device: torch.device | str) -> Cloud:
        return replace(
            self,
            coords=self.coords.to(device),
            sample=self.sample.to(device),
            volumes=self.volumes.to(device),
            edges=self.edges.to(device),
            normals=None if self.normals is None else self.normals.to(device),
            tags=None if self.tags is None else self.tags.to(device),
        )


def cloud_of(store: PointStore, trajectory: int, frame: int | None = None) -> Cloud:
    """The nodes of one trajectory of a store.

    Args:
        frame: Which frame's positions, where nodes move.
    Raises:
        ValueError: Nodes move and no frame is given.
    """
    moves = store.moves(trajectory)
    if moves and frame is None:
        raise ValueError(f"{store.name}: particles move: say which frame")
    if moves and frame is not None:
        frame = range(store.num_frames)[frame]
        coords = store.coords(trajectory, slice(frame, frame + 1))[0]
    else:
        coords = store.coords(trajectory)
    return make_cloud(
        coords,
        cells=store.cells(trajectory),
        edges=store.edges(trajectory, frame),
        tags=store.tags(trajectory),
        periods=periods_of(store),
        where=f"{store.name}: trajectory {trajectory}",
    )


def periods_of(store: PointStore) -> tuple[float | None, ...]:
    """Length of the box along each axis, None where it does not wrap."""
    pairs = zip(store.metadata.bounds, store.metadata.periodic, strict=True)
    return tuple(float(high - low) if wraps else None for (low, high), wraps in pairs)


def make_cloud(
    coords: Array,
    *,
    cells: Array | None = None,
    edges: Array | None = None,
    tags: Array | None = None,
    radius: float | None = None,
    periods: Periods | None = None,
    where: str = "cloud",
) -> Cloud:
    """A batch of one sample.

    A node of a mesh has its share of the cells around it; a particle has room in proportion to
    the distance to its nearest neighbours, to the power of the dimension.

    Args:
        coords: (node, dim).
        cells: (cell, dim + 1), triangles in 2D, tetrahedra in 3D.
        edges: (edge, 2), both directions; None takes those of the cells, or all within `radius`.
        tags: (node,).
        periods: Length of the box along each axis, None where it does not wrap.
    Raises:
        DataError: There is no node, cells are not simplices, or fill no volume.
        ValueError: Neither edges, nor cells, nor a radius is given.
    """
    if not len(coords):
        raise DataError(f"{where}: no nodes")
    points = np.asarray(coords, dtype=np.float64)
    periods = tuple(periods) if periods is not None else (None,) * points.shape[1]
    normals = None
    if cells is not None:
        volumes, outward = _of_simplices(points, np.asarray(cells), periods, where)
        normals = torch.from_numpy(outward.astype(np.float32))
    else:
        volumes = _of_distances(points, periods)
    if edges is None and cells is not None:
        edges = mesh_edges(cells, len(points))
    elif edges is None and radius is not None:
        edges = radius_neighbours(points, radius, periods)
    elif edges is None:
        raise ValueError(f"{where}: neighbours follow from edges, cells or a radius: give one")
    return Cloud(
        coords=torch.from_numpy(points.astype(np.float32)),
        sample=torch.zeros(len(points), dtype=torch.int64),
        volumes=torch.from_numpy((volumes / volumes.sum()).astype(np.float32)),
        edges=torch.from_numpy(np.asarray(edges).astype(np.int64)),
        normals=normals,
        tags=None if tags is None else torch.from_numpy(np.asarray(tags).astype(np.int64)),
    )


def merged(clouds: Sequence[Cloud]) -> Cloud:
    """All samples of several clouds as one batch, in order.

    Normals and tags are kept where all clouds have them.
    """
    if not clouds:
        raise ValueError("no clouds to merge")
    nodes = np.cumsum([0, *(len(each) for each in clouds)]).tolist()
    samples = np.cumsum([0, *(each.num_samples for each in clouds)]).tolist()
    normals = [each.normals for each in clouds if each.normals is not None]
    tags = [each.tags for each in clouds if each.tags is not None]
    return Cloud(
        coords=torch.cat([each.coords for each in clouds]),
        sample=torch.cat([c.sample + first for c, first in zip(clouds, samples, strict=False)]),
        volumes=torch.cat([each.volumes for each in clouds]),
        edges=torch.cat([c.edges + first for c, first in zip(clouds, nodes, strict=False)]),
        normals=torch.cat(normals) if len(normals) == len(clouds) else None,
        tags=torch.cat(tags) if len(tags) == len(clouds) else None,
        num_samples=samples[-1],
    )


def repeated(cloud: Cloud, times: int) -> Cloud:
    """The whole batch `times` times over: one mesh for many frames."""
    return merged([cloud] * times)


def _of_simplices(points: Array, cells: Array, periods: Periods, where: str) -> tuple[Array, Array]:
    """Volume (node,) and outward normal (node, dim) that cells leave to their corners.

    The integral of a hat function's gradient over the domain is the integral of the function
    times the outward normal over the boundary; inside it vanishes.
    """
    dims = points.shape[1]
    if cells.ndim != 2 or cells.shape[1] != dims + 1 or not len(cells):
        raise DataError(
            f"{where}: cells of shape {cells.shape}, expected (cell, {dims + 1}): simplices in "
            f"{dims} dimensions"
        )
    sides = nearest_image(points[cells[:, 1:]] - points[cells[:, :1]], periods)
    size = np.abs(np.linalg.det(sides)) / math.factorial(dims)
    if not size.sum() > 0:
        raise DataError(f"{where}: cells fill no volume")
    full = size > 1e-12 * size.max()
    cells, sides, size = cells[full], sides[full], size[full]
    # Rows of the inverse's transpose are the gradients of the hat functions of corners 1, 2, ...
    gradients = np.linalg.inv(sides).swapaxes(1, 2)
    gradients = np.concatenate([-gradients.sum(1, keepdims=True), gradients], axis=1)
    volumes, normals = np.zeros(len(points)), np.zeros_like(points)
    for corner in range(dims + 1):
        np.add.at(volumes, cells[:, corner], size / (dims + 1))
        np.add.at(normals, cells[:, corner], size[:, None] * gradients[:, corner])
    # What should vanish inside does so to rounding.
    length = np.linalg.norm(normals, axis=1)
    normals[length < 1e-9 * size.max() ** ((dims - 1) / dims)] = 0
    return volumes, normals


def _of_distances(points: Array, periods: Periods) -> Array:
    """Room around every particle, (node,), up to a factor."""
    nodes, dims = points.shape
    nearest = min(_NEIGHBOURS.get(dims, 2 * dims), nodes - 1)
    if nearest < 1:
        return np.ones(nodes)
    box = np.array([period or 0.0 for period in periods])
    wrapped = points.copy()
    wrapped[:, box > 0] %= box[box > 0]
    # The remainder of a tiny negative number rounds up to the length itself.
    wrapped = np.where((box > 0) & (wrapped >= box), 0.0, wrapped)
    tree = cKDTree(wrapped, boxsize=box if box.any() else None)
    distance = tree.query(wrapped, nearest + 1)[0][:, -1]
    if not distance.max() > 0:
        return np.ones(nodes)
    return np.maximum(distance, 1e-6 * distance.max()) ** dims


def nearest_image(steps: Array, periods: Periods) -> Array:
    """Differences of positions, (*some, dim), the shortest way round periodic axes."""
    box = np.array([period or 0.0 for period in periods])
    turns = np.round(np.divide(steps, box, out=np.zeros_like(steps), where=box > 0))
    return steps - turns * box
