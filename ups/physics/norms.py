"""Relative root mean squares that have a gradient everywhere and do not depend on units."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ups.models.normalisation import at_least_float32

ROUNDING = 1e-6
"""Share of a field below which differences of its float32 values say nothing."""

_TINY = 1e-24
_SMALLEST = 1e-18  # its square is a float32


def mean_square(values: Float[Tensor, "batch *rest"]) -> Float[Tensor, " batch"]:
    """Over everything but the batch."""
    return at_least_float32(values).square().flatten(1).mean(1)


def relative(part: Float[Tensor, "*shape"], whole: Float[Tensor, "*shape"]) -> Tensor:
    """sqrt(part / whole) of two mean squares, with gradient 0 where `part` is 0.

    `whole` should hold the square of what rounding alone makes (`ROUNDING`), so that a quotient
    of two nothings is small.
    """
    return root(part / (whole + _SMALLEST))


def root(square: Float[Tensor, "*shape"]) -> Tensor:
    """Square root with gradient 0 at 0; for dimensionless numbers."""
    return (square + _TINY).sqrt()


def per_sample(values: Float[Tensor, " batch"], like: Tensor) -> Float[Tensor, "batch *ones"]:
    """One number of each sample, to be multiplied with `like`."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))
