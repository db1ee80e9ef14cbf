"""Consistency and spread of tokens: known answers."""

from __future__ import annotations

import math

import pytest
import torch

from ups.training.losses import diversity, inverse_decoding, inverse_encoding, latent_norm


def tokens(batch=6, number=8, dim=4):
    return torch.randn(batch, number, dim, generator=torch.Generator().manual_seed(1))


def test_inverses_of_each_other_lose_nothing_and_a_codec_that_halves_loses_half():
    z, fields = tokens(), torch.randn(2, 16, 1)
    for inverse, values in ((inverse_encoding, z), (inverse_decoding, fields)):
        assert inverse(lambda u: u / 2, lambda t: 2 * t, values).item() < 1e-4
        assert inverse(lambda u: u, lambda t: t / 2, values).item() == pytest.approx(0.5, rel=1e-4)


def test_inverse_losses_train_both_parts():
    weight = torch.tensor(1.5, requires_grad=True)
    for inverse in (inverse_encoding, inverse_decoding):
        (gradient,) = torch.autograd.grad(
            inverse(lambda u: u, lambda t: weight * t, tokens()), weight
        )
        assert gradient.item() == pytest.approx(1.0, rel=1e-4)


def test_latent_norm_is_the_square_of_the_logarithm_and_blind_to_direction():
    z = tokens()
    expected = math.log(2) ** 2
    assert latent_norm(2 * z, z).item() == pytest.approx(expected, rel=1e-4)
    assert latent_norm(z / 2, z).item() == pytest.approx(expected, rel=1e-4)
    assert latent_norm(-z.flip(1), z).item() < 1e-9


def test_diversity_sees_collapse_and_ignores_more_spread():
    z = tokens()
    assert diversity(z, z).item() < 1e-6
    assert diversity(z.mean((0, 1)).expand_as(z), z).item() == pytest.approx(1.0, abs=1e-3)
    assert diversity(0.5 * z, z).item() == pytest.approx(0.5, rel=1e-3)
    uncorrelated = torch.eye(4).repeat(2, 2, 1)
    uncorrelated = torch.cat([uncorrelated, -uncorrelated])
    assert diversity(2 * uncorrelated, uncorrelated).item() < 1e-6


def test_diversity_sees_channels_that_repeat_each_other():
    z = torch.randn(64, 8, 2, generator=torch.Generator().manual_seed(0))
    repeated = z[..., :1].expand_as(z)
    assert diversity(repeated, z).item() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("value", [0.0, 3.0])
@pytest.mark.parametrize("loss", [latent_norm, diversity])
def test_gradients_are_finite_where_all_tokens_are_one(loss, value):
    z = torch.full((2, 4, 3), value, requires_grad=True)
    for target in (torch.full((2, 4, 3), value), tokens(2, 4, 3)):
        found = loss(z, target)
        (gradient,) = torch.autograd.grad(found, z)
        assert found.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", [latent_norm, diversity])
def test_gradients_are_those_of_the_value(loss):
    target = tokens().double()
    z = (0.7 * target + 0.1 * tokens().flip(0).double()).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: loss(p, target), z)


def test_autocast_changes_nothing():
    z, target = tokens(), tokens().flip(0)
    exact = diversity(z, 0.1 * target)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(diversity(z, 0.1 * target), exact)
