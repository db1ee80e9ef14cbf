"""The codec's report card: bands that add up, and errors that are known."""

from __future__ import annotations

import math

import pytest
import torch

from ups.codec.grid import GridCodec, GridGeometry
from ups.codec.report_card import report_card, upsampled
from ups.config.models import GridCodecConfig


def codec_of(space, periodic, **options):
    torch.manual_seed(0)
    dims = len(space)
    geometry = GridGeometry(
        space, tuple(0.5 / n for n in space), tuple(1 / n for n in space), periodic, ("u",)
    )
    config = GridCodecConfig(**({"patch_size": 8 if dims == 1 else 4, "width": 8} | options))
    return GridCodec(config, geometry)


def noise(space, batch=1):
    return torch.randn(batch, *space, 1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("space", "periodic"), [((64,), (True,)), ((64,), (False,)), ((16, 32), (True, False))]
)
def test_bands_add_up_in_squares(space, periodic):
    card = report_card(codec_of(space, periodic, coefficients=3), [noise(space)])
    for errors in (card.native, card.floor, card.double, card.double_linear, card.quadruple):
        total = math.sqrt(errors.low**2 + errors.mid**2 + errors.high**2)
        assert errors.nrmse == pytest.approx(total, rel=1e-6)
        assert errors.nrmse > 0.1


def test_a_constant_is_reconstructed_without_error():
    card = report_card(codec_of((32,), (True,)), [torch.full((2, 32, 1), 3.0)])
    assert max(card.native.nrmse, card.double.nrmse) < 1e-6


def test_an_invertible_codec_has_no_error_on_its_grid():
    card = report_card(codec_of((64,), (True,)), [noise((64,), 5), noise((64,), 3)])
    assert card.native.nrmse < 1e-6
    assert card.num_frames == 8
    assert card.compression == 1


def test_error_is_that_of_the_coefficients_left_out_and_in_their_band():
    """A wave of 32 per domain of 64 points alternates: three of eight cosines cannot see it."""
    x = torch.arange(64)
    alternating = (-1.0) ** x
    slow = torch.sin(2 * math.pi * (x + 0.5) / 64)
    codec = codec_of((64,), (True,), coefficients=1)
    fields = (slow + 0.1 * alternating)[None, :, None]
    patch_means = slow.unflatten(0, (8, 8)).mean(1).repeat_interleave(8)
    expected = (slow + 0.1 * alternating - patch_means).square().mean().sqrt()
    card = report_card(codec, [fields])
    size = fields.square().mean().sqrt()
    assert card.native.nrmse == pytest.approx((expected / size).item(), rel=1e-4)
    assert card.native.high > 0.1 / math.sqrt(0.51)
    assert card.compression == 8


def test_card_is_the_mean_over_samples_however_they_are_batched():
    codec = codec_of((64,), (True,), coefficients=3)
    fields = noise((64,), 6)
    one, many = report_card(codec, [fields]), report_card(codec, fields.split([1, 3, 2]))
    assert one.native.nrmse == pytest.approx(many.native.nrmse, rel=1e-6)
    assert one.double.high == pytest.approx(many.double.high, rel=1e-6)


def test_doubling_the_points_of_a_sine_gives_the_sine():
    x, fine = ((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (16, 32))
    found = upsampled(torch.sin(6 * math.pi * x)[None, :, None], (True,))[0, :, 0]
    torch.testing.assert_close(found, torch.sin(6 * math.pi * fine), rtol=0, atol=1e-6)


def test_the_floor_is_what_the_learned_parts_start_from():
    codec = codec_of((64,), (True,), coefficients=3)
    untrained = report_card(codec, [noise((64,), 4)])
    assert untrained.floor == untrained.native
    torch.nn.init.normal_(codec.decoder.out.weight, std=0.5)
    card = report_card(codec, [noise((64,), 4)])
    assert card.floor == untrained.floor
    assert card.native.nrmse > 1.01 * card.floor.nrmse


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("periodic", [True, False])
def test_the_band_limited_truth_is_exact_at_any_factor(factor, periodic):
    coarse = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    fine = (torch.arange(16 * factor, dtype=torch.float64) + 0.5) / (16 * factor)
    found = upsampled(torch.cos(6 * math.pi * coarse)[None, :, None], (periodic,), factor)
    torch.testing.assert_close(found[0, :, 0], torch.cos(6 * math.pi * fine), rtol=0, atol=1e-6)


def test_super_resolution_of_a_smooth_field_is_good_and_of_a_learned_codec_its_own():
    x = (torch.arange(64) + 0.5) / 64
    fields = torch.sin(4 * math.pi * x)[None, :, None]
    codec = codec_of((64,), (True,))
    good = report_card(codec, [fields])
    assert max(good.double.nrmse, good.quadruple.nrmse) < 1e-4
    assert good.double == good.double_linear
    torch.nn.init.normal_(codec.anypoint.local.out.weight, std=0.5)
    bad = report_card(codec, [fields])
    assert min(bad.double.nrmse, bad.quadruple.nrmse) > 1e-2
    assert bad.double_linear == good.double_linear
    assert bad.native == good.native


def test_quadrupling_can_be_left_out_and_is_bounded(monkeypatch):
    codec, fields = codec_of((16, 32), (True, True)), noise((16, 32), 4)
    card = report_card(codec, [fields], quadruple=False)
    assert card.quadruple is None
    assert card.to_dict()["quadruple"] is None
    monkeypatch.setattr("ups.codec.report_card._MAX_VALUES", 16 * 32 * 16 * 2)
    few = report_card(codec, [fields]).quadruple
    monkeypatch.undo()
    assert few == report_card(codec, [fields[:2]]).quadruple
    assert few != report_card(codec, [fields]).quadruple


def test_the_card_as_plain_values_keeps_its_names():
    content = report_card(codec_of((64,), (True,)), [noise((64,))]).to_dict()
    assert list(content) == [
        "native", "floor", "double", "double_linear", "quadruple", "compression", "num_frames",
    ]  # fmt: skip
    assert list(content["floor"]) == ["nrmse", "low", "mid", "high"]
