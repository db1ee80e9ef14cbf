"""Mixing of tokens by learned matrices for every wave of the anchor grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ups.models.anchor_grid import AnchorGrid


class SpectralMixer(nn.Module):
    """Learned matrices for every wave of the token grid, shared by frequency between grids.

    A convolution over the domain with a kernel as wide as it. Along each axis the kernel of a wave
    has an even part E, which keeps cosines cosines and sines sines, and an odd part O, which turns
    cosines into sines and sines into negative cosines; on a periodic axis E and O are real and
    imaginary part of a complex matrix. At a wall tokens are extended evenly about the boundary, so
    that no false jump enters: cosines only go in, and both kinds come out.

    The transforms are matrices: for the few anchors of an axis they are no slower than an FFT, and
    everything is real. A wave's frequency counts in half waves over the domain, so that grids of
    any size, periodic or not, use the same weight for the same frequency.

    Args:
        modes: Waves (half waves at walls) kept along each axis; None keeps all.

    Shape:
        x: (batch, *anchors, width) -> the same
    """

    def __init__(self, width: int, grids: Sequence[AnchorGrid], modes: int | None) -> None:
        super().__init__()
        found = {grid.label: _frequencies(grid, modes) for grid in grids}
        union = sorted(set(itertools.chain.from_iterable(found.values())))
        place = {frequencies: index for index, frequencies in enumerate(union)}
        self.waves = nn.ModuleDict({
            grid.label: _Waves(grid, modes, [place[f] for f in found[grid.label]], len(union))
            for grid in grids
        })  # fmt: skip
        parities = 2 ** len(grids[0].anchors)
        size = 0.5 / width / math.sqrt(parities / 2)
        self.weight = nn.Parameter(torch.randn(len(union), width, parities * width) * size)

    def forward(
        self, x: Float[Tensor, "batch *anchors width"], grid: AnchorGrid
    ) -> Float[Tensor, "batch *anchors width"]:
        with torch.autocast(x.device.type, enabled=False):
            mixed = self.waves[grid.label](x.to(self.weight.dtype), self.weight)
        return mixed.to(x.dtype)


class _Waves(nn.Module):
    """There and back for one grid: tokens to waves, a matrix for each, waves to tokens."""

    chosen: Tensor

    def __init__(
        self, grid: AnchorGrid, modes: int | None, chosen: Sequence[int], total: int
    ) -> None:
        super().__init__()
        self.grid = grid
        self.axes = [axis for axis, size in enumerate(grid.anchors) if size > 1]
        self.counts = [_count(grid, axis, modes) for axis in self.axes]
        self.parts = [2 if grid.periodic[axis] else 1 for axis in self.axes]
        for axis, count in zip(self.axes, self.counts, strict=True):
            there, back = _matrices(grid.anchors[axis], grid.periodic[axis], count)
            self.register_buffer(f"there{axis}", there, persistent=False)
            self.register_buffer(f"back{axis}", back, persistent=False)
        self.takes_all = len(chosen) == total
        self.register_buffer("chosen", torch.tensor(chosen), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch *anchors width"], weight: Float[Tensor, "mode width out"]
    ) -> Float[Tensor, "batch *anchors width"]:
        for axis in self.axes:
            x = _along(x, axis + 1, self.get_buffer(f"there{axis}"))
        x = self._mixed(x, self._weights(weight, x.shape[-1]))
        for axis in self.axes:
            x = _along(x, axis + 1, self.get_buffer(f"back{axis}"))
        return x

    def _weights(self, weight: Tensor, width: int) -> Tensor:
        """Of this grid's waves; along an axis of one token the odd part sees nothing."""
        if not self.takes_all:
            weight = weight.index_select(0, self.chosen)
        if self.grid.singletons:
            parities = weight.unflatten(-1, (*(2,) * len(self.grid.anchors), width))
            for axis in self.grid.singletons:
                parities = parities.narrow(axis + 2, 0, 1)
            weight = parities.flatten(2)
        return weight

    def _mixed(self, x: Tensor, weight: Tensor) -> Tensor:
        """(batch, part x mode for each axis, width) -> (batch, part x parity x mode, width)."""
        batch, axes = len(x), range(len(self.axes))
        split = [n for pair in zip(self.parts, self.counts, strict=True) for n in pair]
        x = x.reshape(batch, *split, -1)
        parts, modes = [1 + 2 * a for a in axes], [2 + 2 * a for a in axes]
        x = x.permute(*modes, 0, *parts, -1)
        x = torch.bmm(x.reshape(len(weight), -1, x.shape[-1]), weight)
        # (*modes, batch, *parts, *parities, width)
        x = x.reshape(*self.counts, batch, *self.parts, *(2 for _ in axes), -1)
        n = len(self.axes)
        order = [d for a in axes for d in (n + 1 + a, 2 * n + 1 + a, a)]
        x = x.permute(n, *order, -1)
        shape = list(self.grid.anchors)
        for axis, part, count in zip(self.axes, self.parts, self.counts, strict=True):
            shape[axis] = 2 * part * count
        return x.reshape(batch, *shape, -1)


def _along(
    x: Float[Tensor, "batch *anchors width"], axis: int, matrix: Float[Tensor, "new old"]
) -> Float[Tensor, "batch *changed width"]:
    """Multiply one axis by a matrix."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    flat = x.reshape(math.prod(before), len(matrix.T), -1)
    return torch.bmm(matrix.expand(len(flat), -1, -1), flat).reshape(*before, -1, *after)


def _count(grid: AnchorGrid, axis: int, modes: int | None) -> int:
    size = grid.anchors[axis]
    most = size // 2 + 1 if grid.periodic[axis] else size
    return min(modes or most, most)


def _frequencies(grid: AnchorGrid, modes: int | None) -> list[tuple[int, ...]]:
    """Half waves over the domain along each axis, of every kept wave."""
    axes = [
        [wave * (2 if wraps else 1) for wave in range(_count(grid, axis, modes))]
        for axis, wraps in enumerate(grid.periodic)
    ]
    return list(itertools.product(*axes))


def _matrices(size: int, wraps: bool, count: int) -> tuple[Tensor, Tensor]:
    """Tokens -> coefficients of cosines (and sines), and coefficients times (E, O) -> tokens."""
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * ((2 if wraps else 1) * math.pi)
    angle = torch.arange(count, dtype=torch.float64)[:, None] * centres / size
    cosines, sines = angle.cos(), angle.sin()
    into = torch.cat([cosines, sines]) if wraps else cosines
    energy = into.square().sum(1, keepdim=True)
    # A sine of frequency zero, or a cosine that vanishes at every token, is no wave.
    there = torch.where(energy > 1e-9, into / energy.clamp_min(1e-9), 0)
    kinds = [cosines, sines, sines, -cosines] if wraps else [cosines, sines]
    return there.float(), torch.cat(kinds).T.float().contiguous()
