"""Which points of a field a decoded loss is taken at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

_UNIFORM_SHARE = 0.25
"""Of the draws are uniform however errors lie: no weight exceeds 1 / 0.25, no point is lost."""


@dataclass(frozen=True)
class Queries:
    """Points and what they weigh.

    The sum of weights times f over the points is an unbiased estimate of the mean of f over all
    points.

    Shape:
        points: (query,) int64, places in the flattened grid or list of nodes
        weights: (query,) float32
    """

    points: Int[Tensor, " query"]
    weights: Float[Tensor, " query"]


def cells_of(space: tuple[int, ...], cell: int) -> Int[Tensor, " point"]:
    """Number of the block of `cell` points per axis that each point of a grid lies in."""
    number = torch.zeros(space, dtype=torch.long)
    for axis, size in enumerate(space):
        blocks = -(-size // cell)
        along = torch.arange(size) // cell
        number = number * blocks + along.reshape(-1, *(1,) * (len(space) - axis - 1))
    return number.flatten()


class QuerySampler:
    """Draws query points: all alike, or where the last errors were large.

    'uniform' draws without repetition. 'error' keeps a moving average of the error of each cell
    and draws points of a cell in proportion to it, a quarter of them uniformly, with repetition,
    and weights them by 1 / (points * probability). What is drawn depends on the seed, the step
    and the averages alone, not on the device.

    Args:
        cells: Number of the cell of each point, from 0; `cells_of` makes those of a grid.
        num_queries: Points of a draw; at most all of them.
        decay: Of the moving average.
    Source:
        Importance sampling of the loss: Katharopoulos and Fleuret 2018, arXiv:1803.00942.
    """

    def __init__(
        self,
        cells: Int[Tensor, " point"],
        num_queries: int,
        *,
        kind: Literal["uniform", "error"] = "uniform",
        seed: int = 0,
        decay: float = 0.9,
    ) -> None:
        self.kind, self.seed, self.decay = kind, seed, decay
        self.cells = cells.cpu()
        self.num_points = len(cells)
        self.num_queries = min(num_queries, self.num_points)
        self._counts = torch.bincount(self.cells)
        self._first = self._counts.cumsum(0) - self._counts
        self._by_cell = self.cells.argsort(stable=True)
        self._errors = torch.zeros(len(self._counts), dtype=torch.float64)
        self._visited = torch.zeros(len(self._counts), dtype=torch.bool)

    def sample(self, step: int, stream: int = 0, device: torch.device | None = None) -> Queries:
        """The points of a step.

        Args:
            stream: Different draws of one step: micro-batches, ranks, tasks.
        """
        generator = torch.Generator().manual_seed(_mixed(self.seed, step, stream))
        draw = self._uniform if self.kind == "uniform" else self._by_error
        points, weights = draw(generator)
        return Queries(points.to(device), weights.to(device))

    def update(self, points: Int[Tensor, " query"], errors: Float[Tensor, " query"]) -> None:
        """Let the errors found at points (not negative; those not finite are ignored) count.

        On several processes all must be told the same points and errors.
        """
        errors, points = errors.detach().double().cpu(), points.cpu()
        finite = errors.isfinite()
        cells, errors = self.cells[points[finite]], errors[finite]
        found = torch.zeros_like(self._counts).index_add_(0, cells, torch.ones_like(cells))
        total = torch.zeros_like(self._errors).index_add_(0, cells, errors)
        here = found > 0
        mean = total[here] / found[here]
        kept = self.decay * self._errors[here] + (1 - self.decay) * mean
        self._errors[here] = torch.where(self._visited[here], kept, mean)
        self._visited |= here

    def probabilities(self) -> Float[Tensor, " cell"]:
        """Of drawing from each cell."""
        uniform = self._counts.double() / self.num_points
        known = self._errors[self._visited]
        expected = known.mean() if len(known) else torch.ones((), dtype=torch.float64)
        errors = torch.where(self._visited, self._errors, expected)
        mass = errors * self._counts
        if mass.sum() <= 0:
            return uniform
        return _UNIFORM_SHARE * uniform + (1 - _UNIFORM_SHARE) * mass / mass.sum()

    def state_dict(self) -> dict[str, Tensor]:
        return {"errors": self._errors.clone(), "visited": self._visited.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if state["errors"].shape != self._errors.shape:
            raise ValueError(
                f"errors of {len(state['errors'])} cells, and there are {len(self._errors)}"
            )
        self._errors = state["errors"].double().cpu().clone()
        self._visited = state["visited"].cpu().clone()

    def _uniform(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if self.num_queries == self.num_points:
            points = torch.arange(self.num_points)
        else:
            points = torch.randperm(self.num_points, generator=generator)[: self.num_queries]
        return points, torch.full((self.num_queries,), 1 / self.num_queries)

    def _by_error(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chances = self.probabilities()
        share = torch.rand(self.num_queries, generator=generator, dtype=torch.float64)
        cell = torch.searchsorted(chances.cumsum(0), share, right=True).clamp_max(len(chances) - 1)
        inside = torch.rand(self.num_queries, generator=generator, dtype=torch.float64)
        place = (inside * self._counts[cell]).long()
        points = self._by_cell[self._first[cell] + place]
        per_point = chances[cell] / self._counts[cell]
        weights = 1 / (self.num_points * self.num_queries * per_point)
        return points, weights.float()


def _mixed(*numbers: int) -> int:
    """One seed of several numbers, so that neighbouring steps share nothing."""
    mixed = 0
    for number in numbers:
        mixed = (mixed ^ (number + 0x9E3779B97F4A7C15)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed ^= mixed >> 31
    return mixed % 2**63
