"""Noise on what an operator is given, so that it learns to undo small errors of its own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ups.models.layout import TokenLayout
from ups.models.normalisation import amplitudes, per_channel, without_mean


def noisy_tokens(
    tokens: Float[Tensor, "batch tokens dim"],
    level: float,
    layout: TokenLayout,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch tokens dim"]:
    """Tokens plus normal noise whose decoded RMS is `level` times that of the field's deviation.

    White over tokens and channels; per sample and field, so small fields get little. The mean of
    conserved fields is left as it is: an operator that keeps it could not undo its change.

    Args:
        level: Relative to the RMS of each field about its mean; 0 adds nothing.
        generator: Draws on its own device, whatever that of the tokens.
    Source:
        Sanchez-Gonzalez et al. 2020, arXiv:2002.09405; here it scales with the sample.
    """
    if level < 0:
        raise ValueError(f"the noise level must not be negative, and is {level}")
    if level == 0:
        return tokens
    device = tokens.device if generator is None else generator.device
    noise = torch.randn(tokens.shape, generator=generator, device=device).to(tokens)
    share = (layout.points_per_token * layout.num_fields / layout.latent_dim) ** 0.5
    size = level * share * per_channel(amplitudes(tokens, layout).amplitude, layout)
    return tokens + without_mean(size.to(tokens) * noise, layout)
