"""Errors of fields, on a grid or at points, and of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from ups.data.generate.cosine import cosine_matrix
from ups.evaluation.metrics import BANDS
from ups.models.normalisation import at_least_float32

_EPS = 1e-12
_SMALLEST = 1e-3
_FAINT = 1e-6


def relative_l2(
    prediction: Float[Tensor, "batch *rest"],
    target: Float[Tensor, "batch *rest"],
    weights: Float[Tensor, " second"] | None = None,
) -> Float[Tensor, ""]:
    """RMS of the error over RMS of the target, per sample, then the mean over the batch.

    For tokens of an orthonormal codec this is the relative L2 error of the decoded fields. Frames
    that have decayed to nothing would make the gradient infinite: eps is inside the roots, and the
    denominator is at least 1e-3 of the unit of the normalised fields.

    Args:
        weights: Of the entries of the second axis (tokens, query points), adding up to about 1;
            None weighs all alike.
    """
    prediction, target = at_least_float32(prediction), at_least_float32(target)
    error = (_mean_square(prediction - target, weights) + _EPS).sqrt()
    size = (_mean_square(target, weights) + _EPS).sqrt().clamp_min(_SMALLEST)
    return (error / size).mean()


def nrmse(
    prediction: Float[Tensor, "batch *space channel"],
    target: Float[Tensor, "batch *space channel"],
    floor: Float[Tensor, " channel"] | None = None,
) -> Float[Tensor, ""]:
    """PDEBench's metric: RMSE over space / RMS of the target, per frame and field, then the mean.

    Args:
        floor: Smallest denominator of each field, in its unit: without one a field that vanishes
            in a frame outweighs all others.
    Source:
        Takamoto et al. 2022, arXiv:2210.07182.
    """
    space = tuple(range(1, prediction.ndim - 1))
    prediction, target = at_least_float32(prediction), at_least_float32(target)
    size = target.square().mean(space).sqrt() + _EPS
    size = size if floor is None else torch.maximum(size, floor)
    return (((prediction - target).square().mean(space) / size.square()) + _EPS).sqrt().mean()


def spectral(
    prediction: Float[Tensor, "batch *space channel"],
    target: Float[Tensor, "batch *space channel"],
    periodic: Sequence[bool],
) -> Float[Tensor, ""]:
    """Mean of `spectral_bands`: bands that hold little energy count like those that hold much."""
    return torch.stack(list(spectral_bands(prediction, target, periodic).values())).mean()


def spectral_bands(
    prediction: Float[Tensor, "batch *space channel"],
    target: Float[Tensor, "batch *space channel"],
    periodic: Sequence[bool],
) -> dict[str, Float[Tensor, ""]]:
    """Relative error in each band of wave numbers of `ups.evaluation.metrics.BANDS`.

    sqrt(energy of the error / energy of the target) in the band, per sample and field, then the
    mean. A wave number is the length of the vector of waves per domain length along each axis,
    rounded down. Axes that are not periodic are continued evenly, by a cosine transform: no jump
    at the ends leaks into the high band. A band's energy counts as at least 1e-6 of the
    target's whole: where the target has nothing, an error of 1e-3 of its RMS gives 1. Bands that
    the grid is too coarse for are left out.
    """
    error = _energy(at_least_float32(prediction - target), periodic)
    size = _energy(at_least_float32(target), periodic)
    space = tuple(range(1, size.ndim - 1))
    shell = _shells(prediction.shape[1:-1], periodic).to(error.device)
    least = _FAINT * size.sum(space) + _EPS
    found = {}
    for name, (low, high) in BANDS.items():
        inside = (shell >= low) & (shell < (high or torch.inf))
        if inside.any():
            part, whole = (_within(energy, inside) for energy in (error, size))
            found[name] = (part / torch.maximum(whole, least) + _EPS).sqrt().mean()
    return found


def excess(found: Float[Tensor, " batch"], of_truth: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """What a violation exceeds the truth's own by, mean over the batch.

    Sampled, rounded data do not satisfy equations exactly; only what they satisfy is asked for.
    """
    return (found - of_truth).clamp_min(0).mean()


def _mean_square(values: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return values.square().mean(tuple(range(1, values.ndim)))
    return (values.square().flatten(2).mean(2) * weights.to(values)).sum(1)


def _energy(values: Tensor, periodic: Sequence[bool]) -> Tensor:
    """|transform|^2 along all space axes; the sum over all waves is the mean square."""
    for axis, wraps in enumerate(periodic, start=1):
        if not wraps:
            cosines = _cosines(values.shape[axis], values.dtype, values.device)
            with torch.autocast(values.device.type, enabled=False):
                values = (values.movedim(axis, -1) @ cosines).movedim(-1, axis)
    wrapped = tuple(axis for axis, wraps in enumerate(periodic, start=1) if wraps)
    if not wrapped:
        return values.square()
    return torch.fft.fftn(values, dim=wrapped, norm="forward").abs().square()


@lru_cache(maxsize=32)
def _cosines(points: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(point, wave), so that the squares of the coefficients add up to the mean square."""
    with torch.inference_mode(False):  # kept for steps with gradients
        return (cosine_matrix(points).T / points**0.5).to(device, dtype)


def _shells(space: Sequence[int], periodic: Sequence[bool]) -> Tensor:
    """Length of the wave vector in waves per domain, rounded down, in the order of `_energy`."""
    waves = [
        torch.fft.fftfreq(size, 1 / size) if wraps else torch.arange(size) / 2
        for size, wraps in zip(space, periodic, strict=True)
    ]
    grid = torch.meshgrid(*waves, indexing="ij")
    return (torch.stack(grid).double().square().sum(0).sqrt() + 1e-9).floor()


def _within(energy: Tensor, inside: Tensor) -> Tensor:
    """Sum over the chosen wave vectors, (batch, channel)."""
    return (energy * inside[..., None]).sum(tuple(range(1, energy.ndim - 1)))
