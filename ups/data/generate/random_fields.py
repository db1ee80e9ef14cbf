"""Random smooth initial states on periodic squares."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor


@dataclass(frozen=True)
class FourierFields:
    """A batch of band-limited random fields, kept as numbers so that any grid can hold them.

        f(x, y) = Re sum_{|k| <= K} c_k exp(i (k_x x + k_y y)),    (x, y) in (0, 2 pi)^2

    Every wave vector appears once and k = 0 does not, so f has mean 0; f has RMS 1. Both hold
    exactly on every uniform grid of more than 2 K points.

    Shape:
        coefficients: (batch, 2 K + 1, K + 1), k_x from -K to K, k_y from 0 to K, complex128
    """

    coefficients: Complex[Tensor, "batch kx ky"]

    def evaluate(
        self, x: Float[Tensor, " x"], y: Float[Tensor, " y"]
    ) -> Float[Tensor, "batch x y"]:
        """Values at the points of a grid, axes in radians of the period; float64, on the CPU."""
        cutoff = self.coefficients.shape[2] - 1
        waves_x = _waves(x, torch.arange(-cutoff, cutoff + 1))
        waves_y = _waves(y, torch.arange(cutoff + 1))
        return torch.stack([(waves_x @ c @ waves_y.T).real for c in self.coefficients])


def draw_fourier_fields(
    generators: Iterable[np.random.Generator], *, cutoff: int, steepness: float = 0.0
) -> FourierFields:
    """One field from each generator: Gaussian, isotropic, statistically homogeneous.

    Args:
        cutoff: K, the largest wavenumber; at least 1.
        steepness: The spectrum falls as exp(-steepness |k|^2); 0 is white up to K.
    """
    kx, ky = np.meshgrid(np.arange(-cutoff, cutoff + 1), np.arange(cutoff + 1), indexing="ij")
    square = kx**2 + ky**2
    kept = (square <= cutoff**2) & ((ky > 0) | (kx > 0))
    size = np.where(kept, np.exp(-0.5 * steepness * square), 0.0)
    drawn = []
    for generator in generators:
        real, imaginary = generator.standard_normal((2, *size.shape))
        c = size * (real + 1j * imaginary)
        drawn.append(c * math.sqrt(2 / (np.abs(c) ** 2).sum()))
    return FourierFields(torch.from_numpy(np.stack(drawn)))


def _waves(x: Tensor, wavenumbers: Tensor) -> Tensor:
    angle = torch.outer(x.to("cpu", torch.float64), wavenumbers.double())
    return torch.polar(torch.ones_like(angle), angle)
