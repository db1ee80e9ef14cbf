"""The latent operator with every mixer in one to three dimensions: what it may not break."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ups.codec.grid import GridCodec, GridGeometry
from ups.config.models import GridCodecConfig, LatentOperatorConfig
from ups.models.operator import LatentOperator, TokenLayout, sample_norm

MIXERS = ("spectral", "conv", "attention")
SPACES = {1: (32,), 2: (16, 8), 3: (8, 4, 4)}
PATCHES = {1: 4, 2: 4, 3: 2}
CASES = [
    (mixer, dims, periodic)
    for mixer in MIXERS
    for dims in (1, 2, 3)
    for periodic in ((True,) * dims, (False,) * dims)
]
each_case = pytest.mark.parametrize(
    ("mixer", "dims", "periodic"), CASES, ids=[f"{m}-{d}d-{'np'[p[0]]}" for m, d, p in CASES]
)


def parts(mixer, dims, periodic, *, random=True, conserved=(True, False), **options):
    """An invertible codec with two fields and an operator on its tokens."""
    torch.manual_seed(0)
    space = SPACES[dims]
    spacing = tuple(1 / size for size in space)
    geometry = GridGeometry(space, tuple(h / 2 for h in spacing), spacing, periodic, ("u", "v"))
    codec = GridCodec(GridCodecConfig(patch_size=PATCHES[dims], width=4), geometry).double()
    layout = TokenLayout(
        anchors=codec.anchors, periodic=periodic, num_coefficients=codec.num_coefficients,
        points_per_token=PATCHES[dims] ** dims, conserved=conserved, num_parameters=2, dt=0.1,
    )  # fmt: skip
    sizes = {"mixer": mixer, "width": 16, "depth": 2, "heads": 2, "kernel_size": 3}
    operator = LatentOperator(LatentOperatorConfig(**(sizes | options)), layout)
    if random:
        for layer in (operator.modulation, operator.head):
            torch.nn.init.normal_(layer.weight, std=0.2)
            torch.nn.init.normal_(layer.bias, std=0.2)
    return codec, operator.double()


def fields_for(codec, batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1.0, 5.0]) * torch.rand(batch, *(1,) * len(codec.anchors), 2)
    noise = torch.randn(batch, *codec.geometry.space, 2, generator=generator)
    return (scale + 0.1) * noise.double() + torch.tensor([0.7, -2.0])


def conditions(batch=3):
    generator = torch.Generator().manual_seed(3)
    parameters = torch.rand(batch, 2, generator=generator, dtype=torch.float64) * 2 - 1
    return parameters, torch.full((batch,), 0.1, dtype=torch.float64)


def space_mean(fields):
    return fields.mean(tuple(range(1, fields.ndim - 1)))


@each_case
def test_an_untrained_operator_changes_nothing(mixer, dims, periodic):
    codec, operator = parts(mixer, dims, periodic, random=False)
    tokens = codec.encode(fields_for(codec))
    assert torch.equal(operator(tokens, *conditions()), tokens)


@each_case
def test_the_mean_of_a_conserved_field_is_kept_by_any_weights_and_no_other(mixer, dims, periodic):
    codec, operator = parts(mixer, dims, periodic)
    fields = fields_for(codec)
    after = codec.decode(operator(codec.encode(fields), *conditions()))
    assert after.shape == fields.shape
    change = (space_mean(after) - space_mean(fields)).abs()
    assert (after - fields).abs().max() > 0.1
    assert change[:, 0].max() < 1e-6
    assert change[:, 1].min() > 1e-3


@each_case
def test_a_sample_does_not_depend_on_the_others_of_its_batch(mixer, dims, periodic):
    codec, operator = parts(mixer, dims, periodic)
    tokens, (parameters, dt) = codec.encode(fields_for(codec)), conditions()
    together = operator(tokens, parameters, dt)
    alone = operator(tokens[1:2], parameters[1:2], dt[1:2])
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("mixer", MIXERS)
def test_moving_a_periodic_state_by_whole_tokens_moves_the_next_state(mixer, dims):
    codec, operator = parts(mixer, dims, (True,) * dims)
    tokens = codec.encode(fields_for(codec)).unflatten(1, codec.anchors)
    moves, axes = [1, -2, 1][:dims], list(range(1, dims + 1))
    moved_first = operator(tokens.roll(moves, axes).flatten(1, -2), *conditions())
    moved_last = operator(tokens.flatten(1, -2), *conditions()).unflatten(1, codec.anchors)
    moved_last = moved_last.roll(moves, axes).flatten(1, -2)
    torch.testing.assert_close(moved_first, moved_last, rtol=1e-4, atol=1e-4)
    assert (moved_last - tokens.flatten(1, -2)).abs().max() > 0.1


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_wall_is_felt(mixer):
    codec, operator = parts(mixer, 1, (False,))
    tokens = codec.encode(fields_for(codec))
    moved_first = operator(tokens.roll(1, 1), *conditions())
    moved_last = operator(tokens, *conditions()).roll(1, 1)
    assert (moved_first - moved_last).abs().max() > 1e-2


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_mean_and_amplitude_are_those_of_the_decoded_field(dims):
    codec, operator = parts("conv", dims, (True,) * dims)
    fields = fields_for(codec)
    z = codec.encode(fields).unflatten(-1, (codec.num_coefficients, 2))
    mean, deviation, amplitude = operator.normalised(z)
    torch.testing.assert_close(mean, space_mean(fields), rtol=0, atol=1e-6)
    centred = fields - space_mean(fields)[(slice(None), *[None] * dims)]
    rms = centred.square().mean(tuple(range(1, dims + 1))).sqrt()
    torch.testing.assert_close(amplitude, rms, rtol=1e-6, atol=1e-6)
    decoded = codec.decode(deviation.flatten(-2))
    torch.testing.assert_close(decoded, centred, rtol=0, atol=1e-6)


def test_a_constant_state_has_finite_gradients():
    codec, operator = parts("spectral", 1, (True,))
    tokens = codec.encode(torch.full((3, 32, 2), 0.3, dtype=torch.float64)).requires_grad_()
    operator(tokens, *conditions()).square().sum().backward()
    assert tokens.grad.isfinite().all()
    assert all(w.grad.isfinite().all() for w in operator.parameters() if w.grad is not None)


@each_case
def test_every_weight_can_learn(mixer, dims, periodic):
    codec, operator = parts(mixer, dims, periodic, random=False)
    operator = operator.float()
    tokens = codec.encode(fields_for(codec)).float()
    parameters, dt = (value.float() for value in conditions())
    optimizer = torch.optim.Adam(operator.parameters(), lr=1e-2)
    for _ in range(4):
        optimizer.zero_grad()
        (operator(tokens, parameters, dt) - tokens.roll(1, 1)).square().mean().backward()
        optimizer.step()
    silent = [name for name, weight in operator.named_parameters() if not weight.grad.any()]
    assert silent == []


@pytest.mark.parametrize("mixer", MIXERS)
def test_one_batch_can_be_learned_by_heart(mixer):
    codec, operator = parts(mixer, 1, (True,), random=False, conserved=(True, True))
    operator = operator.float()
    fields = fields_for(codec)
    tokens, target = (codec.encode(f).float() for f in (fields, fields.roll(3, 1)))
    parameters, dt = (value.float() for value in conditions())
    optimizer = torch.optim.Adam(operator.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (operator(tokens, parameters, dt) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20, losses[::30]


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_next_state_depends_on_the_parameters_and_the_time_step(mixer):
    codec, operator = parts(mixer, 1, (True,))
    tokens, (parameters, dt) = codec.encode(fields_for(codec)), conditions()
    usual = operator(tokens, parameters, dt)
    for changed in (
        operator(tokens, parameters.roll(1, 0), dt),
        operator(tokens, parameters, 2 * dt),
    ):
        assert ((changed - usual).flatten(1).norm(dim=1) > 1e-2).all()


def test_the_size_of_a_step_scales_the_change():
    codec, operator = parts("conv", 1, (True,))
    tokens = codec.encode(fields_for(codec))
    one = operator(tokens, *conditions()) - tokens
    operator.step_size.fill_(0.1)
    torch.testing.assert_close(operator(tokens, *conditions()) - tokens, 0.1 * one)


def test_without_modulation_the_change_scales_with_the_amplitude():
    """v / r does not change when the deviation grows: the update grows with r."""
    codec, operator = parts("spectral", 1, (True,), conserved=(True, True))
    torch.nn.init.zeros_(operator.modulation.weight)
    fields = fields_for(codec)
    mean = space_mean(fields)[:, None]
    tokens, larger = codec.encode(fields), codec.encode(mean + 7 * (fields - mean))
    change = operator(tokens, *conditions()) - tokens
    grown = operator(larger, *conditions()) - larger
    torch.testing.assert_close(grown, 7 * change, rtol=1e-4, atol=1e-4)


def test_layouts_without_parameters_or_conserved_fields_work():
    codec, operator = parts("conv", 1, (True,))
    layout = replace(operator.layout, num_parameters=0, conserved=(False, False))
    operator = LatentOperator(operator.config, layout).double()
    tokens, (_, dt) = codec.encode(fields_for(codec)), conditions()
    assert operator(tokens, torch.zeros(3, 0, dtype=torch.float64), dt).shape == tokens.shape


def test_sample_norm_has_unit_rms_per_sample():
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)) * 100
    torch.testing.assert_close(sample_norm(x).square().mean((1, 2)), torch.ones(4))
