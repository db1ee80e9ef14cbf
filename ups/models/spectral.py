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

    A convolution over the domain with a kernel as wide as it. Along an axis the kernel of a wave
    has an even part E, which keeps cosines cosines and sines sines, and an odd part O, which turns
    cosines into sines and sines into negative cosines. At a wall tokens are extended evenly about
    the boundary, so that no false jump enters: cosines only go in, and both kinds come out. Where
    every grid is periodic along all axes, E - iO of the first axis serves the others too, with
    positive and negative frequencies: the complex matrices of a Fourier neural operator.

    The transforms are matrices: for the few anchors of an axis they are no slower than an FFT, and
    everything is real. A wave's frequency counts in half waves over the domain, so that grids of
    any size, periodic or not, use the same weight for the same frequency.

    Args:
        modes: Waves (half waves at walls) kept along each axis; None keeps all.

    Shape:
        x: (batch, *anchors, width) -> the same
    Source:
        Li et al. 2021, arXiv:2010.08895, without truncation and with walls.
    """

    def __init__(self, width: int, grids: Sequence[AnchorGrid], modes: int | None) -> None:
        super().__init__()
        num_axes = len(grids[0].anchors)
        is_ring = all(all(grid.periodic) and grid.anchors[0] > 1 for grid in grids)
        signed = [is_ring and axis > 0 for axis in range(num_axes)]
        found = {grid.label: _frequencies(grid, modes, signed) for grid in grids}
        union = sorted(set(itertools.chain.from_iterable(found.values())))
        place = {frequencies: index for index, frequencies in enumerate(union)}
        self.waves = nn.ModuleDict({
            grid.label: _Waves(grid, modes, signed, [place[f] for f in found[grid.label]])
            for grid in grids
        })  # fmt: skip
        parities = 2 ** (num_axes - sum(signed))
        size = 0.5 / width / math.sqrt(parities / 2)
        self.weight = nn.Parameter(torch.randn(len(union), width, parities * width) * size)

    def forward(
        self, x: Float[Tensor, "batch *anchors width"], grid: AnchorGrid
    ) -> Float[Tensor, "batch *anchors width"]:
        with torch.autocast(x.device.type, enabled=False):
            mixed = self.waves[grid.label](x.to(self.weight.dtype), self.weight)
        return mixed.to(x.dtype)


class _Waves(nn.Module):
    """There and back for one grid: tokens to waves, a matrix for each, waves to tokens.

    Between the transforms an axis holds (parts x waves) numbers: cosines, then sines. An axis of
    signed frequencies has no parts of its own; it turns those of the first axis.
    """

    chosen: Tensor

    def __init__(
        self,
        grid: AnchorGrid,
        modes: int | None,
        signed: Sequence[bool],
        chosen: Sequence[int],
    ) -> None:
        super().__init__()
        self.grid, self.signed = grid, tuple(signed)
        self.axes = [axis for axis, size in enumerate(grid.anchors) if size > 1]
        waves = [_axis_waves(grid, axis, modes, signed[axis]) for axis in self.axes]
        self.counts = [len(found) for found in waves]
        self.parts = [2 if grid.periodic[a] and not signed[a] else 1 for a in self.axes]
        self.parities = [1 if signed[a] else 2 for a in self.axes]
        for axis, found in zip(self.axes, waves, strict=True):
            matrices = _turning if signed[axis] else _standing
            there, back = matrices(grid.anchors[axis], grid.periodic[axis], found)
            self.register_buffer(f"there{axis}", there, persistent=False)
            self.register_buffer(f"back{axis}", back, persistent=False)
        self.register_buffer("chosen", torch.tensor(chosen), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch *anchors width"], weight: Float[Tensor, "mode width out"]
    ) -> Float[Tensor, "batch *anchors width"]:
        for axis in self.axes:
            x = self._transformed(x, axis, self.get_buffer(f"there{axis}"))
        x = self._mixed(x, self._weights(weight, x.shape[-1]))
        for axis in reversed(self.axes):
            x = self._transformed(x, axis, self.get_buffer(f"back{axis}"))
        return x

    def _transformed(self, x: Tensor, axis: int, matrix: Tensor) -> Tensor:
        if not self.signed[axis]:
            return _along(x, axis + 1, matrix)
        x = x.unflatten(1, (2, -1)).movedim(1, axis + 1).flatten(axis + 1, axis + 2)
        x = _along(x, axis + 1, matrix).unflatten(axis + 1, (2, -1))
        return x.movedim(axis + 1, 1).flatten(1, 2)

    def _weights(self, weight: Tensor, width: int) -> Tensor:
        """Of this grid's waves; along an axis of one token the odd part sees nothing."""
        if len(self.chosen) < len(weight):
            weight = weight.index_select(0, self.chosen)
        with_parity = [axis for axis, signed in enumerate(self.signed) if not signed]
        missing = [with_parity.index(a) for a in self.grid.singletons if a in with_parity]
        if missing:
            parities = weight.unflatten(-1, (*(2 for _ in with_parity), width))
            for index in missing:
                parities = parities.narrow(index + 2, 0, 1)
            weight = parities.flatten(2)
        return weight

    def _mixed(self, x: Tensor, weight: Tensor) -> Tensor:
        """A matrix for each wave: (batch, parts x waves along each axis, width) -> the same.

        At a wall there is one part before, cosines, and there are two after.
        """
        batch, num, width = x.shape[0], len(self.axes), x.shape[-1]
        split = [n for pair in zip(self.parts, self.counts, strict=True) for n in pair]
        waves, parts = range(2, 2 * num + 2, 2), range(1, 2 * num + 1, 2)
        x = x.reshape(batch, *split, width).permute(*waves, 0, *parts, -1)
        x = torch.bmm(x.reshape(len(weight), -1, width), weight)
        x = x.reshape(*self.counts, batch, *self.parts, *self.parities, width)
        for index, part in enumerate(self.parts):
            if part == 2:
                x = _even_and_odd(x, num + 1 + index, 2 * num + 1 + index)
        order = [dim for i in range(num) for dim in (num + 1 + i, 2 * num + 1 + i, i)]
        x = x.permute(num, *order, -1)
        shape = [1] * len(self.grid.anchors)
        for axis, parity, count in zip(self.axes, self.parities, self.counts, strict=True):
            shape[axis] = parity * count
        return x.reshape(batch, *shape, width)


