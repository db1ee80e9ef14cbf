"""Self-attention between tokens, everywhere or in shifted windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ups.errors import ConfigError
from ups.models.anchor_grid import AnchorGrid
from ups.models.normalisation import at_least_float32


class AttentionMixer(nn.Module):
    """Self-attention with normalised queries and keys and rotary anchor positions.

    Along a periodic axis the rotation frequencies are whole waves of the domain, so that attention
    depends on the distance around the circle; along the others they are half waves. With `window`
    tokens attend inside windows of so many anchors per axis. Shifted windows lie half a window
    further: around a periodic axis, while at walls tokens of both ends share a window without
    seeing each other.

    Shape:
        x: (batch, *anchors, width) -> the same
    Source:
        Rotary positions: Su et al. 2021, arXiv:2104.09864. Shifted windows: Liu et al. 2021,
        arXiv:2103.14030. Normalised queries and keys: Henry et al. 2020, arXiv:2010.04245.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        grids: Sequence[AnchorGrid],
        *,
        window: int | None = None,
        shifted: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.hidden_qkv = nn.Linear(width, 3 * width)
        self.hidden_out = nn.Linear(width, width)
        self.temperature = nn.Parameter(torch.ones(heads, 1))
        pairs = width // heads // 2
        self.places = nn.ModuleDict(
            {grid.label: _Places(grid, pairs, window, shifted) for grid in grids}
        )

    def forward(
        self, x: Float[Tensor, "batch *anchors width"], grid: AnchorGrid
    ) -> Float[Tensor, "batch *anchors width"]:
        places = cast(_Places, self.places[grid.label])
        qkv = self.hidden_qkv(x.flatten(1, -2)).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.unbind(2)
        with torch.autocast(x.device.type, enabled=False):
            query = places.rotated(_unit(query) * self.temperature).to(value.dtype)
            key = places.rotated(_unit(key)).to(value.dtype)
        mixed = places.attend(query, key, value)
        return self.hidden_out(mixed.flatten(-2)).reshape(x.shape)


class _Places(nn.Module):
    """Where the tokens of one grid are: rotations, and which window each one is in."""

    cos: Tensor
    sin: Tensor
    order: Tensor
    back: Tensor
    mask: Tensor

    def __init__(self, grid: AnchorGrid, pairs: int, window: int | None, shifted: bool) -> None:
        super().__init__()
        angles = _rotary_angles(pairs, grid)[:, None]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.has_windows = window is not None and any(size > window for size in grid.anchors)
        if window is None or not self.has_windows:
            return
        token, region = _windows(grid, window, shifted)
        mask = region[:, None, :, None] == region[:, None, None, :]
        self.num_windows, self.is_masked = len(token), not bool(mask.all())
        filled = token.flatten()
        self.register_buffer("order", filled.clamp_min(0), persistent=False)
        real = torch.nonzero(filled >= 0)[:, 0]
        self.register_buffer("back", real[filled[real].argsort()], persistent=False)
        self.register_buffer("mask", mask, persistent=False)

    def rotated(
        self, x: Float[Tensor, "batch tokens heads dim"]
    ) -> Float[Tensor, "batch tokens heads dim"]:
        left, right = x.chunk(2, -1)
        return torch.cat(
            [left * self.cos - right * self.sin, left * self.sin + right * self.cos], -1
        )

    def attend(
        self,
        query: Float[Tensor, "batch tokens heads dim"],
        key: Float[Tensor, "batch tokens heads dim"],
        value: Float[Tensor, "batch tokens heads dim"],
    ) -> Float[Tensor, "batch tokens heads dim"]:
        if not self.has_windows:
            return _attention(query, key, value)
        batch = query.shape[0]
        query, key, value = (self._in_windows(x) for x in (query, key, value))
        mask = None
        if self.is_masked:
            mask = self.mask.expand(batch, *self.mask.shape).flatten(0, 1)
        mixed = _attention(query, key, value, mask).reshape(batch, -1, *query.shape[2:])
        return mixed.index_select(1, self.back)

    def _in_windows(self, x: Tensor) -> Tensor:
        """(batch, tokens, ...) -> (batch x window, tokens of a window, ...)."""
        return x.index_select(1, self.order).unflatten(1, (self.num_windows, -1)).flatten(0, 1)


def _unit(x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
    """RMS one over the last axis."""
    return F.rms_norm(at_least_float32(x), (x.shape[-1],), eps=1e-6)


def _attention(
    query: Float[Tensor, "batch tokens heads dim"],
    key: Float[Tensor, "batch tokens heads dim"],
    value: Float[Tensor, "batch tokens heads dim"],
    mask: Bool[Tensor, "batch 1 tokens tokens"] | None = None,
) -> Float[Tensor, "batch tokens heads dim"]:
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def _rotary_angles(pairs: int, grid: AnchorGrid) -> Float[Tensor, "tokens pair"]:
    """One angle for each token and rotated pair of channels; axes take turns over the pairs."""
    num_axes = len(grid.anchors)
    if pairs < num_axes:
        raise ConfigError(
            f"operator.heads: {pairs} rotated pairs of channels a head for {num_axes} axes",
            hint="fewer heads or a larger operator.width",
        )
    axes = [torch.arange(size) / size for size in grid.anchors]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, num_axes)
    columns = []
    for pair in range(pairs):
        axis, order = pair % num_axes, pair // num_axes + 1
        waves = order * (2 if grid.periodic[axis] else 1)
        columns.append(place[:, axis] * waves * torch.pi)
    return torch.stack(columns, -1)


def _windows(
    grid: AnchorGrid, window: int, shifted: bool
) -> tuple[Int[Tensor, "window slot"], Int[Tensor, "window slot"]]:
    """The token in every slot of every window (-1: none), and the region that it belongs to.

    Tokens of one window attend to each other if they are of one region.
    """
    strides = [math.prod(grid.anchors[axis + 1 :]) for axis in range(len(grid.anchors))]
    token = region = torch.zeros((), dtype=torch.long)
    empty = torch.zeros((), dtype=torch.bool)
    sizes: list[int] = []
    for size, wraps, stride in zip(grid.anchors, grid.periodic, strides, strict=True):
        width = min(window, size)
        sizes += [-(-size // width), width]
        shift = width // 2 if shifted and width < size else 0
        slot = torch.arange(sizes[-2] * width)
        beyond_wall = (slot + shift >= size) & (not wraps)
        token = token[..., None] + (slot + shift) % size * stride
        region = 2 * region[..., None] + beyond_wall
        empty = empty[..., None] | (slot >= size)
    token, region = token.masked_fill(empty, -1), region.masked_fill(empty, -1)
    last = range(1, len(sizes), 2)
    order = [*range(0, len(sizes), 2), *last]
    slots = math.prod(sizes[axis] for axis in last)
    return (
        token.reshape(sizes).permute(order).reshape(-1, slots),
        region.reshape(sizes).permute(order).reshape(-1, slots),
    )
