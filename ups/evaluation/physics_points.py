"""What physics asks of fields on meshes: zero on walls, no divergence, a weighted mean."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ups.data.points import PointStore
from ups.evaluation.physics_measures import Fields, PerFrame
from ups.evaluation.rollout import Batch
from ups.physics.norms import ROUNDING, relative
from ups.registry import DatasetCard

_WALLS = {
    "-div(a grad u) = beta, u = 0 on the boundary": (("u",), (1, 255)),
    "u_t + (u . grad) u + grad p = nu lap u, div u = 0": (("velocity_x", "velocity_y"), (3, 4)),
}
"""Equation -> fields that vanish, and the first and last node tag where they do."""


@dataclass(frozen=True)
class NodeBoundary:
    """RMS of fields where they must be zero over their RMS everywhere.

    Attributes:
        channels: That vanish at nodes whose tag is between the two of `tags`.
    """

    store: PointStore
    channels: tuple[int, ...]
    tags: tuple[int, int]
    name: str = "boundary"
    what: str = "RMS on nodes where fields are zero / RMS everywhere"
    allowance: float = 0.01

    def __call__(self, batch: Batch) -> tuple[PerFrame, PerFrame]:
        tags = self.store.tags(int(batch.trajectories[0]))
        assert tags is not None
        low, high = self.tags
        there = torch.from_numpy(np.flatnonzero((tags >= low) & (tags <= high)))
        return self._of(batch.prediction, there), self._of(batch.reference, there)

    def _of(self, fields: Fields, there: Tensor) -> PerFrame:
        square = fields[..., list(self.channels)].double().square()
        return relative(square[:, :, there].mean((2, 3)), square.mean((2, 3)))


def node_boundary(card: DatasetCard, store: PointStore) -> NodeBoundary | None:
    """The check for the walls of a card's equation, where they are known and nodes are tagged."""
    found = _WALLS.get(" ".join(card.pde.equation.split()))
    if found is None or store.tags(0) is None:
        return None
    fields, tags = found
    return NodeBoundary(store, tuple(card.field_names.index(name) for name in fields), tags)


@dataclass(frozen=True)
class CellDivergence:
    """RMS divergence over RMS of all slopes of the linear interpolant, weighted by volume."""

    store: PointStore
    vectors: tuple[tuple[int, ...], ...]
    name: str = "divergence"
    what: str = "RMS divergence in the cells / RMS of the velocity's slopes"
    allowance: float = 0.01

    def __call__(self, batch: Batch) -> tuple[PerFrame, PerFrame]:
        cells, slopes, volumes = _simplices(self.store, int(batch.trajectories[0]))
        share = volumes / volumes.sum()

        def of(fields: Fields) -> PerFrame:
            squares = []
            for vector in self.vectors:
                corners = fields[..., list(vector)].double()[:, :, cells]
                gradient = torch.einsum("btnkv,nkx->btnvx", corners, slopes)
                spread = gradient.diagonal(dim1=-2, dim2=-1).sum(-1).square() @ share
                whole = gradient.square().sum((-2, -1)) @ share
                size = corners.square().mean((2, 3, 4)) * slopes.square().mean()
                squares.append(relative(spread, whole + ROUNDING**2 * size).square())
            return torch.stack(squares).mean(0).sqrt()

        return of(batch.prediction), of(batch.reference)


@dataclass(frozen=True)
class CellWeights:
    """Share of a mesh's volume that each node stands for: a cell's is divided by its corners."""

    store: PointStore

    def __call__(self, trajectory: int) -> Float64[Tensor, " node"]:
        cells, _, volumes = _simplices(self.store, trajectory)
        corners = cells.shape[1]
        share = (volumes / volumes.sum() / corners)[:, None].expand(-1, corners)
        weights = torch.zeros(self.store.num_nodes(trajectory), dtype=torch.float64)
        return weights.index_add(0, cells.flatten(), share.flatten())


def has_simplices(store: PointStore) -> bool:
    """Whether it is a mesh at rest of triangles or tetrahedra."""
    cells = store.cells(0)
    return cells is not None and cells.shape[1] == store.num_dims + 1 and not store.moves(0)


def _simplices(store: PointStore, trajectory: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cells, slopes of their corners' hat functions, volumes.

    Shape:
        output: (cell, corner) int64, (cell, corner, dim), (cell,)
    """
    found = store.cells(trajectory)
    assert found is not None
    cells = torch.from_numpy(found.astype(np.int64))
    corners = torch.from_numpy(np.array(store.coords(trajectory), dtype=np.float64))[cells]
    edges = corners[:, 1:] - corners[:, :1]
    others = torch.linalg.inv(edges).mT  # (cell, corner, dim): of all but the first corner
    slopes = torch.cat([-others.sum(1, keepdim=True), others], 1)
    volumes = torch.linalg.det(edges).abs() / factorial(edges.shape[-1])
    return cells, slopes, volumes
