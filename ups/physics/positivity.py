"""Negative values of fields that are positive: density, pressure, depth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ups.models.normalisation import at_least_float32
from ups.physics.norms import mean_square, relative, root


def negativity(
    fields: Float[Tensor, "batch time *space channel"], positive: Sequence[bool]
) -> Float[Tensor, " batch"]:
    """RMS of what lies below zero over the RMS of the field; RMS over the positive channels.

    Dimensionless: 0 where nothing is negative, 1 where everything is.

    Args:
        positive: For each channel, whether it may not be negative; at least one may not.
    """
    chosen = [channel for channel, is_positive in enumerate(positive) if is_positive]
    if not chosen:
        raise ValueError("no field is positive by nature")
    values = at_least_float32(fields)[..., chosen].movedim(-1, 0)
    parts = [(mean_square(field.clamp_max(0)), mean_square(field)) for field in values.unbind(0)]
    squares = torch.stack([relative(part, whole).square() for part, whole in parts])
    return root(squares.mean(0))
