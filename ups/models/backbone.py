"""The network between tokens and tokens: a stack of blocks, or a U of them over the anchors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ups.config.models import BackboneConfig
from ups.errors import ConfigError
from ups.models.anchor_grid import AnchorGrid, anchor_grids, distinct
from ups.models.blocks import Block
from ups.models.layout import TokenLayout
from ups.models.normalisation import at_least_float32, sample_norm

_NUMBERS_PER_BLOCK = 4


class Backbone(nn.Module):
    """Blocks that act on embedded tokens, steered by a condition: one set of weights for all tasks.

    'pdet_stack' keeps the resolution. 'pdet_unet' halves the anchors and doubles the channels from
    level to level and goes back up, adding what it had on the way down. Grids of tasks with fewer
    dimensions get trailing axes of one token. The condition scales and shifts the input of every
    half block; it starts without effect. The output is normalised per sample.

    Shape:
        x: (batch, *anchors, width), anchors of `task`
        condition: (batch, width), as a `Conditioner` gives it
        output: as x, float32 at least
    Raises:
        ConfigError: More levels than the anchors of a task can be halved.
    """

    def __init__(self, config: BackboneConfig, layouts: Mapping[str, TokenLayout]) -> None:
        super().__init__()
        self.config = config
        self.grids = anchor_grids(layouts)
        depths = config.depths if config.architecture == "pdet_unet" else (config.depth,)
        self.num_merges = len(depths) // 2
        _check_levels(self.grids, self.num_merges)
        grids = [distinct(self.grids.values())]
        for _ in range(self.num_merges):
            grids.append(distinct(grid.coarser() for grid in grids[-1]))
        levels = [min(stage, len(depths) - 1 - stage) for stage in range(len(depths))]
        widths = [config.width * 2**level for level in levels]
        rates = iter(_drop_rates(config.drop_path, sum(depths)))
        self.stages = nn.ModuleList(
            nn.ModuleList(
                Block(config, width, grids[level], shifted=number % 2 == 1, drop_path=next(rates))
                for number in range(depth)
            )
            for depth, level, width in zip(depths, levels, widths, strict=True)
        )
        self.positions = nn.ParameterDict(_positions(config, self.grids))
        num_axes = len(grids[0][0].anchors)
        self.merges = nn.ModuleList(
            Merge(config.width * 2**level, num_axes) for level in range(self.num_merges)
        )
        self.splits = nn.ModuleList(
            Split(config.width * 2**level, num_axes) for level in reversed(range(self.num_merges))
        )
        self._sizes = [
            _NUMBERS_PER_BLOCK * width
            for depth, width in zip(depths, widths, strict=True)
            for _ in range(depth)
        ]
        self.modulation = nn.Linear(config.width, sum(self._sizes))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        x: Float[Tensor, "batch *anchors width"],
        condition: Float[Tensor, "batch width"],
        task: str,
    ) -> Float[Tensor, "batch *anchors width"]:
        shape, grid = x.shape, self.grids[task]
        modulation = at_least_float32(self.modulation(F.silu(condition)))
        adapts = iter(modulation.split(self._sizes, -1))
        x = at_least_float32(x).reshape(x.shape[0], *grid.anchors, -1)
        if task in self.positions:
            x = x + self.positions[task]
        skips: list[tuple[Tensor, AnchorGrid]] = []
        for number, stage in enumerate(self.stages):
            if number > self.num_merges:
                skip, grid = skips.pop()
                x = skip + self.splits[number - self.num_merges - 1](x, grid)
            for block in cast(nn.ModuleList, stage):
                x = self._run(block, x, next(adapts).unflatten(-1, (_NUMBERS_PER_BLOCK, -1)), grid)
            if number < self.num_merges:
                skips.append((x, grid))
                x, grid = self.merges[number](x), grid.coarser()
        return sample_norm(x).reshape(shape)

    def _run(self, block: nn.Module, x: Tensor, adapt: Tensor, grid: AnchorGrid) -> Tensor:
        """One block; what its backward pass needs is recomputed or offloaded where asked for."""
        if not torch.is_grad_enabled():
            return block(x, adapt, grid)
        place: AbstractContextManager[object] = nullcontext()
        if self.config.offload and x.is_cuda:
            place = torch.autograd.graph.save_on_cpu(pin_memory=True)
        with place:
            if self.config.activation_checkpointing:
                return checkpoint(block, x, adapt, grid, use_reentrant=False)
            return block(x, adapt, grid)


class Merge(nn.Module):
    """2 neighbours along each axis become one token of twice as many channels.

    At an odd end the last token counts twice. The map starts with orthonormal rows or columns.

    Shape:
        x: (batch, *anchors, width)
        output: (batch, *half, 2 * width)
    """

    def __init__(self, width: int, num_axes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(2**num_axes * width, 2 * width)
        nn.init.orthogonal_(self.hidden.weight)

    def forward(
        self, x: Float[Tensor, "batch *anchors width"]
    ) -> Float[Tensor, "batch *half wide"]:
        axes = range(1, x.ndim - 1)
        for axis in axes:
            if x.shape[axis] % 2:
                x = torch.cat([x, x.narrow(axis, x.shape[axis] - 1, 1)], axis)
        for axis in axes:
            x = x.unflatten(2 * axis - 1, (-1, 2))
        halves = [2 * axis for axis in axes]
        x = x.movedim(halves, list(range(-1 - len(halves), -1)))
        return self.hidden(x.flatten(-1 - len(halves)))


class Split(nn.Module):
    """The way back from `Merge`: one token becomes 2 neighbours along each axis of `grid`.

    Shape:
        x: (batch, *half, 2 * width)
        output: (batch, *anchors, width)
    """

    def __init__(self, width: int, num_axes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * width, 2**num_axes * width)
        nn.init.orthogonal_(self.hidden.weight)

    def forward(
        self, x: Float[Tensor, "batch *half wide"], grid: AnchorGrid
    ) -> Float[Tensor, "batch *anchors width"]:
        num_axes = len(grid.anchors)
        x = self.hidden(x).unflatten(-1, (*(2,) * num_axes, -1))
        for axis in range(num_axes):
            # (batch, *merged, *half left, 2 for each axis left, width)
            left = num_axes - axis
            x = x.movedim(1 + axis + left, 2 + axis).flatten(1 + axis, 2 + axis)
        for axis, size in enumerate(grid.anchors, start=1):
            x = x.narrow(axis, 0, size)
        return x


def _positions(config: BackboneConfig, grids: Mapping[str, AnchorGrid]) -> dict[str, nn.Parameter]:
    """For each task an offset at every anchor, the same all along axes that wrap."""
    if not config.positions:
        return {}
    return {
        task: nn.Parameter(torch.zeros(*_walled(grid), config.width))
        for task, grid in grids.items()
        if not all(grid.periodic)
    }


def _walled(grid: AnchorGrid) -> tuple[int, ...]:
    axes = zip(grid.anchors, grid.periodic, strict=True)
    return tuple(1 if wraps else size for size, wraps in axes)


def _drop_rates(highest: float, number: int) -> list[float]:
    """From 0 at the first block, linearly, to `highest` at the last one."""
    return [highest * index / max(number - 1, 1) for index in range(number)]


def _check_levels(grids: Mapping[str, AnchorGrid], num_merges: int) -> None:
    for task, grid in grids.items():
        possible = math.ceil(math.log2(max(grid.anchors)))
        if num_merges > possible:
            shape = "x".join(str(size) for size in grid.anchors)
            raise ConfigError(
                f"operator.depths: {num_merges} halvings of the anchors, and task '{task}' with "
                f"{shape} anchors has {possible}",
                hint="fewer levels in operator.depths, or a smaller codec.patch_size",
            )
