"""Small networks that see a token and its face neighbours only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_EPS = 1e-8


def amplitude(x: Float[Tensor, "batch *anchors dim"]) -> Float[Tensor, "batch *ones"]:
    """RMS of each sample over everything but the batch, with an axis of size 1 for each other."""
    return (x.square().mean(tuple(range(1, x.ndim)), keepdim=True) + _EPS).sqrt()


def neighbours(
    x: Float[Tensor, "batch *anchors channel"], periodic: Sequence[bool]
) -> Float[Tensor, "batch *anchors wide"]:
    """Concatenate to every token its two neighbours along each axis, in channels.

    Beyond a boundary that is not periodic the outermost token repeats.
    """
    parts = [x]
    for axis, wraps in enumerate(periodic, start=1):
        size = x.shape[axis]
        first, last = x.narrow(axis, 0, 1), x.narrow(axis, size - 1, 1)
        before = torch.cat([last if wraps else first, x.narrow(axis, 0, size - 1)], axis)
        after = torch.cat([x.narrow(axis, 1, size - 1), first if wraps else last], axis)
        parts += [before, after]
    return torch.cat(parts, -1)


class LocalNetwork(nn.Module):
    """Token-wise map through `depth` hidden layers, each of which looks one token further.

    The last layer starts at zero, so that what it corrects starts uncorrected.

    Shape:
        x: (batch, *anchors, in_channels)
        output: (batch, *anchors, out_channels)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int,
        depth: int,
        periodic: Sequence[bool],
    ) -> None:
        super().__init__()
        self.periodic = tuple(periodic)
        reach = 1 + 2 * len(self.periodic)
        sizes = [in_channels] + [width] * depth
        self.hidden = nn.ModuleList(nn.Linear(reach * a, b) for a, b in pairwise(sizes))
        self.out = nn.Linear(sizes[-1], out_channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Float[Tensor, "batch *anchors channel"]
    ) -> Float[Tensor, "batch *anchors out"]:
        for layer in self.hidden:
            x = F.gelu(layer(neighbours(x, self.periodic)))
        return self.out(x)
