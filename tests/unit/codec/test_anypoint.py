"""The any-point decoder: smooth, local, differentiable, and the same in any chunks."""

from __future__ import annotations

import pytest
import torch

from ups.codec import anypoint
from ups.codec.anypoint import AnchorAxis, AnyPointDecoder

WRAPPED = AnchorAxis((1.0, 3.0, 5.0, 6.5), reach=2.0, period=7.0, waves=2)
BOUNDED = AnchorAxis((0.5, 1.5, 2.5), reach=1.0, period=None, waves=3)
AXES = [[WRAPPED], [BOUNDED], [WRAPPED, BOUNDED], [BOUNDED, WRAPPED, BOUNDED]]
EXTENT = {WRAPPED: 7.0, BOUNDED: 3.0}


def decoder_of(axes, *, random=True):
    torch.manual_seed(0)
    decoder = AnyPointDecoder(4, 2, axes, width=8, depth=1).double()
    if random:
        for weight in decoder.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return decoder


def tokens_for(axes, batch=2):
    shape = (batch, *(len(axis.centres) for axis in axes), 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def places_in(axes, number, seed=2):
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(number, len(axes), generator=generator, dtype=torch.float64)
    return share * torch.tensor([EXTENT[axis] for axis in axes], dtype=torch.float64)


@pytest.fixture(params=AXES, ids=lambda axes: f"{len(axes)}d-{axes[0].period}")
def axes(request):
    return request.param


def test_first_and_second_derivatives_with_respect_to_the_place_are_right(axes):
    decoder, tokens = decoder_of(axes), tokens_for(axes, batch=1)
    places = places_in(axes, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda at: decoder(tokens, at), places)
    assert torch.autograd.gradgradcheck(lambda at: decoder(tokens, at), places)


def test_values_and_slopes_are_continuous_where_the_nearest_anchors_change(axes):
    decoder, tokens = decoder_of(axes), tokens_for(axes, batch=1)
    around = places_in(axes, 1).repeat(2 * len(axes[0].centres), 1)
    step = 1e-7
    around[::2, 0] = torch.tensor(axes[0].centres, dtype=torch.float64) - step
    around[1::2, 0] = around[::2, 0] + 2 * step
    around.requires_grad_()
    values = decoder(tokens, around)
    (slopes,) = torch.autograd.grad(values.sum(), around)
    torch.testing.assert_close(values[:, ::2], values[:, 1::2], rtol=0, atol=1e-5)
    torch.testing.assert_close(slopes[::2], slopes[1::2], rtol=0, atol=1e-4)


def test_a_query_sees_the_anchors_around_it_and_their_neighbours_only():
    axis = AnchorAxis(tuple(map(float, range(10))), reach=1.0, period=None, waves=2)
    decoder, tokens = decoder_of([axis]), torch.randn(1, 10, 4, dtype=torch.float64)
    other = tokens.clone()
    other[0, 7] *= -1  # as large as before: the amplitude of the sample stays
    places = torch.arange(0, 9.5, 0.25, dtype=torch.float64)[:, None]
    changed = (decoder(tokens, places) - decoder(other, places)).abs().amax((0, 2)) > 1e-9
    reached = places[changed, 0]
    assert (reached.min().item(), reached.max().item()) == (5.25, 8.75)


def test_an_axis_with_a_period_has_it(axes):
    decoder, tokens, places = decoder_of(axes), tokens_for(axes), places_in(axes, 9)
    moved = places.clone()
    for index, axis in enumerate(axes):
        moved[:, index] += 3 * (axis.period or 0)
    torch.testing.assert_close(decoder(tokens, moved), decoder(tokens, places))


def test_chunks_change_nothing(axes, monkeypatch):
    decoder, tokens, places = decoder_of(axes), tokens_for(axes), places_in(axes, 23)
    whole = decoder(tokens, places)
    monkeypatch.setattr(anypoint, "_CHUNK_NUMBERS", 5 * 2 * (32 * 2 + 8))
    sizes = []
    attend = AnyPointDecoder._attend
    monkeypatch.setattr(
        AnyPointDecoder, "_attend",
        lambda self, e, k, places: sizes.append(len(places)) or attend(self, e, k, places),
    )  # fmt: skip
    torch.testing.assert_close(decoder(tokens, places), whole)
    assert sizes == [5, 5, 5, 5, 3]


def test_the_answer_starts_at_zero_and_scales_with_the_tokens(axes):
    tokens, places = tokens_for(axes), places_in(axes, 5)
    assert not decoder_of(axes, random=False)(tokens, places).any()
    decoder = decoder_of(axes)
    torch.testing.assert_close(
        decoder(100 * tokens, places), 100 * decoder(tokens, places), rtol=1e-5, atol=1e-5
    )


def test_equal_anchors_answer_with_the_mean_of_what_they_hold(axes):
    """Weights add up to one: constants are blended to themselves."""
    decoder, tokens = decoder_of(axes), torch.ones_like(tokens_for(axes))
    torch.nn.init.zeros_(decoder.functions[2].weight)
    values = decoder(tokens, places_in(axes, 20))
    torch.testing.assert_close(values, values[:, :1].expand_as(values))
