"""Stores of the published shape without data: enough to build and time what trains on them."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import Delaunay, cKDTree

from ups.data.points import PointStore
from ups.data.statistics import NAMES
from ups.data.store import StoreMetadata, TrajectoryStore
from ups.registry import DatasetCard

NUM_TRAJECTORIES = 512  # what `ups data generate` makes by default
NUM_TEST = NUM_VALID = 51
REDUCED = {"compressible_ns3d": (2, 21), "navier_stokes2d": (4, 100), "quickstart": (4, 41)}
"""Stride and frames that configs name, by dataset or version."""


def imagined(card: DatasetCard, version: str = "latest") -> TrajectoryStore | PointStore:
    """512 equal trajectories of the size that is published, or that the config names."""
    stride, frames = REDUCED.get(version) or REDUCED.get(card.key) or (1, card.time.frames)
    if card.discretisation.kind == "grid":
        return _Grid(card, stride, frames)
    return _Points(card, frames)


def _metadata(card: DatasetCard) -> StoreMetadata:
    axes = card.discretisation.axes
    return StoreMetadata(
        dataset=card.key, version="imagined", fields=card.field_names, inputs=card.input_names,
        parameters=card.parameter_names, axes=tuple(axis.name for axis in axes),
        bounds=tuple(axis.bounds for axis in axes), periodic=card.periodic,
        boundaries=tuple(axis.boundaries for axis in axes), dt=card.time.step, stride_x=1,
        stride_t=1, sources=(), split_hash="", data_sha256="",
    )  # fmt: skip


def _describe(store: Any, card: DatasetCard, frames: int) -> None:
    store.path, store.metadata = Path("imagined"), _metadata(card)
    store.time = np.arange(frames) * (card.time.step or 1.0)
    middle = [math.sqrt(low * high) if p.scale == "log" else (low + high) / 2
              for p in card.parameters for low, high in [p.range]]  # fmt: skip
    store.parameters = np.tile(middle, (NUM_TRAJECTORIES, 1))
    store.splits = np.zeros(NUM_TRAJECTORIES, np.uint8)
    store.splits[:NUM_TEST], store.splits[-NUM_VALID:] = 2, 1
    store.statistics = {name: np.ones(len(card.fields)) for name in NAMES}
    store.input_statistics = {name: np.ones(len(card.inputs)) for name in NAMES}


def _zeros(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """A memory map of a file that is all hole: no bytes on disk, none in memory until read."""
    with tempfile.TemporaryFile() as file:
        file.truncate(4 * math.prod(shape))
        return np.memmap(file, np.float32, "r", shape=shape)


class _Grid(TrajectoryStore):
    def __init__(self, card: DatasetCard, stride: int, frames: int) -> None:
        _describe(self, card, frames)
        axes = card.discretisation.axes
        space = tuple((axis.points or 0) // stride for axis in axes)
        self.coords = tuple(
            low + (np.arange(n) + 0.5) * (high - low) / n
            for n, (low, high) in zip(space, (axis.bounds for axis in axes), strict=True)
        )
        self.fields = _zeros((NUM_TRAJECTORIES, len(self.time), *space, len(card.fields)))
        inputs = (NUM_TRAJECTORIES, *space, len(card.inputs))
        self.inputs = _zeros(inputs) if card.inputs else None


class _Points(PointStore):
    def __init__(self, card: DatasetCard, frames: int) -> None:
        _describe(self, card, frames)
        discretisation = card.discretisation
        assert discretisation.nodes is not None
        assert discretisation.kind != "grid"
        self.kind, self.neighbour_radius = discretisation.kind, discretisation.neighbour_radius
        random, bounds = np.random.default_rng(0), np.array([a.bounds for a in discretisation.axes])
        nodes = sum(discretisation.nodes) // 2
        places = bounds[:, 0] + random.random((nodes, len(bounds))) * np.diff(bounds).T
        self._places, self._moves = places.astype(np.float32), bool(discretisation.velocity)
        self._values = 1.5 + random.random((nodes, len(card.fields)), np.float32)
        self._cells = Delaunay(places).simplices.astype(np.int32) if self.kind == "mesh" else None
        self._offsets = {"nodes": np.arange(NUM_TRAJECTORIES + 1) * nodes}
        self._edges = self._neighbours().astype(np.int32)

    def _neighbours(self) -> np.ndarray[Any, Any]:
        if self._cells is not None:
            corners = self._cells.shape[1]
            pairs = [self._cells[:, [i, j]] for i in range(corners) for j in range(corners)
                     if i != j]  # fmt: skip
            return np.unique(np.concatenate(pairs), axis=0)
        assert self.neighbour_radius is not None
        pairs = cKDTree(self._places).query_pairs(self.neighbour_radius, output_type="ndarray")
        return np.concatenate([pairs, pairs[:, ::-1]])

    def moves(self, trajectory: int) -> bool:
        return self._moves

    def fields(self, trajectory: int, frames: slice = slice(None)) -> np.ndarray[Any, Any]:
        return np.stack([self._values] * len(range(self.num_frames)[frames]))

    def coords(self, trajectory: int, frames: slice = slice(None)) -> np.ndarray[Any, Any]:
        if not self._moves:
            return self._places
        return np.stack([self._places] * len(range(self.num_frames)[frames]))

    def inputs(self, trajectory: int) -> np.ndarray[Any, Any] | None:
        count = len(self.metadata.inputs)
        return self._values[:, :1].repeat(count, 1) if count else None

    def tags(self, trajectory: int) -> None:
        return None

    def cells(self, trajectory: int) -> np.ndarray[Any, Any] | None:
        return self._cells

    def edges(self, trajectory: int, frame: int | None = None) -> np.ndarray[Any, Any]:
        return self._edges
