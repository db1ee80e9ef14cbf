"""The Fourier neural operators of the `neuraloperator` library, as networks of ours."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ups.errors import MissingExtraError
from ups.models.waves import Axis


class LibraryFNO(nn.Module):
    """`neuralop.models.FNO`, or its Tucker-factorised form, part by part.

    The parts are taken out of the library's class, whose state dict is not a plain one. Hidden 1x1
    convolutions become matrices that do the same, under names with `hidden`, so that Muon can have
    them, and the last layer starts at zero.

    Args:
        modes: Frequencies kept along each axis, from 0 to modes - 1 and their negatives.
        rank: Share of the weights of a dense spectral tensor that the factorised form keeps; None
            is the dense one.
        padding: Share of the domain padded with zeros at both ends of each axis that does not
            wrap.
    Shape:
        x: (batch, *space, inputs) -> (batch, *space, outputs)
    Raises:
        MissingExtraError: `neuraloperator` is not installed.
    Source:
        Kossaifi et al. 2024, arXiv:2412.10354; Li et al. 2021, arXiv:2010.08895.
    """

    def __init__(
        self,
        axes: Sequence[Axis],
        inputs: int,
        outputs: int,
        width: int,
        depth: int,
        modes: int,
        *,
        rank: float | None = None,
        padding: float = 0.0,
    ) -> None:
        super().__init__()
        shares = [0.0 if axis.periodic else padding for axis in axes]
        built = _library().FNO(
            n_modes=_library_modes(axes, modes),
            in_channels=inputs,
            out_channels=outputs,
            hidden_channels=width,
            n_layers=depth,
            positional_embedding=None,
            domain_padding=shares if any(shares) else None,
            factorization=None if rank is None else "Tucker",
            rank=1.0 if rank is None else rank,
        )
        self.depth = depth
        self.lifting, self.projection = built.lifting, built.projection
        self.blocks, self.padding = built.fno_blocks, built.domain_padding
        self._free_matrices()
        last = self.projection.fcs[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def _free_matrices(self) -> None:
        """Replace the hidden 1x1 convolutions, whose weights are (out, in, 1), by matrices."""
        for skip in self.blocks.fno_skips:
            skip.conv = HiddenConv(skip.conv)
        for network in self.blocks.channel_mlp:
            for index, layer in enumerate(network.fcs):
                network.fcs[index] = HiddenConv(layer)
        self.lifting.fcs[1] = HiddenConv(self.lifting.fcs[1])
        self.projection.fcs[0] = HiddenConv(self.projection.fcs[0])

    def forward(self, x: Float[Tensor, "batch *space inputs"]) -> Float[Tensor, "batch *space _"]:
        # Autocast has no half-precision transform for most lengths.
        with torch.autocast(x.device.type, enabled=False):
            return self._whole(x.float().movedim(-1, 1).contiguous()).movedim(1, -1)

    def _whole(self, x: Float[Tensor, "batch inputs *space"]) -> Float[Tensor, "batch _ *space"]:
        x = self.lifting(x)
        if self.padding is not None:
            x = self.padding.pad(x)
        for index in range(self.depth):
            x = self.blocks(x, index)
        if self.padding is not None:
            x = self.padding.unpad(x)
        return self.projection(x)


class HiddenConv(nn.Module):
    """What a convolution with a kernel of one point does, with a matrix as its weight.

    Shape:
        x: (batch, in_channels, points) -> (batch, out_channels, points)
    """

    def __init__(self, like: nn.Conv1d) -> None:
        super().__init__()
        self.out_channels = like.out_channels
        self.hidden = nn.Linear(like.in_channels, like.out_channels, like.bias is not None)
        self.hidden.weight = nn.Parameter(like.weight.detach()[..., 0].clone())
        if like.bias is not None:
            self.hidden.bias = nn.Parameter(like.bias.detach().clone())

    def forward(self, x: Float[Tensor, "batch inputs points"]) -> Float[Tensor, "batch _ points"]:
        return F.conv1d(x, self.hidden.weight[..., None], self.hidden.bias)


def _library_modes(axes: Sequence[Axis], modes: int) -> tuple[int, ...]:
    """The library counts both signs, and on the last axis halves the number and adds one."""
    both = [min(2 * modes, axis.points) for axis in axes]
    return (*both[:-1], 2 * (min(modes, axes[-1].points // 2 + 1) - 1))


def _library() -> Any:
    if importlib.util.find_spec("neuralop") is None:
        raise MissingExtraError(
            "neuraloperator: not installed, and operator kinds 'fno' and 'tfno' need it",
            hint="pip install 'universal-physics-stack[baselines]'",
        )
    with warnings.catch_warnings():  # importing it changes the process' warning filters
        from neuralop import models
    return models
