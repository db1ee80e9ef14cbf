"""Anchors on a regular grid over a box, and which of them are around a point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Around:
    """The 2^dim anchors around each of some points.

    Shape:
        index: (point, corner) int64, numbers of anchors, last axis fastest
        relative: (point, corner, dim), from the anchor to the point, in anchor spacings
        weight: (point, corner), adds up to 1 over the corners
    """

    index: Int64[Tensor, "point corner"]
    relative: Float[Tensor, "point corner dim"]
    weight: Float[Tensor, "point corner"]


@dataclass(frozen=True)
class NearestAnchors:
    """The anchors nearest to each of some points.

    Shape:
        index: (point, neighbour) int64, nearest first
        relative: (point, neighbour, dim), from the anchor to the point, in anchor spacings
        closeness: (point, neighbour), falls to 0 with slope 0 at the distance of the next anchor,
            so that a sum weighted with it does not jump where the set of neighbours changes
    """

    index: Int64[Tensor, "point neighbour"]
    relative: Float[Tensor, "point neighbour dim"]
    closeness: Float[Tensor, "point neighbour"]


@dataclass(frozen=True)
class AnchorGrid:
    """Anchors at the centres of equal cells of a box.

    Attributes:
        anchors: Cells along each axis.
        bounds: Lower and upper end of the box along each axis.
        periodic: Whether each axis wraps.
    """

    anchors: tuple[int, ...]
    bounds: tuple[tuple[float, float], ...]
    periodic: tuple[bool, ...]

    @property
    def num_anchors(self) -> int:
        return math.prod(self.anchors)

    @property
    def num_dims(self) -> int:
        return len(self.anchors)

    @property
    def spacing(self) -> tuple[float, ...]:
        pairs = zip(self.bounds, self.anchors, strict=True)
        return tuple((high - low) / size for (low, high), size in pairs)

    @property
    def periods(self) -> tuple[float | None, ...]:
        """Length of the box along each axis, None where it does not wrap."""
        pairs = zip(self.bounds, self.periodic, strict=True)
        return tuple(high - low if wraps else None for (low, high), wraps in pairs)

    def centres(self) -> Float[Tensor, "anchor dim"]:
        """Where the anchors are, float64."""
        axes = [
            low + step * (torch.arange(size, dtype=torch.float64) + 0.5)
            for (low, _), step, size in zip(self.bounds, self.spacing, self.anchors, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, self.num_dims)

    def positions(self, coords: Float[Tensor, "point dim"]) -> Float[Tensor, "point dim"]:
        """Coordinates in anchor spacings from the first anchor; along periodic axes wrapped."""
        low = coords.new_tensor([low for low, _ in self.bounds])
        from_low = (coords - low) / coords.new_tensor(self.spacing)
        size = coords.new_tensor(self.anchors)
        wraps = torch.tensor(self.periodic, device=coords.device)
        turns = torch.where(wraps, (from_low.detach() / size).floor() * size, 0.0)
        return from_low - turns - 0.5

    def index(self, place: Int64[Tensor, "*some dim"]) -> Int64[Tensor, "*some"]:
        """Number of the anchor at integer places: wrapped, or moved to the nearest anchor."""
        number = torch.zeros_like(place[..., 0])
        for axis, (size, wraps) in enumerate(zip(self.anchors, self.periodic, strict=True)):
            along = place[..., axis]
            number = number * size + (along % size if wraps else along.clamp(0, size - 1))
        return number

    def around(self, coords: Float[Tensor, "point dim"]) -> Around:
        """The anchors at the corners of the cell between anchors that holds each point.

        Weights are products of smooth steps: once differentiable in `coords`, 1 at an anchor. A
        point between the outermost anchors and the box's end belongs to the former alone.
        """
        place = self.positions(coords)
        first = place.detach().floor()
        inside = first.new_tensor(
            [
                math.inf if wraps else max(size - 2, 0)
                for size, wraps in zip(self.anchors, self.periodic, strict=True)
            ]
        )
        below = first.new_tensor([-1.0 if wraps else 0.0 for wraps in self.periodic])
        first = first.clamp(below, inside)
        # Along an axis of one anchor, there is nothing to blend with.
        alone = [not w and size == 1 for size, w in zip(self.anchors, self.periodic, strict=True)]
        far = torch.where(
            torch.tensor(alone, device=place.device), 0.0, smooth_step((place - first).clamp(0, 1))
        )
        corners = torch.tensor(
            list(itertools.product((0, 1), repeat=self.num_dims)), device=place.device
        )
        weight = torch.where(corners.bool(), far[:, None], 1 - far[:, None]).prod(-1)
        relative = (place - first)[:, None] - corners
        return Around(self.index(first.long()[:, None] + corners), relative, weight)

    def nearest(self, coords: Float[Tensor, "point dim"], number: int) -> NearestAnchors:
        """The nearest anchors, distances in anchor spacings; at most as many as a corner has.

        They are sought among the 5 along each axis around the nearest one; a corner of the box
        has 3 of those along each axis that does not wrap.
        """
        place = self.positions(coords)
        size = torch.tensor(self.anchors, device=place.device)
        wraps = torch.tensor(self.periodic, device=place.device)
        base = place.detach().round().long()
        base = torch.where(wraps, base, torch.minimum(base.clamp(min=0), size - 1))
        reach = [
            range(-min(2, (each - 1) // 2), min(2, each // 2) + 1) if wrap else range(-2, 3)
            for each, wrap in zip(self.anchors, self.periodic, strict=True)
        ]
        steps = torch.tensor(list(itertools.product(*reach)), device=place.device)
        seats = base[:, None] + steps
        exists = (wraps | ((seats >= 0) & (seats < size))).all(-1)
        relative = place[:, None] - seats
        turns = torch.where(wraps, (relative.detach() / size).round() * size, 0.0)
        relative = relative - turns
        square = relative.square().sum(-1).masked_fill(~exists, math.inf)
        fewest = math.prod(
            len(r) if wrap else min(3, each)
            for r, each, wrap in zip(reach, self.anchors, self.periodic, strict=True)
        )
        found, order = square.topk(min(number + 1, fewest), largest=False)
        count = min(number, fewest)
        closeness = torch.ones_like(found[:, :count])
        if found.shape[1] > count:
            closeness = (1 - found[:, :count] / found[:, count:]).square()
        order = order[:, :count]
        relative = relative.gather(1, order[..., None].expand(-1, -1, self.num_dims))
        return NearestAnchors(self.index(seats).gather(1, order), relative, closeness)


def smooth_step(t: Float[Tensor, "*some"]) -> Float[Tensor, "*some"]:
    """0 at 0, 1 at 1, slope 0 at both."""
    return t.square() * (3 - 2 * t)


def halved(anchors: Sequence[int]) -> list[tuple[int, ...]]:
    """Coarser and coarser grids of anchors, coarsest first, `anchors` last; at most 2 each way."""
    levels = [tuple(anchors)]
    while max(levels[0]) > 2:
        levels.insert(0, tuple((size + 1) // 2 for size in levels[0]))
    return levels
