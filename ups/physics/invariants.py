"""Means and energies of frames, and how far they drift.

Fields are (batch, time, *space, channel), physical units.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ups.models.normalisation import at_least_float32
from ups.physics.norms import relative, root

Fields = Float[Tensor, "batch time *space channel"]


def means(fields: Fields) -> Float[Tensor, "batch time channel"]:
    """The mean over space of each frame: what a conservation law keeps."""
    return at_least_float32(fields).mean(_space(fields))


def energy(fields: Fields) -> Float[Tensor, "batch time channel"]:
    """Half the mean square over space; the sum over the components of a vector is kinetic energy
    per mass."""
    return 0.5 * at_least_float32(fields).square().mean(_space(fields))


def drift(
    values: Float[Tensor, "batch time channel"], scale: Float[Tensor, "batch channel"]
) -> Float[Tensor, " batch"]:
    """RMS over later frames and channels of (value - first value) / scale.

    Dimensionless; 0 where nothing changes.
    """
    if values.shape[1] < 2:
        raise ValueError("drift needs two frames")
    change = (values[:, 1:] - values[:, :1]).square().mean(1)
    squares = relative(change, scale.square()).square()
    return root(squares.mean(1))


def conservation_drift(fields: Fields, conserved: Sequence[bool]) -> Float[Tensor, " batch"]:
    """Drift of the means of conserved fields, in units of their RMS in the first frame.

    Args:
        conserved: For each channel, whether its mean is kept; at least one is.
    """
    kept = [channel for channel, keeps in enumerate(conserved) if keeps]
    if not kept:
        raise ValueError("no field is conserved")
    chosen = fields[..., kept]
    return drift(means(chosen), root(2 * energy(chosen[:, :1])[:, 0]))


def compressible_energy(
    density: Float[Tensor, "batch time *space"],
    pressure: Float[Tensor, "batch time *space"],
    velocity: Sequence[Float[Tensor, "batch time *space"]],
    *,
    gamma: float,
) -> Float[Tensor, "batch time"]:
    """Mean over space of p / (gamma - 1) + rho |v|^2 / 2 of an ideal gas.

    Constant where nothing passes the ends: on periodic domains, viscosity included.
    """
    speed = torch.stack([at_least_float32(part).square() for part in velocity]).sum(0)
    total = at_least_float32(pressure) / (gamma - 1) + 0.5 * at_least_float32(density) * speed
    return total.flatten(2).mean(2)


def _space(fields: Tensor) -> tuple[int, ...]:
    return tuple(range(2, fields.ndim - 1))
