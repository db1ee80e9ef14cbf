"""How well a codec reconstructs: by frequency band, on the grid and between its points."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ups.codec.grid import GridCodec
from ups.codec.interpolation import interpolate, shifted

BANDS = {"low": (0, 4), "mid": (4, 12), "high": (12, None)}


@dataclass(frozen=True)
class BandErrors:
    """Reconstruction error relative to the field's RMS; the bands add up in squares to `nrmse`.

    Wave numbers per domain: low is [0, 4), mid [4, 12), high 12 and above.
    """

    nrmse: float
    low: float
    mid: float
    high: float


@dataclass(frozen=True)
class ReportCard:
    """Reconstruction on unseen frames, mean over samples and fields.

    Attributes:
        native: At the points of the grid that was encoded.
        double: At twice as many points per axis, against the band-limited interpolant.
        double_linear: The same with the decoder's learned expansion left out.
        compression: Values per frame / numbers per frame of tokens.
    """

    native: BandErrors
    double: BandErrors
    double_linear: BandErrors
    compression: float
    num_frames: int

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


@torch.no_grad()
def report_card(codec: GridCodec, batches: Iterable[Tensor]) -> ReportCard:
    """Encode and decode every batch once.

    Args:
        batches: Physical fields on the codec's grid, (batch, *space, channel) each.
    """
    geometry = codec.geometry
    sums: dict[str, Tensor] = {}
    count = 0
    compression = 0.0
    for fields in batches:
        tokens = codec.encode(fields)
        truth = upsampled(fields, geometry.periodic)
        queries = _double_coords(codec)
        linear = interpolate(
            codec.decode(tokens), codec.grid_positions(queries), geometry.periodic
        ).reshape(truth.shape)
        found = {
            "native": _band_ratios(codec.decode(tokens), fields),
            "double": _band_ratios(codec.decode(tokens, queries).reshape(truth.shape), truth),
            "double_linear": _band_ratios(linear, truth),
        }
        for name, ratios in found.items():
            sums[name] = sums.get(name, torch.zeros(len(BANDS) + 1, dtype=torch.float64)) + ratios
        count += len(fields)
        compression = fields[0].numel() / tokens[0].numel()
    errors = {name: BandErrors(*(total / count).tolist()) for name, total in sums.items()}
    return ReportCard(**errors, compression=compression, num_frames=count)


def upsampled(
    fields: Float[Tensor, "batch *space channel"], periodic: Sequence[bool]
) -> Float[Tensor, "batch *double channel"]:
    """The band-limited interpolant at the cell centres of a grid twice as fine."""
    batch, *space, channels = fields.shape
    out = fields.new_empty(batch, *(2 * size for size in space), channels)
    for side in itertools.product((0, 1), repeat=len(space)):
        offset = [0.25 if half else -0.25 for half in side]
        places = tuple(slice(half, None, 2) for half in side)
        out[(slice(None), *places)] = shifted(fields, offset, periodic)
    return out


def _double_coords(codec: GridCodec) -> Float[Tensor, "query axis"]:
    geometry = codec.geometry
    axes = [
        start + step * (torch.arange(2 * size, dtype=torch.float64) - 0.5) / 2
        for size, start, step in zip(geometry.space, geometry.origin, geometry.spacing, strict=True)
    ]
    grid = torch.meshgrid(*axes, indexing="ij")
    return torch.stack(grid, -1).reshape(-1, geometry.num_dims).to(codec.scale.device)


def _band_ratios(
    decoded: Float[Tensor, "batch *space channel"], truth: Float[Tensor, "batch *space channel"]
) -> Float[Tensor, " ratio"]:
    """Sum over the batch of (error RMS, its share in each band) / RMS of the truth."""
    axes = tuple(range(1, truth.ndim - 1))
    points = truth[0, ..., 0].numel()
    spectrum = torch.fft.fftn((decoded - truth).double(), dim=axes) / points
    energy = spectrum.abs().square()
    waves = torch.meshgrid(
        *(torch.fft.fftfreq(truth.shape[axis], 1 / truth.shape[axis]) for axis in axes),
        indexing="ij",
    )
    radius = torch.stack(waves).square().sum(0).sqrt().to(energy.device)[..., None]
    size = truth.double().square().mean(axes).sqrt() + 1e-12
    parts = [energy.sum(axes)]
    for low, high in BANDS.values():
        inside = (radius >= low) & (radius < (high or float("inf")))
        parts.append((energy * inside).sum(axes))
    return torch.stack([(part.sqrt() / size).mean(-1).sum() for part in parts]).cpu()
