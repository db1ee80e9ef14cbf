"""Cosine transforms: the eigenvectors of the no-flux Laplacian on cell centres."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def cosine_matrix(points: int) -> Float[Tensor, "points points"]:
    """The orthonormal DCT-II: row k is a multiple of cos(pi k (i + 1/2) / points). float64.

    As a matrix, because on grids of a few hundred points a product with it takes no longer than
    a fast transform, on any device, and the inverse is its transpose.
    """
    numbers = torch.arange(points, dtype=torch.float64)
    rows = torch.cos(math.pi / points * numbers[:, None] * (numbers + 0.5))
    rows *= math.sqrt(2 / points)
    rows[0] /= math.sqrt(2)
    return rows


def no_flux_eigenvalues(points: int, spacing: float) -> Float[Tensor, " points"]:
    """Of the second difference (u_(i-1) - 2 u_i + u_(i+1)) / spacing^2 with mirrored end cells.

    float64; entry k belongs to row k of `cosine_matrix`.
    """
    numbers = torch.arange(points, dtype=torch.float64)
    return -((2 / spacing * torch.sin(math.pi / 2 / points * numbers)) ** 2)
