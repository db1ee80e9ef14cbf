"""Whether the cells of a mesh and the edges between nodes are what they should be.

Each check returns what is wrong in a few words, beginning with 'warn: ' where no number is spoilt
by it, or nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.data.conversion.neighbours import mesh_edges, radius_neighbours
from ups.data.points import PointStore
from ups.errors import DataError

Array = npt.NDArray[Any]
_ROUNDING = 2.0**-22
"""Twice the relative rounding of float32: coordinates do not tell smaller heights from none."""


def check_cells(store: PointStore, trajectory: int) -> str:
    """Corners that are not there, cells without volume, turned ones, nodes of no cell."""
    cells = store.cells(trajectory)
    if cells is None:
        return ""
    nodes = store.num_nodes(trajectory)
    if not len(cells) or cells.min() < 0 or cells.max() >= nodes:
        return "cells name nodes that are not there"
    coords = store.coords(trajectory)
    frames = coords if coords.ndim == 3 else coords[None]
    for positions in frames:
        if problem := _check_shape(positions[cells].astype(np.float64)):
            return problem
    if len(np.unique(cells)) < nodes:
        return "warn: nodes of no cell"
    return ""


def _check_shape(corners: Array) -> str:
    """Of cells as (cell, corner, dim): volumes and orientation."""
    with np.errstate(invalid="ignore"):  # a position that is not finite is another check's find
        volumes = signed_volumes(corners)
    sides = corners[:, :, None] - corners[:, None, :]
    longest = np.sqrt(np.square(sides).sum(-1).max((1, 2)))
    rounding = np.abs(corners).max() * longest ** (corners.shape[-1] - 1)
    if not (np.abs(volumes) > _ROUNDING * rounding).all():
        return "cells without volume"
    if (volumes > 0).any() and (volumes < 0).any():
        return "warn: cells of both orientations"
    return ""


def signed_volumes(corners: Array) -> Array:
    """Length, area or volume of simplices, negative where they are turned.

    Shape:
        corners: (cell, dim + 1, dim)
        output: (cell,)
    """
    dims = corners.shape[-1]
    spanned: Array = corners[:, 1:] - corners[:, :1]
    return np.asarray(np.linalg.det(spanned) / math.factorial(dims))


def check_edges(store: PointStore, trajectory: int) -> str:
    """Ends that are not there, edges from a node to itself, doubled ones, one direction only."""
    nodes = store.num_nodes(trajectory)
    edges = store.all_edges(trajectory).astype(np.int64)
    if not len(edges):
        return _check_against_geometry(store, trajectory) or ("warn: no edges" if nodes > 1 else "")
    if edges.min() < 0 or edges.max() >= nodes:
        return "edges name nodes that are not there"
    first, second = edges.T
    if (first == second).any():
        return "edges from a node to itself"
    counts = store.edge_counts(trajectory)
    base = np.repeat(np.arange(len(counts)), counts) * nodes * nodes
    there = np.sort(base + first * nodes + second)
    if (np.diff(there) == 0).any():
        return "edges that are there twice"
    if not np.array_equal(there, np.sort(base + second * nodes + first)):
        return "edges without their opposite"
    return _check_against_geometry(store, trajectory)


def _check_against_geometry(store: PointStore, trajectory: int) -> str:
    """Find the edges again: all of a mesh, those of the first and last frame of particles."""
    cells, coords = store.cells(trajectory), store.coords(trajectory)
    if cells is not None:
        try:
            expected = mesh_edges(cells, store.num_nodes(trajectory))
        except DataError:
            return "edges of cells that name nodes twice or nodes that are not there"
        same = np.array_equal(store.edges(trajectory), expected)
        return "" if same else "edges that are not those of the cells"
    radius = store.neighbour_radius
    if radius is None or not np.isfinite(coords).all():
        return "" if radius is not None else "no neighbour radius is recorded"
    periods = [
        high - low if periodic else None
        for (low, high), periodic in zip(
            store.metadata.bounds, store.metadata.periodic, strict=True
        )
    ]
    frames = {0: coords[0], -1: coords[-1]} if coords.ndim == 3 else {0: coords}
    for frame, positions in frames.items():
        expected = radius_neighbours(positions, radius, periods)
        if not np.array_equal(store.edges(trajectory, frame), expected):
            return "edges that are not those between neighbours"
    return ""
