"""Ways in which tokens exchange information across the domain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ups.config.models import LatentOperatorConfig
from ups.errors import ConfigError


def build_mixer(
    config: LatentOperatorConfig, anchors: Sequence[int], periodic: Sequence[bool]
) -> nn.Module:
    """The mixer named by `config.mixer`, for tokens on a grid of `anchors`."""
    match config.mixer:
        case "spectral":
            return SpectralMixer(config.width, anchors, periodic, config.modes)
        case "conv":
            return ConvMixer(config.width, config.kernel_size, periodic)
        case "attention":
            return AttentionMixer(config.width, config.heads, anchors, periodic)


class SpectralMixer(nn.Module):
    """A learned complex matrix for every Fourier mode of the token grid.

    Along an axis that does not wrap the tokens are extended evenly about the boundary first, so
    that no false jump enters the transform.

    Shape:
        x: (batch, *anchors, width) -> the same
    """

    def __init__(
        self, width: int, anchors: Sequence[int], periodic: Sequence[bool], modes: int | None
    ) -> None:
        super().__init__()
        self.periodic = tuple(periodic)
        self.lengths = tuple(
            size if wraps else 2 * size for size, wraps in zip(anchors, periodic, strict=True)
        )
        self.kept = [self._kept(length, modes, half=axis == len(anchors) - 1)
                     for axis, length in enumerate(self.lengths)]  # fmt: skip
        num_modes = math.prod(len(kept) for kept in self.kept)
        self.weight = nn.Parameter(torch.randn(num_modes, width, width, 2) * (0.5 / width))

    @staticmethod
    def _kept(length: int, modes: int | None, *, half: bool) -> list[int]:
        """Indices of the kept modes in the (half) spectrum of one axis."""
        if half:
            return list(range(min(modes or length, length // 2 + 1)))
        frequency = [min(k, length - k) for k in range(length)]
        return [k for k in range(length) if modes is None or frequency[k] < modes]

    def forward(
        self, x: Float[Tensor, "batch *anchors width"]
    ) -> Float[Tensor, "batch *anchors width"]:
        kind, shape = x.dtype, x.shape
        # Autocast has no half-precision transform for most lengths.
        with torch.autocast(x.device.type, enabled=False):
            return self._mix(x.to(self.weight.dtype))[tuple(slice(n) for n in shape)].to(kind)

    def _mix(self, x: Float[Tensor, "batch *anchors width"]) -> Tensor:
        dims = list(range(1, x.ndim - 1))
        for axis, wraps in zip(dims, self.periodic, strict=True):
            if not wraps:
                x = torch.cat([x, x.flip(axis)], axis)
        spectrum = torch.fft.rfftn(x, dim=dims)
        full = spectrum.shape
        chosen = self._select(spectrum)
        mixed = torch.bmm(
            chosen.flatten(1, -2).transpose(0, 1), torch.view_as_complex(self.weight)
        ).transpose(0, 1)
        mixed = mixed.reshape(chosen.shape)
        if chosen.shape != full:
            mixed = self._scatter(mixed, full)
        return torch.fft.irfftn(mixed, s=self.lengths, dim=dims)

    def _select(self, spectrum: Tensor) -> Tensor:
        for axis, kept in enumerate(self.kept, start=1):
            if len(kept) < spectrum.shape[axis]:
                index = torch.tensor(kept, device=spectrum.device)
                spectrum = spectrum.index_select(axis, index)
        return spectrum

    def _scatter(self, mixed: Tensor, full: torch.Size) -> Tensor:
        for axis, kept in enumerate(self.kept, start=1):
            if len(kept) < full[axis]:
                shape = list(mixed.shape)
                shape[axis] = full[axis]
                index = torch.tensor(kept, device=mixed.device)
                mixed = torch.zeros(shape, dtype=mixed.dtype, device=mixed.device).index_copy(
                    axis, index, mixed
                )
        return mixed


class ConvMixer(nn.Module):
    """Depthwise convolution over neighbouring tokens, then a matrix over channels.

    Shape:
        x: (batch, *anchors, width) -> the same
    """

    def __init__(self, width: int, kernel_size: int, periodic: Sequence[bool]) -> None:
        super().__init__()
        self.periodic, self.reach = tuple(periodic), kernel_size // 2
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(self.periodic) - 1]
        self.depthwise = kind(width, width, kernel_size, groups=width)
        self.hidden = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "batch *anchors width"]
    ) -> Float[Tensor, "batch *anchors width"]:
        for axis, wraps in enumerate(self.periodic, start=1):
            x = _padded(x, axis, self.reach, wraps)
        return self.hidden(self.depthwise(x.movedim(-1, 1)).movedim(1, -1))


def _padded(x: Tensor, axis: int, reach: int, wraps: bool) -> Tensor:
    """Extend `x` by `reach` tokens on both sides of an axis: around, or by the outermost one."""
    size = x.shape[axis]
    around = torch.arange(-reach, size + reach, device=x.device)
    return x.index_select(axis, around % size if wraps else around.clamp(0, size - 1))


class AttentionMixer(nn.Module):
    """Self-attention with normalised queries and keys and rotary anchor positions.

    Along a periodic axis the rotation frequencies are whole waves of the domain, so that attention
    depends on the distance around the circle; along the others they are half waves.

    Shape:
        x: (batch, *anchors, width) -> the same
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self, width: int, heads: int, anchors: Sequence[int], periodic: Sequence[bool]
    ) -> None:
        super().__init__()
        self.heads = heads
        self.hidden_qkv = nn.Linear(width, 3 * width)
        self.hidden_out = nn.Linear(width, width)
        head_dim = width // heads
        self.temperature = nn.Parameter(torch.full((heads, 1, 1), math.sqrt(head_dim)))
        angles = _rotary_angles(head_dim // 2, anchors, periodic)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch *anchors width"]
    ) -> Float[Tensor, "batch *anchors width"]:
        shape = x.shape
        qkv = self.hidden_qkv(x.flatten(1, -2)).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query = self._rotated(F.normalize(query, dim=-1)) * self.temperature
        key = self._rotated(F.normalize(key, dim=-1))
        mixed = F.scaled_dot_product_attention(query, key.to(query.dtype), value, scale=1.0)
        return self.hidden_out(mixed.transpose(1, 2).reshape(shape))

    def _rotated(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return torch.cat(
            [left * self.cos - right * self.sin, left * self.sin + right * self.cos], -1
        )


def _rotary_angles(
    pairs: int, anchors: Sequence[int], periodic: Sequence[bool]
) -> Float[Tensor, "tokens pair"]:
    """One angle for each token and rotated pair of channels; axes take turns over the pairs."""
    axes = [torch.arange(size) / size for size in anchors]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(anchors))
    if pairs < len(anchors):
        raise ConfigError(
            f"operator.heads: {pairs} rotated pairs of channels a head for {len(anchors)} axes",
            hint="fewer heads or a larger operator.width",
        )
    columns = []
    for pair in range(pairs):
        axis, order = pair % len(anchors), pair // len(anchors) + 1
        columns.append(place[:, axis] * order * (2 if periodic[axis] else 1) * torch.pi)
    return torch.stack(columns, -1)
