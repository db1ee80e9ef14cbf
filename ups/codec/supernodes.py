"""A few nodes that stand for all, and who is nearest to whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ups.codec.cloud import Cloud

Periods = Sequence[float | None]
_MAX_PAIRS = 2**23
"""Distances computed at once."""


@dataclass(frozen=True)
class Nearest:
    """Sources nearest to each place.

    Shape:
        index: (place, neighbour) int64, numbers of sources
        offset: (place, neighbour, dim), from the source to the place, physical units
        found: (place, neighbour), False where a sample has fewer sources than neighbours
    """

    index: Int64[Tensor, "place neighbour"]
    offset: Float[Tensor, "place neighbour dim"]
    found: Bool[Tensor, "place neighbour"]


def shortest(steps: Float[Tensor, "*some dim"], periods: Periods) -> Float[Tensor, "*some dim"]:
    """Differences of positions, the shortest way round periodic axes."""
    if not any(periods):
        return steps
    box = steps.new_tensor([period or torch.inf for period in periods])
    turns = (steps / box).round()
    return steps - torch.where(turns == 0, 0.0, turns * box)


def farthest_points(
    cloud: Cloud, number: int, periods: Periods, start: Sequence[float]
) -> Int64[Tensor, " chosen"]:
    """Farthest-point sampling in every sample of a batch, deterministic.

    The first is the node nearest to `start`; each next one is the node farthest from all before.
    A sample of fewer nodes gives all of them.

    Returns:
        Numbers of nodes of the batch, by sample, in the order of choice.
    Source:
        Eldar et al., The farthest point strategy for progressive image sampling, IEEE Trans. Image
        Process. 6 (1997).
    """
    counts = cloud.counts
    first = counts.cumsum(0) - counts
    place = torch.arange(len(cloud), device=counts.device) - first[cloud.sample]
    shape = (cloud.num_samples, int(counts.max()))
    coords = cloud.coords.new_zeros(*shape, cloud.coords.shape[1])
    coords[cloud.sample, place] = cloud.coords
    is_node = torch.zeros(shape, dtype=torch.bool, device=counts.device)
    is_node[cloud.sample, place] = True
    rows = torch.arange(cloud.num_samples, device=counts.device)
    from_start = shortest(coords - coords.new_tensor(start), periods).square().sum(-1)
    chosen = [torch.where(is_node, from_start, torch.inf).argmin(1)]
    away = torch.where(is_node, torch.inf, -1.0)
    for _ in range(1, min(number, shape[1])):
        steps = shortest(coords - coords[rows, chosen[-1]][:, None], periods)
        away = torch.minimum(away, torch.where(is_node, steps.square().sum(-1), -1.0))
        # Chosen ones are out even where nodes coincide.
        away[rows, chosen[-1]] = -1.0
        chosen.append(away.argmax(1))
    picked = torch.stack(chosen, 1)
    order = torch.arange(picked.shape[1], device=counts.device)
    return (picked + first[:, None])[order < counts[:, None]]


def nearest(
    places: Float[Tensor, "place dim"],
    place_sample: Int64[Tensor, " place"],
    sources: Float[Tensor, "source dim"],
    source_sample: Int64[Tensor, " source"],
    number: int,
    periods: Periods,
) -> Nearest:
    """The `number` nearest sources in the same sample, nearest first."""
    shape = (len(places), number)
    index = torch.zeros(shape, dtype=torch.int64, device=places.device)
    offset = places.new_zeros(*shape, places.shape[1])
    found = torch.zeros(shape, dtype=torch.bool, device=places.device)
    for sample in torch.unique(place_sample).tolist():
        there = (source_sample == sample).nonzero()[:, 0]
        count = min(number, len(there))
        of_sample = (place_sample == sample).nonzero()[:, 0]
        for here in of_sample.split(max(1, _MAX_PAIRS // len(there))):
            steps = shortest(places[here, None] - sources[there], periods)
            near = steps.square().sum(-1).topk(count, largest=False).indices
            index[here, :count] = there[near]
            offset[here, :count] = steps.gather(1, near[..., None].expand(-1, -1, steps.shape[2]))
            found[here, :count] = True
    return Nearest(index, offset, found)
