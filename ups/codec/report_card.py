"""How well a codec reconstructs: by frequency band, on the grid and between its points."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ups.codec.grid import GridCodec
from ups.codec.interpolation import resample, shifted

BANDS = {"low": (0, 4), "mid": (4, 12), "high": (12, None)}
_MAX_VALUES = 2**22


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
        floor: The same by the linear skip alone, without the learned parts.
        double: At twice as many points per axis, against the band-limited interpolant.
        double_linear: The same by local polynomials between the decoded grid points.
        quadruple: At four times as many points per axis; of the first frames of each batch, as
            many as keep the points within 4 million. None where it was not asked for.
        compression: Values per frame / numbers per frame of tokens.
    """

    native: BandErrors
    floor: BandErrors
    double: BandErrors
    double_linear: BandErrors
    quadruple: BandErrors | None
    compression: float
    num_frames: int

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


@torch.no_grad()
def report_card(
    codec: GridCodec, batches: Iterable[Tensor], *, quadruple: bool = True
) -> ReportCard:
    """Encode and decode every batch once.

    Args:
        batches: Physical fields on the codec's grid, (batch, *space, channel) each.
        quadruple: Whether to measure super-resolution by 4 too, which costs most of the time.
    """
    means = _Means()
    count = 0
    for fields in batches:
        tokens = codec.encode(fields)
        values = codec.decode(tokens)
        means.add("native", values, fields)
        means.add("floor", codec.linear(fields), fields)
        means.add("double", *_super_resolved(codec, tokens, fields, 2))
        means.add("double_linear", *_between_points(codec, values, fields, 2))
        if quadruple:
            shown = max(1, _MAX_VALUES // (fields[0].numel() * 4 ** len(codec.anchors)))
            means.add("quadruple", *_super_resolved(codec, tokens[:shown], fields[:shown], 4))
        count += len(fields)
    errors = means.errors()
    return ReportCard(
        native=errors["native"],
        floor=errors["floor"],
        double=errors["double"],
        double_linear=errors["double_linear"],
        quadruple=errors.get("quadruple"),
        compression=codec.compression,
        num_frames=count,
    )


class _Means:
    """Band errors of several kinds, averaged over samples."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, decoded: Tensor, truth: Tensor) -> None:
        ratios = _band_ratios(decoded, truth)
        self.sums[name] = self.sums.get(name, torch.zeros_like(ratios)) + ratios
        self.counts[name] = self.counts.get(name, 0) + len(truth)

    def errors(self) -> dict[str, BandErrors]:
        return {
            name: BandErrors(*(total / self.counts[name]).tolist())
            for name, total in self.sums.items()
        }


def _super_resolved(
    codec: GridCodec, tokens: Tensor, fields: Tensor, factor: int
) -> tuple[Tensor, Tensor]:
    """Decoded on a finer grid, and the truth there."""
    space = [factor * size for size in codec.geometry.space]
    return codec.decode(tokens, space=space), upsampled(fields, codec.geometry.periodic, factor)


def _between_points(
    codec: GridCodec, values: Tensor, fields: Tensor, factor: int
) -> tuple[Tensor, Tensor]:
    """Local polynomials on a finer grid, and the truth there."""
    places = [
        ((torch.arange(factor * size) + 0.5) / factor - 0.5).to(values)
        for size in codec.geometry.space
    ]
    periodic = codec.geometry.periodic
    return resample(values, places, periodic), upsampled(fields, periodic, factor)


def upsampled(
    fields: Float[Tensor, "batch *space channel"], periodic: Sequence[bool], factor: int = 2
) -> Float[Tensor, "batch *fine channel"]:
    """The band-limited interpolant at the cell centres of a grid `factor` times as fine."""
    batch, *space, channels = fields.shape
    out = fields.new_empty(batch, *(factor * size for size in space), channels)
    for side in itertools.product(range(factor), repeat=len(space)):
        offset = [(part + 0.5) / factor - 0.5 for part in side]
        places = tuple(slice(part, None, factor) for part in side)
        out[(slice(None), *places)] = shifted(fields, offset, periodic)
    return out


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
