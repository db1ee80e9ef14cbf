"""Errors of fields and tokens: closed forms, and gradients where everything is the same."""

from __future__ import annotations

import pytest
import torch

from ups.training.losses import excess, nrmse, relative_l2, spectral, spectral_bands

DOUBLE = torch.float64


def wave(number, points=64):
    x = (torch.arange(points, dtype=DOUBLE) + 0.5) / points
    return torch.sin(2 * torch.pi * number * x)[None, :, None]


def test_relative_l2_is_the_mean_of_each_samples_ratio():
    target = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
    assert relative_l2(target * torch.tensor([[1.1], [0.7]]), target).item() == pytest.approx(0.2)


def test_weights_of_relative_l2_count_their_entry_only():
    target = torch.ones(1, 3, 2)
    prediction = target.clone()
    prediction[:, 1] += 0.5
    weights = torch.tensor([0.25, 0.5, 0.25])
    found = relative_l2(prediction, target, weights).item()
    assert found == pytest.approx(0.5 * 0.5**0.5)
    even = torch.full((3,), 1 / 3)
    torch.testing.assert_close(relative_l2(prediction, target, even),
                               relative_l2(prediction, target))  # fmt: skip


def test_nrmse_weighs_every_field_by_its_own_size():
    target = torch.tensor([1.0, 100.0]).expand(2, 8, 2)
    found = nrmse(target + torch.tensor([0.1, 0.1]), target)
    assert found.item() == pytest.approx((0.1 + 0.001) / 2, rel=1e-4)


def test_floor_of_nrmse_bounds_what_a_field_that_vanishes_counts():
    target = torch.zeros(1, 8, 1)
    assert nrmse(target + 0.1, target).item() > 1e6
    assert nrmse(target + 0.1, target, torch.tensor([0.5])).item() == pytest.approx(0.2)


def test_bands_are_those_of_the_metric():
    target = wave(2) + wave(7) + wave(20)
    prediction = 1.1 * wave(2) + 1.2 * wave(7) + 1.4 * wave(20)
    found = spectral_bands(prediction, target, (True,))
    values = {name: value.item() for name, value in found.items()}
    assert values == pytest.approx({"low": 0.1, "mid": 0.2, "high": 0.4}, rel=1e-4)
    assert spectral(prediction, target, (True,)).item() == pytest.approx(0.7 / 3, rel=1e-4)


def test_cosine_continuation_counts_half_waves_and_leaks_nothing_into_the_high_band():
    x = (torch.arange(64, dtype=DOUBLE) + 0.5) / 64
    half_waves = torch.cos(torch.pi * 3 * x)[None, :, None]
    target = torch.cos(torch.pi * 10 * x)[None, :, None] + half_waves
    found = spectral_bands(target + 0.3 * half_waves, target, (False,))
    assert found["low"].item() == pytest.approx(0.3, rel=1e-4)
    assert found["mid"].item() < 1e-4
    assert found["high"].item() < 1e-4


def test_a_diagonal_wave_has_the_length_of_its_vector():
    """(3, 3) is 4.24 waves long: the mid band, though each component is below 4."""
    x = (torch.arange(16, dtype=DOUBLE) + 0.5) / 16
    phase = 2 * torch.pi * 3 * (x[:, None] + x)
    target = torch.ones(1, 16, 16, 1, dtype=DOUBLE) + torch.sin(phase)[None, ..., None]
    found = spectral_bands(target + 0.5 * torch.sin(phase)[None, ..., None], target, (True, True))
    assert found["mid"].item() == pytest.approx(0.5, rel=1e-4)
    assert found["low"].item() < 1e-4


@pytest.mark.parametrize("periodic", [(True,), (False,), (True, False), (True, False, True)])
def test_an_error_in_proportion_is_the_same_in_every_band(periodic):
    space = (24, 8, 6)[: len(periodic)]
    target = torch.randn(2, *space, 1, dtype=DOUBLE)
    bands = spectral_bands(1.5 * target, target, periodic)
    assert {name: value.item() for name, value in bands.items()} == pytest.approx(
        dict.fromkeys(bands, 0.5), rel=1e-3
    )


def test_a_grid_too_coarse_for_a_band_leaves_it_out():
    assert set(spectral_bands(wave(1, 6), wave(1, 6), (True,))) == {"low"}


def test_faint_bands_are_measured_against_a_thousandth_of_the_field():
    found = spectral_bands(wave(1) + 1e-3 * wave(20), wave(1), (True,))
    assert found["high"].item() == pytest.approx(1.0, rel=1e-3)


def test_only_what_exceeds_the_truths_own_violation_counts():
    found = excess(torch.tensor([0.3, 0.1]), torch.tensor([0.1, 0.2]))
    assert found.item() == pytest.approx(0.1)


LOSSES = {
    "relative_l2": relative_l2,
    "nrmse": nrmse,
    "spectral": lambda p, t: spectral(p, t, (True,)),
    "spectral_cosine": lambda p, t: spectral(p, t, (False,)),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("target", [0.0, 2.0])
def test_gradients_are_finite_without_error_and_on_constant_fields(loss, target):
    prediction = torch.full((2, 16, 1), target, requires_grad=True)
    LOSSES[loss](prediction, torch.full((2, 16, 1), target)).backward()
    assert prediction.grad.isfinite().all()
    assert prediction.grad.abs().max() < 1.0


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_the_value(loss):
    target = torch.randn(2, 32, 2, dtype=DOUBLE)
    prediction = (target + 0.3 * torch.randn_like(target)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: LOSSES[loss](p, target), prediction)


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_reduced_in_float32(loss):
    target = torch.randn(2, 32, 1).bfloat16()
    assert LOSSES[loss](target, target).dtype == torch.float32


@pytest.mark.parametrize("loss", [*LOSSES, "weighted"])
def test_autocast_changes_nothing(loss):
    losses = LOSSES | {"weighted": lambda p, t: relative_l2(p, t, torch.full((32,), 1 / 32))}
    target, prediction = torch.randn(2, 2, 32, 1)
    exact = losses[loss](prediction, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(losses[loss](prediction, target), exact)


def test_bands_first_measured_without_gradients_can_be_trained_on():
    with torch.inference_mode():
        spectral(torch.ones(1, 37, 1), torch.ones(1, 37, 1), (False,))
    prediction = torch.randn(1, 37, 1, requires_grad=True)
    spectral(prediction, torch.ones(1, 37, 1), (False,)).backward()
    assert prediction.grad.abs().max() > 0
