"""Who is next to whom: neighbour lists of particles, edges of meshes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from ups.errors import DataError

Array = npt.NDArray[Any]


def radius_neighbours(
    positions: Array, radius: int | float, periods: Sequence[int | float | None]
) -> Array:
    """All pairs of particles that are not farther than `radius` from each other.

    Distances are measured in float64, on a periodic axis to the nearest image; a pair is listed
    once in each direction however many images are in reach. Where particles lie outside the
    first period, or where the box begins, makes no difference.

    Args:
        positions: (node, dim), units of the axes.
        radius: Positive, same units.
        periods: Length of the box along each axis, None where it is not periodic.
    Returns:
        (edge, 2) int32: rows (i, j) and (j, i), i != j, in rising order of i, then j.
    Raises:
        DataError: A position is not finite.
        ValueError: Shapes or numbers that do not fit together.
    """
    points = np.asarray(positions, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != len(periods) or not points.shape[1]:
        raise ValueError(f"positions {points.shape} do not fit {len(periods)} axes")
    if not (math.isfinite(radius) and radius > 0):
        raise ValueError(f"radius must be positive, not {radius}")
    if any(period is not None and not 0 < period < math.inf for period in periods):
        raise ValueError(f"periods must be positive or None, not {tuple(periods)}")
    if not np.isfinite(points).all():
        node = int(np.argwhere(~np.isfinite(points))[0, 0])
        raise DataError(f"positions: particle {node} is at {points[node].tolist()}")
    if len(points) < 2:
        return np.empty((0, 2), dtype=np.int32)
    # cKDTree's word for "not periodic" is a box of length 0.
    box = np.array([0.0 if period is None else float(period) for period in periods])
    tree = cKDTree(_into_box(points, box), boxsize=box if box.any() else None)
    return _both_directions(tree.query_pairs(float(radius), output_type="ndarray"), len(points))


def mesh_edges(cells: Array, num_nodes: int) -> Array:
    """Every side of every triangle or tetrahedron, once in each direction.

    Args:
        cells: (cell, corner) integers, numbers of nodes; all corners of a cell are joined, so
            quadrilaterals would get their diagonals.
        num_nodes: Nodes of the mesh; those of no cell have no edge.
    Returns:
        (edge, 2) int32 in rising order of the first node, then the second.
    Raises:
        DataError: A cell names a node that is not there, or the same node twice.
        ValueError: `cells` is not a table of integers with 2 to 4 corners.
    """
    corners = np.asarray(cells)
    if corners.ndim != 2 or corners.dtype.kind not in "iu" or corners.shape[1] not in (2, 3, 4):
        raise ValueError(f"cells must be (cell, 2 to 4) integers, not {corners.shape}")
    corners = corners.astype(np.int64)
    outside = (corners < 0) | (corners >= num_nodes)
    if outside.any():
        cell, corner = np.argwhere(outside)[0]
        raise DataError(
            f"cells: cell {cell} names node {corners[cell, corner]}, the mesh has {num_nodes}"
        )
    sides = np.concatenate(
        [corners[:, list(pair)] for pair in combinations(range(corners.shape[1]), 2)]
    )
    if (sides[:, 0] == sides[:, 1]).any():
        row = int(np.argmax(sides[:, 0] == sides[:, 1]))
        raise DataError(f"cells: cell {row % len(corners)} names node {sides[row, 0]} twice")
    return _both_directions(sides, num_nodes)


def _into_box(points: Array, box: Array) -> Array:
    """Positions in [0, length) along periodic axes, unchanged along the others."""
    periodic = box > 0
    wrapped = points.copy()
    wrapped[:, periodic] = np.mod(points[:, periodic], box[periodic])
    # The remainder of a tiny negative number rounds up to the length itself.
    return np.where(periodic & (wrapped >= box), 0.0, wrapped)


def _both_directions(pairs: Array, num_nodes: int) -> Array:
    """Distinct (i, j) and (j, i), sorted, of pairs with i != j in any order."""
    first, second = pairs.astype(np.int64).T
    keys = np.unique(np.concatenate([first * num_nodes + second, second * num_nodes + first]))
    return np.stack(np.divmod(keys, max(num_nodes, 1)), axis=1).astype(np.int32)
