"""Losses: pure functions with an eps inside every root."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

_EPS = 1e-12
_SMALLEST = 1e-3


def relative_l2(
    prediction: Float[Tensor, "batch *rest"], target: Float[Tensor, "batch *rest"]
) -> Float[Tensor, ""]:
    """RMS of the error over RMS of the target, per sample, then the mean over the batch.

    For tokens of an orthonormal codec this is the relative L2 error of the decoded fields. Frames
    that have decayed to nothing would make the gradient infinite: eps is inside the roots, and the
    denominator is at least 1e-3 of the unit of the normalised fields.
    """
    axes = tuple(range(1, prediction.ndim))
    error = ((prediction - target).square().mean(axes) + _EPS).sqrt()
    size = (target.square().mean(axes) + _EPS).sqrt().clamp_min(_SMALLEST)
    return (error / size).mean()
