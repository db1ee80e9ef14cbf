"""Mean, deviation and amplitude of token states, and the norm inside the networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ups.models.layout import TokenLayout

_EPS = 1e-8
_NORM_EPS = 1e-6
_SMALLEST_AMPLITUDE = 1e-3


@dataclass(frozen=True)
class State:
    """Tokens split into what the amplitude-normalised form treats separately.

    Shape:
        mean: (batch, field), of the decoded field
        deviation: (batch, tokens, dim), the tokens without their mean
        amplitude: (batch, field), RMS of the decoded deviation, at least 1e-3
    """

    mean: Float[Tensor, "batch field"]
    deviation: Float[Tensor, "batch tokens dim"]
    amplitude: Float[Tensor, "batch field"]


def amplitudes(z: Float[Tensor, "batch tokens dim"], layout: TokenLayout) -> State:
    """Mean, deviation from it, and the deviation's RMS, of each sample and field.

    All are those of the decoded field, read off the tokens: their first channels hold the means of
    the patches, and the channels are isometric. Where channels do not belong to one field each,
    all fields share one amplitude, the RMS over fields too. In float32 at least.
    """
    z = at_least_float32(z)
    mean = _over_tokens(z[..., : layout.num_fields], layout)
    deviation = z - _as_constant(mean, layout)
    energy = _over_tokens(deviation.square(), layout) / layout.points_per_token
    if layout.separable:
        per_field = energy.unflatten(-1, (-1, layout.num_fields)).sum(1)
    else:
        per_field = (energy.sum(-1, keepdim=True) / layout.num_fields).expand_as(mean)
    amplitude = (per_field + _EPS).sqrt().clamp_min(_SMALLEST_AMPLITUDE)
    return State(mean / layout.points_per_token**0.5, deviation, amplitude)


def per_channel(
    values: Float[Tensor, "batch field"], layout: TokenLayout
) -> Float[Tensor, "batch 1 dim"]:
    """Spread one number per field over the channels of a token.

    Where the channels mix the fields, all fields must have the same number, as `amplitudes` gives.
    """
    if layout.separable:
        return values.repeat(1, layout.latent_dim // layout.num_fields)[:, None]
    return values[:, None, :1].expand(-1, -1, layout.latent_dim)


def without_mean(
    update: Float[Tensor, "batch tokens dim"], layout: TokenLayout
) -> Float[Tensor, "batch tokens dim"]:
    """The update without the mean of the fields that the PDE conserves."""
    if not any(layout.conserved):
        return update
    mean = _over_tokens(update[..., : layout.num_fields], layout)
    return update - _as_constant(mean * mean.new_tensor(layout.conserved), layout)


def sample_norm(x: Float[Tensor, "batch *any"]) -> Float[Tensor, "batch *any"]:
    """Divide by the RMS over everything but the batch; in float32 at least.

    One norm per token would remove amplitude and make small fields non-linear.
    """
    x = at_least_float32(x)
    energy = x.square().mean(tuple(range(1, x.ndim)), keepdim=True)
    return x * torch.rsqrt(energy + _NORM_EPS)


def at_least_float32(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Half precision to float32; wider types stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _over_tokens(
    x: Float[Tensor, "batch tokens channel"], layout: TokenLayout
) -> Float[Tensor, "batch channel"]:
    """Mean over tokens, by their share of the domain."""
    if layout.weights is None:
        return x.mean(1)
    return (x * x.new_tensor(layout.weights)[:, None]).sum(1)


def _as_constant(
    mean: Float[Tensor, "batch field"], layout: TokenLayout
) -> Float[Tensor, "batch 1 dim"]:
    """What a field that is constant adds to every token."""
    return F.pad(mean[:, None], (0, layout.latent_dim - layout.num_fields))
