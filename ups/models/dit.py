"""A transformer on patches of a grid, conditioned by adaptive norms."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ups.models.anchor_grid import AnchorGrid
from ups.models.attention import AttentionMixer
from ups.models.unet import Told, beyond_ends
from ups.models.waves import Axis


class DiffusionTransformer(nn.Module):
    """DiT's architecture as a map from grid to grid: patches, attention, patches.

    Queries and keys are normalised and carry rotary positions, whole waves around axes that wrap.
    A grid that is no multiple of the patch is extended at its upper ends, by what the boundary
    condition says, and cut again. Modulations and the last layer start at zero.

    Args:
        condition: Numbers that a sample is told besides x.
        patch: Grid points of a token along each axis, at most the axis' own.
    Shape:
        x: (batch, *space, inputs) -> (batch, *space, outputs)
        told: (batch, condition)
    Source:
        Peebles and Xie 2023, arXiv:2212.09748; normalised queries and keys: Henry et al. 2020,
        arXiv:2010.04245.
    """

    def __init__(
        self,
        axes: Sequence[Axis],
        inputs: int,
        outputs: int,
        condition: int,
        width: int,
        depth: int,
        patch: int,
        heads: int,
    ) -> None:
        super().__init__()
        self.axes = tuple(axes)
        self.patch = tuple(min(patch, axis.points) for axis in axes)
        anchors = tuple(-(-a.points // p) for a, p in zip(axes, self.patch, strict=True))
        self.grid = AnchorGrid(anchors, tuple(axis.periodic for axis in axes))
        points = math.prod(self.patch)
        self.lift = nn.Linear(points * inputs, width)
        self.told = Told(condition, width)
        self.blocks = nn.ModuleList(AdaptiveBlock(width, heads, self.grid) for _ in range(depth))
        self.modulation = _zero(nn.Linear(width, 2 * width))
        self.head = _zero(nn.Linear(width, points * outputs))

    def forward(
        self, x: Float[Tensor, "batch *space inputs"], told: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch *space _"]:
        told = self.told(told)
        h = self.lift(self._cut(x))
        for block in self.blocks:
            h = block(h, told, self.grid)
        scale, shift = _spread(self.modulation(told), h.ndim).chunk(2, -1)
        return self._joined(self.head(_norm(h) * (1 + scale) + shift))

    def _cut(self, x: Float[Tensor, "batch *space inputs"]) -> Float[Tensor, "batch *anchors _"]:
        """Points of each patch, in channels."""
        for place, (axis, size) in enumerate(zip(self.axes, self.patch, strict=True), 1):
            x = beyond_ends(x, place, axis, 0, -axis.points % size)
        shape = [n for pair in zip(self.grid.anchors, self.patch, strict=True) for n in pair]
        x = x.reshape(x.shape[0], *shape, -1)
        axes = range(1, 2 * len(self.axes) + 1)
        return x.permute(0, *axes[::2], *axes[1::2], x.ndim - 1).flatten(len(self.axes) + 1)

    def _joined(self, h: Float[Tensor, "batch *anchors _"]) -> Float[Tensor, "batch *space _"]:
        """Patches side by side again, cut to the grid."""
        count = len(self.axes)
        h = h.reshape(*h.shape[:-1], *self.patch, -1)
        order = [place for axis in range(1, count + 1) for place in (axis, axis + count)]
        h = h.permute(0, *order, h.ndim - 1)
        whole = [a * p for a, p in zip(self.grid.anchors, self.patch, strict=True)]
        h = h.reshape(h.shape[0], *whole, -1)
        for place, axis in enumerate(self.axes, 1):
            h = h.narrow(place, 0, axis.points)
        return h


class AdaptiveBlock(nn.Module):
    """Attention, then two layers over each token; norms and results scaled by what is told.

    Shape:
        h: (batch, *anchors, width) -> the same
        told: (batch, width)
    """

    def __init__(self, width: int, heads: int, grid: AnchorGrid) -> None:
        super().__init__()
        self.attention = AttentionMixer(width, heads, [grid])
        self.hidden_in = nn.Linear(width, 4 * width)
        self.hidden_out = nn.Linear(4 * width, width)
        self.modulation = _zero(nn.Linear(width, 6 * width))

    def forward(
        self,
        h: Float[Tensor, "batch *anchors width"],
        told: Float[Tensor, "batch width"],
        grid: AnchorGrid,
    ) -> Float[Tensor, "batch *anchors width"]:
        parts = _spread(self.modulation(told), h.ndim).chunk(6, -1)
        scale, shift, gate = parts[:3]
        h = h + gate * self.attention(_norm(h) * (1 + scale) + shift, grid)
        scale, shift, gate = parts[3:]
        inner = F.gelu(self.hidden_in(_norm(h) * (1 + scale) + shift))
        return h + gate * self.hidden_out(inner)


def _norm(h: Float[Tensor, "*any width"]) -> Float[Tensor, "*any width"]:
    return F.layer_norm(h, h.shape[-1:], eps=1e-6)


def _spread(values: Float[Tensor, "batch channel"], ndim: int) -> Tensor:
    """One row of each sample, over all of its tokens."""
    return values.reshape(values.shape[0], *(1,) * (ndim - 2), -1)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
