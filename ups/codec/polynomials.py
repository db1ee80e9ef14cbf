"""Polynomials around an anchor, orthonormal under the anchor's weight."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ups.codec.anchors import smooth_step


class LocalPolynomials:
    """Products of polynomials in each coordinate, orthonormal under the weight around an anchor.

    The weight w is the smooth hat of `AnchorGrid.around` on [-1, 1] in every direction, whose
    integral is 1 and whose shifts add up to 1. Hence for u that is sum_k c_ak p_k around every
    anchor a, the mean over anchors of sum_k c_ak^2 is the mean of u^2 over the box; p_0 = 1.

    Args:
        dims: Coordinates.
        degree: Largest total degree.

    Attributes:
        orders: Degree along each axis of every polynomial, rising in total degree.
    """

    def __init__(self, dims: int, degree: int) -> None:
        self.dims, self.degree = dims, degree
        orders = itertools.product(range(degree + 1), repeat=dims)
        self.orders = sorted(
            (each for each in orders if sum(each) <= degree), key=lambda each: (sum(each), each)
        )
        points, weights = panels()
        legendre = _legendre(points, degree)
        gram = torch.einsum("q,qi,qj->ij", weights * hat(points), legendre, legendre)
        # Rows of the inverse Cholesky factor turn Legendre polynomials into orthonormal ones.
        self._change = torch.linalg.inv(torch.linalg.cholesky(gram))

    def __len__(self) -> int:
        return len(self.orders)

    def along(self, t: Float[Tensor, "*some"]) -> Float[Tensor, "*some order"]:
        """The polynomials of one coordinate."""
        return _legendre(t, self.degree) @ self._change.T.to(t)

    def __call__(self, relative: Float[Tensor, "*some dim"]) -> Float[Tensor, "*some basis"]:
        one = self.along(relative)
        orders = torch.tensor(self.orders, device=relative.device)
        result = one[..., 0, :][..., orders[:, 0]]
        for axis in range(1, self.dims):
            result = result * one[..., axis, :][..., orders[:, axis]]
        return result


def panels() -> tuple[Tensor, Tensor]:
    """Gauss-Legendre points and weights on four panels of [-1, 1], float64."""
    points, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(12))
    starts = torch.tensor([-1.0, -0.5, 0.0, 0.5], dtype=torch.float64)
    at = starts[:, None] + (points + 1) / 4
    return at.flatten(), (weights / 4).expand(4, -1).flatten()


def hat(t: Float[Tensor, "*some"]) -> Float[Tensor, "*some"]:
    """The weight of an anchor along one axis, at a distance of t anchor spacings."""
    return smooth_step((1 - t.abs()).clamp(0, 1))


def _legendre(t: Float[Tensor, "*some"], degree: int) -> Float[Tensor, "*some order"]:
    """Legendre polynomials times sqrt(2k + 1), k = 0 to `degree`."""
    values = [torch.ones_like(t), t]
    for k in range(1, degree):
        values.append(((2 * k + 1) * t * values[k] - k * values[k - 1]) / (k + 1))
    return torch.stack([math.sqrt(2 * k + 1) * values[k] for k in range(degree + 1)], -1)
