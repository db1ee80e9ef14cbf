"""Values at any points: attention of each query to its nearest anchors, in relative coordinates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ups.codec.local import LocalNetwork, amplitude

_FEATURES = 32
_KEYS = 8
_CHUNK_NUMBERS = 2**24


@dataclass(frozen=True)
class AnchorAxis:
    """Anchors along one axis, in any unit of length.

    Attributes:
        centres: Where the anchors are, rising.
        reach: The length in which relative coordinates are measured: the extent of a token.
        period: Length after which the axis wraps; None where it does not.
        waves: Sine and cosine pairs in which a relative coordinate is seen.
    """

    centres: tuple[float, ...]
    reach: float
    period: float | None
    waves: int

    def knots(self) -> list[float]:
        """The centres and what bounds the first and the last interval between anchors."""
        if self.period is not None:
            return [*self.centres, self.centres[0] + self.period]
        return [self.centres[0] - self.reach, *self.centres, self.centres[-1] + self.reach]


class AnyPointDecoder(nn.Module):
    """Local attention of each query to the 2^axes anchors around it, in relative coordinates.

    Anchor a holds, as functions of the relative coordinate r, a value (an expansion in learned
    functions) and a score; the answer is the mean of the values with the weights

        window(r) exp(score_a(r)) / sum over the anchors around the query.

    The windows are twice differentiable and vanish where an anchor stops to be one of the nearest,
    so that the answer is smooth in the query. Scores start at zero: plain blending. The answer
    scales with the amplitude of the tokens and starts at zero. Memory is bounded by chunks of
    queries, except for what a backward pass needs.

    Shape:
        tokens: (batch, *anchors, dim)
        places: (query, axis), in the unit of the axes
        output: (batch, query, field)
    """

    def __init__(
        self,
        latent_dim: int,
        num_fields: int,
        axes: Sequence[AnchorAxis],
        *,
        width: int,
        depth: int,
    ) -> None:
        super().__init__()
        self.axes, self.num_fields = tuple(axes), num_fields
        self.local = LocalNetwork(
            latent_dim,
            _FEATURES * num_fields + _KEYS,
            width=width,
            depth=depth,
            periodic=[axis.period is not None for axis in self.axes],
        )
        self.functions = nn.Sequential(
            nn.Linear(2 * sum(axis.waves for axis in self.axes), width),
            nn.GELU(),
            nn.Linear(width, _FEATURES + _KEYS),
        )
        for index, axis in enumerate(self.axes):
            knots = torch.tensor(axis.knots(), dtype=torch.float32)
            self.register_buffer(f"knots{index}", knots, persistent=False)

    def forward(
        self,
        tokens: Float[Tensor, "batch *anchors dim"],
        places: Float[Tensor, "query axis"],
    ) -> Float[Tensor, "batch query field"]:
        size = amplitude(tokens)
        held = self.local(tokens / size).flatten(1, -2).transpose(0, 1)
        expansions, keys = held.split([_FEATURES * self.num_fields, _KEYS], -1)
        expansions = expansions.reshape(len(held), -1, _FEATURES)
        if torch.compiler.is_exporting():  # an exported program has no loop over chunks
            found = self._attend(expansions, keys, places)
        else:
            chunks = places.split(max(1, _CHUNK_NUMBERS // held[0].numel()))
            found = torch.cat([self._attend(expansions, keys, chunk) for chunk in chunks])
        return size.flatten(1)[..., None] * found.transpose(0, 1)

    def _attend(
        self,
        expansions: Float[Tensor, "tokens value feature"],
        keys: Float[Tensor, "tokens batch key"],
        places: Float[Tensor, "query axis"],
    ) -> Float[Tensor, "query batch field"]:
        """Tokens first, so that what the queries need of them is one matrix product each."""
        sides = [self._along(index, places[:, index]) for index in range(len(self.axes))]
        values, scores, windows = [], [], []
        for corner in itertools.product((0, 1), repeat=len(self.axes)):
            chosen = [side[which] for side, which in zip(sides, corner, strict=True)]
            index = torch.zeros(places.shape[0], dtype=torch.long, device=places.device)
            for axis, (anchor, _, _) in zip(self.axes, chosen, strict=True):
                index = index * len(axis.centres) + anchor
            waves = self._waves([relative for _, relative, _ in chosen])
            functions, queries = self.functions(waves).split([_FEATURES, _KEYS], -1)
            values.append(expansions.index_select(0, index) @ functions[..., None])
            scores.append(keys.index_select(0, index) @ queries[..., None])
            windows.append(torch.stack([window for _, _, window in chosen]).prod(0))
        score = torch.stack(scores)
        weight = torch.stack(windows)[..., None, None] * (score - score.detach().amax(0)).exp()
        value = torch.stack(values).unflatten(2, (-1, self.num_fields))[..., 0]
        return (weight / weight.sum(0) * value).sum(0)

    def _along(
        self, index: int, place: Float[Tensor, " query"]
    ) -> list[tuple[Int[Tensor, " query"], Float[Tensor, " query"], Float[Tensor, " query"]]]:
        """The two anchors around each place along one axis: (index, relative place, window)."""
        axis, knots = self.axes[index], self.get_buffer(f"knots{index}").to(place.dtype)
        if axis.period is not None:
            place = place - ((place.detach() - knots[0]) / axis.period).floor() * axis.period
        lower = torch.searchsorted(knots, place.detach().contiguous(), right=True) - 1
        lower = lower.clamp(0, len(knots) - 2)
        share = ((place - knots[lower]) / (knots[lower + 1] - knots[lower])).clamp(0, 1)
        rising = share**3 * (10 - 15 * share + 6 * share.square())
        last = len(axis.centres) - 1
        sides = []
        for knot, window in ((lower, 1 - rising), (lower + 1, rising)):
            anchor = knot % len(axis.centres) if axis.period is not None else knot - 1
            sides.append((anchor.clamp(0, last), (place - knots[knot]) / axis.reach, window))
        return sides

    def _waves(self, relative: Sequence[Float[Tensor, " query"]]) -> Float[Tensor, "query wave"]:
        angles = torch.cat(
            [
                math.pi * place[:, None] * torch.arange(1, axis.waves + 1, device=place.device)
                for axis, place in zip(self.axes, relative, strict=True)
            ],
            -1,
        )
        return torch.cat([angles.sin(), angles.cos()], -1)
