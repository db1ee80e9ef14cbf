"""What is learned on top of the local fit: from nodes to anchors, from anchors to any point."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ups.codec.anchors import AnchorGrid
from ups.codec.cloud import Cloud
from ups.codec.messages import MessagePassing, Reading
from ups.codec.supernodes import Nearest, farthest_points, nearest, shortest

_SMALLEST_VOLUME = 1e-3
"""Relative to the mean volume of a node: below, the logarithm ends."""


@dataclass(frozen=True)
class Graph:
    """Who hears whom in a batch of clouds, lengths in anchor spacings.

    Attributes:
        steps: Of every edge, from sender to receiver.
        pooled: Nodes that each supernode reads.
        gathered: Supernodes that each anchor of each sample reads.
        features: What the geometry says about every node.
    """

    edges: Int64[Tensor, "edge 2"]
    steps: Float[Tensor, "edge dim"]
    pooled: Nearest
    gathered: Nearest
    features: Float[Tensor, "node feature"]


def build_graph(
    cloud: Cloud, grid: AnchorGrid, *, supernodes: int, neighbours: int, num_tags: int | None
) -> Graph:
    """Choose supernodes and find neighbours.

    Args:
        num_tags: Kinds of boundary told apart in the features; None leaves all features out.
    """
    spacing = cloud.coords.new_tensor(grid.spacing)
    periods = grid.periods
    sender, receiver = cloud.edges.T
    steps = shortest(cloud.coords[receiver] - cloud.coords[sender], periods) / spacing
    middle = [(low + high) / 2 for low, high in grid.bounds]
    chosen = farthest_points(cloud, supernodes, periods, middle)
    places, sample = cloud.coords[chosen], cloud.sample[chosen]
    pooled = nearest(places, sample, cloud.coords, cloud.sample, neighbours, periods)
    anchors = grid.centres().to(cloud.coords).repeat(cloud.num_samples, 1)
    rows = torch.arange(cloud.num_samples, device=sample.device)
    of_anchor = rows.repeat_interleave(grid.num_anchors)
    gathered = nearest(anchors, of_anchor, places, sample, neighbours, periods)
    if num_tags is None:
        features = cloud.coords.new_zeros(len(cloud), 0)
    else:
        features = geometric_features(cloud, grid, num_tags)
    return Graph(cloud.edges, steps, _scaled(pooled, spacing), _scaled(gathered, spacing), features)


def num_features(grid: AnchorGrid, num_tags: int) -> int:
    """Columns of `geometric_features`."""
    return sum(2 if wraps else 1 for wraps in grid.periodic) + 1 + grid.num_dims + num_tags + 1


def geometric_features(
    cloud: Cloud, grid: AnchorGrid, num_tags: int
) -> Float[Tensor, "node feature"]:
    """Position, logarithm of volume, direction out of the domain, kind of boundary.

    Positions are on [-1, 1], along periodic axes cosine and sine; volumes relative to an anchor's
    share of the domain; the direction is zero inside and where there are no cells.
    """
    place = grid.positions(cloud.coords) + 0.5
    columns = []
    for axis, (size, wraps) in enumerate(zip(grid.anchors, grid.periodic, strict=True)):
        along = 2 * place[:, axis] / size - 1
        columns += [(math.pi * along).cos(), (math.pi * along).sin()] if wraps else [along]
    mean = (1 / cloud.counts.clamp(min=1)).to(cloud.volumes)[cloud.sample]
    volume = torch.maximum(cloud.volumes, _SMALLEST_VOLUME * mean) * grid.num_anchors
    outward = torch.zeros_like(cloud.coords)
    if cloud.normals is not None:
        outward = F.normalize(cloud.normals, dim=-1)
    tags = torch.zeros_like(cloud.sample) if cloud.tags is None else cloud.tags
    kinds = F.one_hot(tags, num_tags + 1).to(place)
    return torch.cat([torch.stack([*columns, volume.log()], -1), outward, kinds], -1)


class ResidualEncoder(nn.Module):
    """Messages among nodes, read by supernodes, read by anchors; starts at zero.

    Shape:
        values: (time, node, field), of amplitude 1
        tokens: (time, row, dim), of the linear fit, of amplitude 1
        output: (time, row, dim); a row is an anchor of a sample
    """

    def __init__(
        self, num_fields: int, num_features: int, latent_dim: int, dims: int, width: int, steps: int
    ) -> None:
        super().__init__()
        self.inward = nn.Sequential(
            nn.Linear(num_fields + num_features, width), nn.GELU(), nn.Linear(width, width)
        )
        self.messages = nn.ModuleList(MessagePassing(width, dims) for _ in range(steps))
        self.pool, self.gather = Reading(width, dims), Reading(width, dims)
        self.linear = nn.Linear(latent_dim, width)
        self.out = zero_linear(2 * width, latent_dim)

    def forward(
        self,
        values: Float[Tensor, "time node field"],
        tokens: Float[Tensor, "time row dim"],
        graph: Graph,
    ) -> Float[Tensor, "time row dim"]:
        features = graph.features.to(values).expand(len(values), -1, -1)
        nodes = self.inward(torch.cat([values, features], -1))
        for step in self.messages:
            nodes = step(nodes, graph.edges, graph.steps.to(values))
        pooled, gathered = graph.pooled, graph.gathered
        nodes = self.pool(nodes, pooled.index, pooled.found, pooled.offset.to(values))
        rows = self.gather(nodes, gathered.index, gathered.found, gathered.offset.to(values))
        return self.out(F.gelu(torch.cat([rows, self.linear(tokens)], -1)))


class ResidualDecoder(nn.Module):
    """Every query reads the anchors nearest to it, seen from where it is; starts at zero.

    Shape:
        tokens: (time, row, dim), of amplitude 1; a row is an anchor of a sample
        coords: (query, axis), physical units
        sample: (query,)
        output: (time, query, field)
    """

    def __init__(
        self, grid: AnchorGrid, num_fields: int, latent_dim: int, width: int, neighbours: int
    ) -> None:
        super().__init__()
        self.grid, self.neighbours = grid, neighbours
        self.inward = nn.Linear(latent_dim, width)
        self.read = Reading(width, grid.num_dims)
        self.out = nn.Sequential(nn.GELU(), zero_linear(width, num_fields))

    def forward(
        self,
        tokens: Float[Tensor, "time row dim"],
        coords: Float[Tensor, "query axis"],
        sample: Int64[Tensor, " query"],
    ) -> Float[Tensor, "time query field"]:
        near = self.grid.nearest(coords, self.neighbours)
        rows = near.index + sample[:, None] * self.grid.num_anchors
        found = torch.ones_like(rows, dtype=torch.bool)
        way, closeness = near.relative.to(tokens), near.closeness.to(tokens)
        return self.out(self.read(F.gelu(self.inward(tokens)), rows, found, way, closeness))


def zero_linear(width: int, out: int) -> nn.Linear:
    """A layer that starts at zero, so that what it corrects starts uncorrected."""
    layer = nn.Linear(width, out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _scaled(found: Nearest, spacing: Float[Tensor, " dim"]) -> Nearest:
    return Nearest(found.index, found.offset / spacing, found.found)
