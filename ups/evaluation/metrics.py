"""Errors of predicted fields: what each number means, one function per definition.

Fields are (batch, time, *space, channel) in physical units, in one, two or three space
dimensions, and hold predicted frames only: the frames that were given are dropped before. Space
is reduced here; batch, time and channel are reduced by `ups.evaluation.accumulator`, which says
how. Everything is computed in float64. A prediction that is not finite gives errors that are not
finite.

Source:
    Definitions: Takamoto et al. 2022, arXiv:2210.07182 (RMSE, nRMSE, cRMSE, bRMSE, fRMSE, maximum);
    Ohana et al. 2024, arXiv:2412.00568 (VRMSE); Li et al. 2021, arXiv:2010.08895 (relative L2).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float, Float64
from torch import Tensor

EPS = 1e-7
"""Added to what a metric divides by, so that a reference of zeros gives a large number, not NaN."""

BANDS = {"low": (0, 4), "mid": (4, 12), "high": (12, None)}
"""Wave numbers per domain length of each frequency band: from, up to but not including."""

CORRELATED = 0.8
"""Pearson correlation below which a prediction has lost the reference."""

Fields = Float[Tensor, "batch time *space channel"]
PerFrame = Float64[Tensor, "batch time channel"]


def rmse(prediction: Fields, reference: Fields) -> PerFrame:
    """sqrt(mean over space (p - y)^2), in the unit of the field."""
    return _rms(difference(prediction, reference))


def nrmse(prediction: Fields, reference: Fields, *, eps: float = EPS) -> PerFrame:
    """RMSE over space / (RMS of the reference over space + eps).

    0 is perfect, 1 is as bad as predicting zero. It explodes where the reference is near zero;
    show the relative L2 beside it.
    """
    return rmse(prediction, reference) / (_rms(reference.double()) + eps)


def vrmse(prediction: Fields, reference: Fields, *, eps: float = EPS) -> PerFrame:
    """sqrt(mean over space (p - y)^2 / (variance over space of y + eps)).

    0 is perfect, 1 is as bad as predicting the spatial mean. The variance divides by the number
    of points.
    """
    truth = reference.double()
    variance = truth.var(_space(truth), correction=0)
    return (_mean_square(difference(prediction, reference)) / (variance + eps)).sqrt()


def relative_l2(
    prediction: Fields, reference: Fields, *, eps: float = EPS
) -> Float64[Tensor, "batch channel"]:
    """||p - y|| / (||y|| + eps) over space and time together, per sample and channel.

    The norms are root mean squares, so that `eps` means the same on every grid.
    """
    error = _mean_square(difference(prediction, reference)).mean(1).sqrt()
    return error / (_mean_square(reference.double()).mean(1).sqrt() + eps)


def max_error(prediction: Fields, reference: Fields) -> PerFrame:
    """max over space |p - y|, in the unit of the field."""
    error = difference(prediction, reference)
    return error.abs().amax(_space(error))


def brmse(prediction: Fields, reference: Fields) -> PerFrame:
    """Boundary error: sqrt(sum of (p - y)^2 over both faces of every axis / points on them).

    1D: sqrt((e_0^2 + e_-1^2) / 2). 2D: four edges, 2 nx + 2 ny points. 3D: six faces,
    2 (nx ny + ny nz + nz nx) points. A corner belongs to every face that it lies on.
    """
    return boundary_rms(difference(prediction, reference))


def boundary_rms(error: Fields) -> Float[Tensor, "batch time channel"]:
    """`brmse` of an error already at hand, in its own precision."""
    total = error.new_zeros(error.shape[0], error.shape[1], error.shape[-1])
    points = 0
    for axis in _space(error):
        for end in (0, -1):
            face = error.select(axis, end).square()
            total += face.sum(_space(face)) if face.ndim > 3 else face
            points += prod(face.shape[2:-1])
    return (total / points).sqrt()


def mean_error(prediction: Fields, reference: Fields) -> PerFrame:
    """mean over space p - mean over space y: the error of the conserved mean, signed."""
    error = difference(prediction, reference)
    return error.mean(_space(error))


def crmse(prediction: Fields, reference: Fields) -> Float64[Tensor, "time channel"]:
    """sqrt(mean over the batch of `mean_error`^2). The batch must be the whole split."""
    return mean_error(prediction, reference).square().mean(0).sqrt()


def shell_energy(
    prediction: Fields, reference: Fields
) -> Float64[Tensor, "batch time shell channel"]:
    """|FFT(p) - FFT(y)|^2 per wave-number shell, not normalised: what fRMSE averages.

    1D: shell k is the k-th coefficient of the real transform, k = 0 .. n // 2. 2D and 3D: shell
    s is the sum over wave vectors in the positive quadrant or octant with floor(|k|) = s, for
    |k| < (smallest n) // 2.
    """
    return error_shells(difference(prediction, reference))


def error_shells(error: Fields) -> Float[Tensor, "batch time shell channel"]:
    """`shell_energy` of an error already at hand, in its own precision."""
    axes = _space(error)
    if len(axes) == 1:
        return torch.fft.rfft(error, dim=2).abs().square()
    half = [slice(0, error.shape[axis] // 2) for axis in axes]
    energy = torch.fft.fftn(error, dim=axes)[:, :, *half].abs().square()
    sizes = energy.shape[2:-1]
    waves = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64, device=error.device) for size in sizes),
        indexing="ij",
    )
    shell = torch.stack(waves).square().sum(0).sqrt().floor().long().flatten()
    kept = shell < min(sizes)
    out = energy.new_zeros(*energy.shape[:2], min(sizes), energy.shape[-1])
    return out.index_add_(2, shell[kept], energy.flatten(2, -2)[:, :, kept])


def frmse_bands(
    mean_energy: Float64[Tensor, "time shell channel"],
    space: Sequence[int],
    extents: Sequence[float] | None = None,
) -> dict[str, Float64[Tensor, "time channel"]]:
    """fRMSE of the bands from the batch mean of `shell_energy`.

    E[s] = sqrt(mean over the batch of the shell's energy) / number of points * volume of the
    domain; a band is the mean of E over its shells, NaN where the grid is too coarse to have any.

    Args:
        space: Points per axis.
        extents: Domain length per axis; 1 without it.
    """
    scale = prod(extents or [1.0]) / prod(space)
    error = mean_energy.sqrt() * scale
    return {name: error[:, low:high].mean(1) for name, (low, high) in BANDS.items()}


def frmse(
    prediction: Fields, reference: Fields, extents: Sequence[float] | None = None
) -> dict[str, Float64[Tensor, "time channel"]]:
    """Error by frequency band, 'low', 'mid' and 'high'. The batch must be the whole split.

    See `shell_energy` and `frmse_bands`; `BANDS` has the limits.
    """
    energy = shell_energy(prediction, reference).mean(0)
    return frmse_bands(energy, prediction.shape[2:-1], extents)


def correlation(prediction: Fields, reference: Fields) -> PerFrame:
    """Pearson correlation over space.

    Where a field is flat (its deviation from its mean is rounding) it is undefined; then it is 1
    if both are flat, else 0. It is 0 where the prediction is not finite.
    """
    _same_shape(prediction, reference)
    one, two = _deviation(prediction.double()), _deviation(reference.double())
    axes = _space(one)
    product = (one * two).sum(axes)
    size = one.square().sum(axes).sqrt() * two.square().sum(axes).sqrt()
    both_flat = ~one.any(axes) & ~two.any(axes)
    found = torch.where(both_flat, torch.ones_like(size), product / size)
    return found.nan_to_num(nan=0.0).clamp(-1.0, 1.0)


def correlation_time(
    prediction: Fields, reference: Fields, *, dt: float = 1.0, threshold: float = CORRELATED
) -> Float64[Tensor, "batch channel"]:
    """Time for which the correlation stays at or above `threshold`, from the last given frame.

    `dt` times the number of leading frames that hold it: 0 if the first predicted frame has lost
    it, the whole horizon if none has.
    """
    return time_above(correlation(prediction, reference), dt=dt, threshold=threshold)


def time_above(
    correlations: PerFrame, *, dt: float = 1.0, threshold: float = CORRELATED
) -> Float64[Tensor, "batch channel"]:
    """`correlation_time` from correlations already at hand."""
    return dt * (correlations >= threshold).double().cumprod(1).sum(1)


def difference(
    prediction: Fields, reference: Fields
) -> Float64[Tensor, "batch time *space channel"]:
    """p - y in float64; shapes that only broadcast are refused."""
    _same_shape(prediction, reference)
    return prediction.double() - reference.double()


def _same_shape(prediction: Tensor, reference: Tensor) -> None:
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and reference {tuple(reference.shape)} differ"
        )
    if prediction.ndim < 4:
        raise ValueError(f"{tuple(prediction.shape)} is not (batch, time, *space, channel)")


def _space(fields: Tensor) -> tuple[int, ...]:
    return tuple(range(2, fields.ndim - 1))


def _mean_square(fields: Tensor) -> Tensor:
    return fields.square().mean(_space(fields))


def _rms(fields: Tensor) -> Tensor:
    return _mean_square(fields).sqrt()


def _deviation(fields: Tensor) -> Tensor:
    """The field less its mean over space, exactly zero where only rounding is left."""
    axes = _space(fields)
    centred = fields - fields.mean(axes, keepdim=True)
    rounding = 1e-12 * fields.abs().amax(axes, keepdim=True)
    flat = centred.abs().amax(axes, keepdim=True) <= rounding
    return torch.where(flat, torch.zeros_like(centred), centred)
