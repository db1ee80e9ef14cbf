"""A convolutional U-Net on a grid of any size, with edges that fit the boundary conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ups.models.normalisation import sample_norm
from ups.models.waves import Axis


class UNet(nn.Module):
    """Residual blocks at several resolutions, each half as fine and twice as wide.

    A block normalises over the whole sample, as the latent operator's do, so that amplitudes
    within a sample stay; what a sample is told scales and shifts its channels. Axes of odd size are
    halved upwards, and cut again on the way back. Convolutions are kept as matrices, so that Muon
    can have those between the first and the last, which starts at zero.

    Args:
        condition: Numbers that a sample is told besides x.
        depth: Blocks of each level, on the way down and on the way up.
        levels: Resolutions at most: an axis of one point is not halved, and no level is made
            where no axis could be.
    Shape:
        x: (batch, *space, inputs) -> (batch, *space, outputs)
        told: (batch, condition)
    Source:
        Ronneberger et al. 2015, arXiv:1505.04597; with the residual blocks and conditioning of
        Gupta and Brandstetter 2022, arXiv:2209.15616 (PDEArena).
    """

    def __init__(
        self,
        axes: Sequence[Axis],
        inputs: int,
        outputs: int,
        condition: int,
        width: int,
        depth: int,
        levels: int,
    ) -> None:
        super().__init__()
        grids = _grids(axes, levels)
        widths = [width * 2**level for level in range(len(grids))]
        self.embed = Told(condition, width)
        self.stem = Convolution(grids[0], inputs, width)
        self.down, self.hidden_narrow = nn.ModuleList(), nn.ModuleList()
        self.up, self.hidden_widen = nn.ModuleList(), nn.ModuleList()
        for level, grid in enumerate(grids):
            here, below = widths[level], widths[min(level + 1, len(grids) - 1)]
            self.down.append(Blocks(grid, here, here, width, depth))
            if level < len(grids) - 1:
                self.hidden_narrow.append(Convolution(grid, here, below, stride=2))
                self.hidden_widen.append(Convolution(grid, below, here))
                self.up.append(Blocks(grid, 2 * here, here, width, depth))
        self.head = Convolution(grids[0], width, outputs)
        nn.init.zeros_(self.head.matrix)

    def forward(
        self, x: Float[Tensor, "batch *space inputs"], told: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch *space _"]:
        told = self.embed(told)
        x = self.stem(x.movedim(-1, 1))
        seen = []
        for level, blocks in enumerate(self.down):
            x = blocks(x, told)
            if level < len(self.hidden_narrow):
                seen.append(x)
                x = self.hidden_narrow[level](x)
        for level in reversed(range(len(self.up))):
            x = torch.cat(
                [self.hidden_widen[level](_doubled(x, seen[level].shape)), seen[level]], 1
            )
            x = self.up[level](x, told)
        return self.head(F.gelu(sample_norm(x))).movedim(1, -1)


class Blocks(nn.ModuleList):
    """Residual blocks of one resolution, one after the other."""

    def __init__(
        self, grid: Sequence[Axis], inputs: int, outputs: int, embedding: int, depth: int
    ) -> None:
        sizes = [inputs] + [outputs] * (depth - 1)
        super().__init__(ResidualBlock(grid, size, outputs, embedding) for size in sizes)

    def forward(
        self, x: Float[Tensor, "batch _ *space"], told: Float[Tensor, "batch embedding"]
    ) -> Float[Tensor, "batch _ *space"]:
        for block in self:
            x = block(x, told)
        return x


class ResidualBlock(nn.Module):
    """Norm, GELU, convolution, twice; told numbers scale and shift before the second GELU.

    Shape:
        x: (batch, inputs, *space) -> (batch, outputs, *space)
        told: (batch, embedding)
    """

    def __init__(self, grid: Sequence[Axis], inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.hidden_first = Convolution(grid, inputs, outputs)
        self.hidden_second = Convolution(grid, outputs, outputs)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.hidden_skip = (
            nn.Identity() if inputs == outputs else Convolution(grid, inputs, outputs, 1)
        )
        with torch.no_grad():
            self.hidden_second.matrix.mul_(0.5)

    def forward(
        self, x: Float[Tensor, "batch inputs *space"], told: Float[Tensor, "batch embedding"]
    ) -> Float[Tensor, "batch outputs *space"]:
        h = self.hidden_first(F.gelu(sample_norm(x)))
        shape = (x.shape[0], -1, *(1,) * (x.ndim - 2))
        scale, shift = self.modulation(told).reshape(shape).chunk(2, 1)
        h = self.hidden_second(F.gelu(sample_norm(h) * (1 + scale) + shift))
        return self.hidden_skip(x) + h


class Convolution(nn.Module):
    """A convolution that sees beyond the ends what the boundary condition says.

    Around an axis that wraps, zeros where fields vanish, and the outermost value again elsewhere.
    Its weight is a matrix (outputs, inputs x kernel points).

    Args:
        grid: The axes of its input.
        kernel: Points along each axis, odd; along an axis of one point it is one.
        stride: Points of input for one of output, along axes of more than one point.
    Shape:
        x: (batch, inputs, *space) -> (batch, outputs, *shorter)
    """

    def __init__(
        self, grid: Sequence[Axis], inputs: int, outputs: int, kernel: int = 3, stride: int = 1
    ) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.kernel = tuple(kernel if axis.points > 1 else 1 for axis in grid)
        self.stride = tuple(stride if axis.points > 1 else 1 for axis in grid)
        columns = inputs * math.prod(self.kernel)
        self.matrix = nn.Parameter(torch.randn(outputs, columns) / columns**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Float[Tensor, "batch inputs *space"]) -> Float[Tensor, "batch _ *shorter"]:
        for place, (axis, kernel) in enumerate(zip(self.grid, self.kernel, strict=True), 2):
            x = beyond_ends(x, place, axis, kernel // 2, kernel // 2)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(self.grid) - 1]
        weight = self.matrix.reshape(len(self.matrix), -1, *self.kernel)
        return convolve(x, weight.to(x.dtype), self.bias.to(x.dtype), stride=self.stride)


class Told(nn.Module):
    """What a sample is told -> a vector; a learned one where it is told nothing.

    Shape:
        told: (batch, condition) -> (batch, width)
    """

    def __init__(self, condition: int, width: int) -> None:
        super().__init__()
        self.constant = None if condition else nn.Parameter(torch.zeros(width))
        self.numbers = nn.Linear(condition, width) if condition else None
        self.hidden = nn.Linear(width, width)

    def forward(self, told: Float[Tensor, "batch condition"]) -> Float[Tensor, "batch width"]:
        if self.numbers is None:
            assert self.constant is not None
            return self.hidden(F.gelu(self.constant)).expand(told.shape[0], -1)
        return F.gelu(self.hidden(F.gelu(self.numbers(told))))


def beyond_ends(
    x: Float[Tensor, "*any"], place: int, axis: Axis, before: int, after: int
) -> Float[Tensor, "*longer"]:
    """Extend an axis of `axis.points` at both ends by what stands there.

    Args:
        place: Of the axis in `x`.
    """
    if not before and not after:
        return x
    size = x.shape[place]
    around = torch.arange(-before, size + after, device=x.device)
    found = x.index_select(place, around % size if axis.periodic else around.clamp(0, size - 1))
    outside = (axis.fixed_low and before > 0, axis.fixed_high and after > 0)
    if axis.periodic or not any(outside):
        return found
    kept = torch.ones_like(around, dtype=x.dtype)
    kept[around < 0] = float(not axis.fixed_low)
    kept[around >= size] = float(not axis.fixed_high)
    return found * kept.reshape(-1, *(1,) * (x.ndim - place - 1))


def _grids(axes: Sequence[Axis], levels: int) -> list[tuple[Axis, ...]]:
    """The axes at each level, finest first."""
    grids = [tuple(axes)]
    while len(grids) < levels and any(axis.points > 1 for axis in grids[-1]):
        grids.append(tuple(axis.with_points(-(-axis.points // 2)) for axis in grids[-1]))
    return grids


def _doubled(x: Float[Tensor, "batch width *space"], like: Sequence[int]) -> Tensor:
    """Every point twice along each axis that is longer in `like`, cut to that size."""
    for place in range(2, x.ndim):
        if like[place] > x.shape[place]:
            x = x.repeat_interleave(2, place).narrow(place, 0, like[place])
    return x
