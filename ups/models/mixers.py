"""Ways in which tokens exchange information across the domain.

Every mixer is built for several anchor grids and is told at each call on which one it works.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ups.config.models import BackboneConfig
from ups.models.anchor_grid import AnchorGrid, extended
from ups.models.attention import AttentionMixer
from ups.models.spectral import SpectralMixer


def build_mixer(
    config: BackboneConfig, width: int, grids: Sequence[AnchorGrid], *, shifted: bool = False
) -> nn.Module:
    """The mixer named by `config.mixer`.

    Args:
        width: Channels, a multiple of `config.width`; heads grow in number with it.
        shifted: Whether windows of attention are shifted by half.
    """
    match config.mixer:
        case "spectral":
            return SpectralMixer(width, grids, config.modes)
        case "conv":
            return ConvMixer(width, config.kernel_size, len(grids[0].anchors))
        case "attention":
            heads = config.heads * width // config.width
            return AttentionMixer(width, heads, grids, window=config.window, shifted=shifted)


class DepthwiseConv(nn.Module):
    """A convolution over neighbouring tokens in each channel alone.

    Beyond a boundary that is not periodic the outermost token repeats. Along an axis of one token
    the kernel is summed up: the answer for a state that is constant there.

    Shape:
        x: (batch, *anchors, width) -> the same
    """

    def __init__(self, width: int, kernel_size: int, num_axes: int) -> None:
        super().__init__()
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[num_axes - 1]
        self.conv = kind(width, width, kernel_size, groups=width)

    def forward(
        self, x: Float[Tensor, "batch *anchors width"], grid: AnchorGrid
    ) -> Float[Tensor, "batch *anchors width"]:
        weight, reach = self.conv.weight, self.conv.kernel_size[0] // 2
        for axis, (size, wraps) in enumerate(zip(grid.anchors, grid.periodic, strict=True)):
            if size == 1:
                weight = weight.sum(axis + 2, keepdim=True)
            else:
                x = extended(x, axis + 1, reach, wraps)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(grid.anchors) - 1]
        groups = self.conv.groups
        return convolve(x.movedim(-1, 1), weight, self.conv.bias, groups=groups).movedim(1, -1)


class ConvMixer(nn.Module):
    """Depthwise convolution over neighbouring tokens, then a matrix over channels.

    Shape:
        x: (batch, *anchors, width) -> the same
    """

    def __init__(self, width: int, kernel_size: int, num_axes: int) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(width, kernel_size, num_axes)
        self.hidden = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "batch *anchors width"], grid: AnchorGrid
    ) -> Float[Tensor, "batch *anchors width"]:
        return self.hidden(self.depthwise(x, grid))
