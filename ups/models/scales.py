"""Sizes of token channels over a training split."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ups.models.layout import Given
from ups.models.normalisation import at_least_float32

_FLOOR = 0.05
_SMALLEST = 1e-8


def floored(sizes: Float[Tensor, " channel"]) -> Float[Tensor, " channel"]:
    """At least 0.05 of the largest, so that weak channels are not blown up; never zero."""
    largest = sizes.max() if len(sizes) else sizes.sum()
    return sizes.maximum((_FLOOR * largest).clamp_min(_SMALLEST))


class ContextScale(nn.Module):
    """Context channels less their mean, over their size.

    Shape:
        output: (batch, tokens, channel); no channel where the layout has none
    """

    shift: Tensor
    size: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("size", torch.ones(channels))

    def forward(self, given: Given, num_tokens: int) -> Float[Tensor, "batch tokens channel"]:
        if given.context is None:
            return self.shift.new_zeros(given.dt.shape[0], num_tokens, 0)
        return (at_least_float32(given.context) - self.shift) / self.size

    @torch.no_grad()
    def fit(self, given: Given) -> None:
        """Set mean and size from what is given with training samples."""
        if given.context is not None:
            context = at_least_float32(given.context).flatten(0, 1)
            self.shift.copy_(context.mean(0))
            self.size.copy_(floored(context.std(0, correction=0)))
