"""Noise on tokens: its size in decoded fields, what it leaves alone."""

from __future__ import annotations

import pytest
import torch

from ups.models.layout import TokenLayout
from ups.training.noise import noisy_tokens


def layout(conserved=(True, False), separable=True):
    return TokenLayout(
        anchors=(64,), periodic=(True,), latent_dim=8, num_fields=2, separable=separable,
        points_per_token=8, conserved=conserved, num_parameters=0, dt=0.1,
    )  # fmt: skip


def tokens():
    """Field 0 ten times the size of field 1, far from zero mean."""
    z = torch.randn(16, 64, 8, generator=torch.Generator().manual_seed(0))
    z[..., 0::2] *= 10
    z[..., :2] += 50
    return z


def decoded_rms(z, which):
    of_field = z[..., which::2]
    deviation = of_field - of_field.mean(1, keepdim=True) * torch.eye(4)[0]
    return (deviation.square().sum(-1).mean(1) / 8).sqrt()


@pytest.mark.parametrize("field", [0, 1])
def test_noise_is_the_level_times_each_fields_own_deviation(field):
    z = tokens()
    noise = noisy_tokens(z, 0.1, layout(), torch.Generator().manual_seed(1)) - z
    ratio = decoded_rms(noise, field) / decoded_rms(z, field)
    torch.testing.assert_close(ratio, torch.full((16,), 0.1), rtol=0.15, atol=0)


def test_means_of_conserved_fields_stay_and_those_of_others_do_not():
    z = tokens()
    change = (noisy_tokens(z, 0.5, layout(), torch.Generator().manual_seed(1)) - z).mean(1)
    assert change[:, 0].abs().max() < 1e-4
    assert change[:, 1].abs().max() > 1e-2


def test_where_fields_are_mixed_all_have_one_size():
    z = tokens()
    noise = noisy_tokens(z, 0.1, layout(separable=False), torch.Generator().manual_seed(1)) - z
    torch.testing.assert_close(
        noise[..., 0::2].std((0, 1, 2)), noise[..., 1::2].std((0, 1, 2)), rtol=0.1, atol=0
    )


def test_generator_repeats_the_noise_and_level_zero_adds_none():
    z = tokens()
    one, two = (noisy_tokens(z, 0.1, layout(), torch.Generator().manual_seed(5)) for _ in "ab")
    assert torch.equal(one, two)
    assert noisy_tokens(z, 0.0, layout()) is z
    with pytest.raises(ValueError, match="not be negative"):
        noisy_tokens(z, -0.1, layout())
