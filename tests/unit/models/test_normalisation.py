"""Means and amplitudes of tokens are those of the fields that they stand for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ups.models.layout import TokenLayout
from ups.models.normalisation import amplitudes, per_channel, sample_norm, without_mean

LAYOUT = TokenLayout(
    anchors=(6,), periodic=(True,), latent_dim=8, num_fields=2, separable=True,
    points_per_token=4, conserved=(True, False), num_parameters=0, dt=0.1,
)  # fmt: skip
WEIGHTS = (0.1, 0.1, 0.2, 0.3, 0.1, 0.2)


def basis():
    """Orthonormal columns, the first one constant."""
    columns = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    columns[:, 0] = 1
    found = torch.linalg.qr(columns).Q
    return found * found[0, 0].sign()


def fields():
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(3, 6, 4, 2, generator=generator, dtype=torch.float64)
    return noise * torch.tensor([1.0, 5.0]) + torch.tensor([0.7, -2.0])


def tokens():
    """Channel k * 2 + c, of patches of 4 points."""
    return torch.einsum("btpc,pk->btkc", fields(), basis()).flatten(-2)


def test_mean_and_amplitude_are_those_of_the_field():
    state, values = amplitudes(tokens(), LAYOUT), fields()
    mean = values.mean((1, 2))
    rms = (values - mean[:, None, None]).square().mean((1, 2)).sqrt()
    torch.testing.assert_close(state.mean, mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(state.amplitude, rms, rtol=0, atol=1e-6)
    back = torch.einsum("btkc,pk->btpc", state.deviation.unflatten(-1, (4, 2)), basis())
    torch.testing.assert_close(back, values - mean[:, None, None], rtol=0, atol=1e-9)


def test_where_channels_mix_the_fields_all_share_the_amplitude_over_fields():
    # Mix what is not the mean of a patch.
    z = tokens()
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    z = torch.cat([z[..., :2], z[..., 2:] @ turn], -1)
    state, values = amplitudes(z, replace(LAYOUT, separable=False)), fields()
    mean = values.mean((1, 2))
    joint = (values - mean[:, None, None]).square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(state.mean, mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(state.amplitude, joint[:, None].expand(-1, 2), rtol=0, atol=1e-6)


def test_tokens_count_by_their_share_of_the_domain():
    state = amplitudes(tokens(), replace(LAYOUT, weights=WEIGHTS))
    share = torch.tensor(WEIGHTS, dtype=torch.float64)
    values = fields().transpose(1, 2).flatten(0, 1).unflatten(0, (3, 4))  # batch point token field
    mean = (values.mean(1) * share[:, None]).sum(1)
    energy = ((values - mean[:, None, None]).square().mean(1) * share[:, None]).sum(1)
    torch.testing.assert_close(state.mean, mean, rtol=0, atol=1e-7)
    torch.testing.assert_close(state.amplitude, energy.sqrt(), rtol=0, atol=1e-6)


def test_equal_weights_are_no_weights():
    equal = replace(LAYOUT, weights=(1 / 6,) * 6)
    a, b = amplitudes(tokens(), LAYOUT), amplitudes(tokens(), equal)
    torch.testing.assert_close(a.amplitude, b.amplitude)
    torch.testing.assert_close(a.mean, b.mean)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_mean_of_conserved_fields_and_no_other_is_taken_out(weights):
    layout = replace(LAYOUT, weights=weights)
    before, after = (amplitudes(z, layout) for z in (tokens(), without_mean(tokens(), layout)))
    assert after.mean[:, 0].abs().max() < 1e-9
    assert torch.equal(after.mean[:, 1], before.mean[:, 1])
    torch.testing.assert_close(after.amplitude, before.amplitude)


def test_numbers_of_a_field_reach_its_channels():
    values = torch.tensor([[1.0, 2.0]])
    assert per_channel(values, LAYOUT).tolist() == [[[1.0, 2.0] * 4]]
    joint = replace(LAYOUT, separable=False, latent_dim=5)
    assert per_channel(torch.tensor([[3.0, 3.0]]), joint).tolist() == [[[3.0] * 5]]


def test_a_constant_state_has_the_smallest_amplitude_and_finite_gradients():
    z = without_mean(tokens(), replace(LAYOUT, conserved=(True, True))) * 0
    z.requires_grad_()
    state = amplitudes(z, LAYOUT)
    assert state.amplitude.tolist() == [[1e-3, 1e-3]] * 3
    state.amplitude.sum().backward()
    assert z.grad.isfinite().all()


def test_sample_norm_has_unit_rms_per_sample_in_float32_at_least():
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)) * 100
    torch.testing.assert_close(sample_norm(x).square().mean((1, 2)), torch.ones(4))
    assert sample_norm(x.bfloat16()).dtype == torch.float32
    assert sample_norm(x.double()).dtype == torch.float64


def test_half_precision_regions_leave_amplitudes_in_float32():
    layout = replace(LAYOUT, weights=WEIGHTS)
    z = tokens().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = amplitudes(z, layout)
    assert torch.equal(inside.amplitude, amplitudes(z, layout).amplitude)
    assert torch.equal(inside.mean, amplitudes(z, layout).mean)