def _even_and_odd(x: Tensor, part: int, parity: int) -> Tensor:
    """Cosines and sines, by the even part and by the odd one, to cosines and sines."""
    even, odd = x.chunk(2, parity)
    (cosines, sines), (to_sines, to_cosines) = even.chunk(2, part), odd.chunk(2, part)
    return torch.cat([cosines - to_cosines, sines + to_sines], part)


def _along(
    x: Float[Tensor, "batch *anchors width"], axis: int, matrix: Float[Tensor, "new old"]
) -> Float[Tensor, "batch *changed width"]:
    """Multiply one axis by a matrix."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    flat = x.reshape(math.prod(before), x.shape[axis], -1)
    return torch.bmm(matrix.expand(flat.shape[0], -1, -1), flat).reshape(*before, -1, *after)


def _axis_waves(grid: AnchorGrid, axis: int, modes: int | None, signed: bool) -> list[int]:
    """Kept waves along one axis, at walls half waves, lowest first."""
    size = grid.anchors[axis]
    most = size // 2 + 1 if grid.periodic[axis] else size
    waves = range(min(modes or most, most))
    negative = [-wave for wave in reversed(waves) if 0 < 2 * wave < size]
    return [*negative, *waves] if signed else [*waves]


def _frequencies(
    grid: AnchorGrid, modes: int | None, signed: Sequence[bool]
) -> list[tuple[int, ...]]:
    """Half waves over the domain along each axis, of every kept wave."""
    axes = [
        [wave * (2 if wraps else 1) for wave in _axis_waves(grid, axis, modes, signed[axis])]
        for axis, wraps in enumerate(grid.periodic)
    ]
    return list(itertools.product(*axes))


def _angles(size: int, wraps: bool, waves: Sequence[int]) -> Float[Tensor, "wave token"]:
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    return torch.tensor(waves)[:, None] * centres * ((2 if wraps else 1) * math.pi)


def _standing(size: int, wraps: bool, waves: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Tokens -> coefficients of cosines (and sines of an axis that wraps); both -> tokens."""
    angles = _angles(size, wraps, waves)
    both = torch.cat([angles.cos(), angles.sin()])
    into = both if wraps else both[: len(waves)]
    energy = into.square().sum(1, keepdim=True)
    # A sine of frequency zero, or a cosine that vanishes at every token, is no wave.
    there = torch.where(energy > 1e-9, into / energy.clamp_min(1e-9), 0)
    return there.float(), both.T.float().contiguous()


def _turning(size: int, wraps: bool, waves: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The complex Fourier transform of c - is, and back, on c and s of another axis."""
    angles = _angles(size, wraps, waves)
    cosines, sines = angles.cos(), angles.sin()
    there = torch.cat([torch.cat([cosines, -sines], 1), torch.cat([sines, cosines], 1)])
    return (there / size).float(), there.T.float().contiguous()
