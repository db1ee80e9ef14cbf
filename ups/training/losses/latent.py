"""Losses that keep codec and operator consistent and tokens alive."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ups.models.normalisation import at_least_float32
from ups.training.losses.fields import relative_l2

_EPS = 1e-12

Tokens = Float[Tensor, "batch tokens dim"]


def inverse_encoding(
    encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor], tokens: Tokens
) -> Float[Tensor, ""]:
    """Relative L2 between tokens and what encoding makes of their decoded fields.

    Source:
        Alkin et al. 2024, Universal Physics Transformers, arXiv:2402.12365.
    """
    return relative_l2(encode(decode(tokens)), tokens)


def inverse_decoding(
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    fields: Float[Tensor, "batch *space channel"],
) -> Float[Tensor, ""]:
    """Relative L2 between fields and what decoding makes of their tokens: reconstruction.

    Source:
        Alkin et al. 2024, Universal Physics Transformers, arXiv:2402.12365.
    """
    return relative_l2(decode(encode(fields)), fields)


def latent_norm(prediction: Tokens, target: Tokens) -> Float[Tensor, ""]:
    """Square of log(RMS of predicted tokens / RMS of true ones), mean over samples.

    0 where the norms agree, alike for twice and half of it; blind to direction.
    """
    squares = [at_least_float32(z).square().mean((1, 2)) + _EPS for z in (prediction, target)]
    return (0.5 * (squares[0] / squares[1]).log()).square().mean()


def diversity(prediction: Tokens, target: Tokens) -> Float[Tensor, ""]:
    """Channels of predicted tokens that vary less, or together more, than the true ones do.

    Two hinges over the tokens of the batch: how far each channel's standard deviation lies below
    the truth's, over the truth's; and how far covariances exceed the truth's, over its variance.
    0 where tokens are spread like the truth's or more; 1 where all tokens are one.

    Source:
        Bardes et al. 2022, VICReg, arXiv:2105.04906; differs in that the truth, not 1 and 0, says
        how large variance and covariance should be.
    """
    found, true = (_covariance(at_least_float32(z).flatten(0, 1)) for z in (prediction, target))
    spread, wanted = ((matrix.diagonal() + _EPS).sqrt() for matrix in (found, true))
    collapse = (wanted - spread).clamp_min(0).sum() / wanted.sum()
    others = ~torch.eye(len(true), dtype=torch.bool, device=true.device)
    together = ((found.abs() - true.abs()).clamp_min(0).square() * others).sum()
    return collapse + together / (true.diagonal().square().sum() + _EPS)


def _covariance(values: Float[Tensor, "sample dim"]) -> Float[Tensor, "dim dim"]:
    centred = values - values.mean(0)
    with torch.autocast(values.device.type, enabled=False):
        return centred.T @ centred / len(values)
