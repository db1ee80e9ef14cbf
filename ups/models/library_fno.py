"""The neural operators of the `neuraloperator` library, as networks of ours."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
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
        _free_matrices(self.blocks)
        _finish(self.lifting, self.projection)

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


class LibraryUNO(nn.Module):
    """`neuralop.models.UNO`: Fourier layers that coarsen the grid by half, then refine it again.

    The number of layers is odd, at least three: the way down, the coarsest one, the way up. Axes
    too short for that keep their points, and waves are as many as the grid of a layer can carry.
    Matrices and last layer as in `LibraryFNO`.

    Args:
        width: Channels of the finest layers; on coarser grids twice as many, and no more.
        depth: Fourier layers; an even number has the next odd one.
        modes, padding: As of `LibraryFNO`.
    Shape:
        x: (batch, *space, inputs) -> (batch, *space, outputs)
    Raises:
        MissingExtraError: `neuraloperator` is not installed.
    Source:
        Rahman et al. 2023, arXiv:2204.11127.
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
        padding: float = 0.0,
    ) -> None:
        super().__init__()
        shares = [0.0 if axis.periodic else padding for axis in axes]
        half = max(depth // 2, 1)
        levels = [min(layer, 2 * half - layer) for layer in range(2 * half + 1)]
        powers = [0] + [-1] * half + [1] * half
        with redirect_stdout(StringIO()):  # the library prints while it builds
            self.network = _library().UNO(
                in_channels=inputs,
                out_channels=outputs,
                hidden_channels=width,
                positional_embedding=None,
                n_layers=len(levels),
                uno_out_channels=[width * min(2**level, 2) for level in levels],
                uno_n_modes=[_library_modes(_coarser(axes, level), modes) for level in levels],
                uno_scalings=[
                    [2.0**power if axis.points >> half else 1.0 for axis in axes]
                    for power in powers
                ],
                channel_mlp_skip="linear",
                domain_padding=shares if any(shares) else None,
            )
        for block in self.network.fno_blocks:
            _free_matrices(block)
        for skip in self.network.horizontal_skips.values():
            skip.conv = HiddenConv(skip.conv)
        _finish(self.network.lifting, self.network.projection)

    def forward(self, x: Float[Tensor, "batch *space inputs"]) -> Float[Tensor, "batch *space _"]:
        with torch.autocast(x.device.type, enabled=False):
            return self.network(x.float().movedim(-1, 1).contiguous()).movedim(1, -1)


def _coarser(axes: Sequence[Axis], level: int) -> list[Axis]:
    return [axis.with_points(max(axis.points >> level, 1)) for axis in axes]


def _free_matrices(blocks: Any) -> None:
    """Replace the hidden 1x1 convolutions, whose weights are (out, in, 1), by matrices."""
    for skip in (*blocks.fno_skips, *blocks.channel_mlp_skips):
        if hasattr(skip, "conv"):
            skip.conv = HiddenConv(skip.conv)
    for network in blocks.channel_mlp:
        for index, layer in enumerate(network.fcs):
            network.fcs[index] = HiddenConv(layer)


def _finish(lifting: Any, projection: Any) -> None:
    """The same for the hidden layers at both ends; the last one starts at zero."""
    lifting.fcs[1] = HiddenConv(lifting.fcs[1])
    projection.fcs[0] = HiddenConv(projection.fcs[0])
    nn.init.zeros_(projection.fcs[-1].weight)
    nn.init.zeros_(projection.fcs[-1].bias)


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


@contextmanager
def plain_contractions() -> Iterator[None]:
    """Products of several tensors from left to right, whatever their sizes are.

    The library has them ordered by size, which fixes the batch where a network is exported.
    """
    plugins = sys.modules.get("tensorly.plugins")
    if plugins is None:  # the library is not in use
        yield
        return
    plugins.use_default_einsum()
    try:
        with torch.backends.opt_einsum.flags(enabled=False):
            yield
    finally:
        plugins.use_opt_einsum("optimal")  # as the library sets it


def _library() -> Any:
    if importlib.util.find_spec("neuralop") is None:
        raise MissingExtraError(
            "neuraloperator: not installed, and operator kinds 'fno', 'tfno' and 'uno' need it",
            hint="pip install 'universal-physics-stack[baselines]'",
        )
    with warnings.catch_warnings():  # importing it changes the process' warning filters
        from neuralop import models
    return models
