"""The block that all backbones are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ups.codec.local import neighbours
from ups.config.models import BackboneConfig
from ups.models.anchor_grid import AnchorGrid
from ups.models.mixers import DepthwiseConv, build_mixer
from ups.models.normalisation import sample_norm


class Block(nn.Module):
    """Mix across tokens, then a network over each token (and its neighbours).

    Both halves see the normalised state, scaled and shifted by what the condition says, and add
    their result. The norm is per sample, over all tokens and channels.

    Args:
        drop_path: Share of samples for which, in training, a half is left out.

    Shape:
        x: (batch, *anchors, width)
        adapt: (batch, 4, width): scale and shift of both halves
        output: as x
    """

    is_sharded_unit: ClassVar[bool] = True
    """With FSDP a block's weights are gathered together."""

    def __init__(
        self,
        config: BackboneConfig,
        width: int,
        grids: Sequence[AnchorGrid],
        *,
        shifted: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.mixer = build_mixer(config, width, grids, shifted=shifted)
        num_axes = len(grids[0].anchors)
        self.local = DepthwiseConv(width, config.kernel_size, num_axes) if config.local else None
        self.network = TokenNetwork(config.mlp, width, config.mlp_ratio, num_axes)
        self.drop_path = drop_path

    def forward(
        self,
        x: Float[Tensor, "batch *anchors width"],
        adapt: Float[Tensor, "batch 4 width"],
        grid: AnchorGrid,
    ) -> Float[Tensor, "batch *anchors width"]:
        ones = (1,) * len(grid.anchors)
        parts = adapt.unflatten(-1, (*ones, -1)).unbind(1)
        h = sample_norm(x) * (1 + parts[0]) + parts[1]
        mixed = self.mixer(h, grid)
        if self.local is not None:
            mixed = mixed + self.local(h, grid)
        x = x + self._kept(mixed)
        h = sample_norm(x) * (1 + parts[2]) + parts[3]
        return x + self._kept(self.network(h, grid))

    def _kept(self, branch: Tensor) -> Tensor:
        return drop_path(branch, self.drop_path) if self.training else branch


class TokenNetwork(nn.Module):
    """Two layers over every token by itself, or over it and its face neighbours.

    'swiglu' has two thirds of the hidden channels, in multiples of 8, and so as many weights.

    Shape:
        x: (batch, *anchors, width) -> the same
    """

    def __init__(self, kind: str, width: int, ratio: int, num_axes: int) -> None:
        super().__init__()
        self.kind = kind
        inputs = width * (1 + 2 * num_axes) if kind == "neighbours" else width
        hidden = max(8, round(ratio * width / 12) * 8) if kind == "swiglu" else ratio * width
        self.hidden_in = nn.Linear(inputs, 2 * hidden if kind == "swiglu" else hidden)
        self.hidden_out = nn.Linear(hidden, width)
        with torch.no_grad():
            self.hidden_out.weight.mul_(0.5)

    def forward(
        self, x: Float[Tensor, "batch *anchors width"], grid: AnchorGrid
    ) -> Float[Tensor, "batch *anchors width"]:
        if self.kind == "neighbours":
            x = neighbours(x, grid.periodic)
        h = self.hidden_in(x)
        if self.kind == "swiglu":
            gate, value = h.chunk(2, -1)
            return self.hidden_out(F.silu(gate) * value)
        return self.hidden_out(F.gelu(h))


def drop_path(branch: Float[Tensor, "batch *any"], rate: float) -> Float[Tensor, "batch *any"]:
    """Zero the branch of a sample with probability `rate`; the expectation stays the same.

    Source:
        Huang et al. 2016, arXiv:1603.09382 (stochastic depth).
    """
    if not rate:
        return branch
    shape = (len(branch), *(1,) * (branch.ndim - 1))
    kept = torch.rand(shape, device=branch.device) >= rate
    return branch * (kept / (1 - rate)).to(branch.dtype)
