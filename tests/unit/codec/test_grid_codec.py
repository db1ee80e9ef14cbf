"""The grid codec in one to three dimensions: exact where it must be, smooth in between."""

from __future__ import annotations

import math

import pytest
import torch

from ups.codec.grid import GridCodec, GridGeometry
from ups.config.models import GridCodecConfig
from ups.errors import DataError

SPACES = {1: (32,), 2: (8, 16), 3: (4, 8, 4)}
PATCHES = {1: 8, 2: 4, 3: 2}
CASES = [
    (dims, periodic)
    for dims in (1, 2, 3)
    for periodic in ((True,) * dims, (False,) * dims, (True, False, True)[:dims])
]


def geometry_of(dims, periodic, space=None, fields=("u", "v")):
    space = space or SPACES[dims]
    spacing = tuple((axis + 1.0) / size for axis, size in enumerate(space))
    return GridGeometry(
        space=space, origin=tuple(step / 2 for step in spacing), spacing=spacing,
        periodic=tuple(periodic), fields=fields,
    )  # fmt: skip


def codec_of(dims, periodic, *, random=True, space=None, **options):
    torch.manual_seed(0)
    config = GridCodecConfig(**({"patch_size": PATCHES[dims], "width": 8, "depth": 2} | options))
    codec = GridCodec(config, geometry_of(dims, periodic, space)).double()
    codec.set_normalisation([0.5, -1.0], [2.0, 0.1])
    if random:
        for weight in codec.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return codec.eval()


def fields_for(codec, batch=3):
    generator = torch.Generator().manual_seed(1)
    shape = (batch, *codec.geometry.space, len(codec.geometry.fields))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}d-{''.join('np'[p] for p in case[1])}")
def codec(request):
    return codec_of(*request.param)


def test_decoding_undoes_encoding_when_all_coefficients_are_kept(codec):
    fields = fields_for(codec)
    tokens = codec.encode(fields)
    assert tokens.shape == (3, codec.num_tokens, codec.latent_dim)
    torch.testing.assert_close(codec.decode(tokens), fields, rtol=0, atol=1e-6)


def test_the_embedding_keeps_distances_in_normalised_units(codec):
    a, b = fields_for(codec)[:2]
    latent = (codec.encode(a[None]) - codec.encode(b[None])).norm()
    physical = ((a - b) / codec.scale).norm()
    assert latent.item() == pytest.approx(physical.item(), rel=1e-6)


def test_the_first_coefficient_is_the_patch_mean(codec):
    fields = fields_for(codec)
    first = codec.encode(fields)[..., :2]
    points = codec.config.patch_size**codec.geometry.num_dims
    mean = ((fields - codec.shift) / codec.scale).mean(tuple(range(1, fields.ndim - 1)))
    torch.testing.assert_close(first.mean(1) / points**0.5, mean, rtol=0, atol=1e-6)


def test_querying_the_grid_gives_the_grid_whatever_the_learned_weights(codec):
    """So the learned expansion vanishes at the grid points."""
    tokens = codec.encode(fields_for(codec))
    queried = codec.decode(tokens, codec.geometry.coords())
    on_grid = codec.decode(tokens).flatten(1, -2)
    torch.testing.assert_close(queried, on_grid, rtol=0, atol=1e-9)


def test_between_the_grid_points_the_learned_expansion_matters(codec):
    tokens = codec.encode(fields_for(codec))
    spacing = torch.tensor(codec.geometry.spacing, dtype=torch.float64)
    queries = codec.geometry.coords() + 0.4 * spacing
    learned = codec.decode(tokens, queries)
    torch.nn.init.zeros_(codec.anypoint.local.out.weight)
    torch.nn.init.zeros_(codec.anypoint.local.out.bias)
    assert (learned - codec.decode(tokens, queries)).abs().max() > 1e-3


def test_derivatives_with_respect_to_the_place_match_finite_differences(codec):
    tokens = codec.encode(fields_for(codec, batch=1))
    generator = torch.Generator().manual_seed(2)
    extent = torch.tensor(
        [n * h for n, h in zip(codec.geometry.space, codec.geometry.spacing, strict=True)]
    )
    share = torch.rand(3, codec.geometry.num_dims, generator=generator, dtype=torch.float64)
    queries = (share * extent).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q: codec.decode(tokens, q), queries, eps=1e-6, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(("dims", "periodic"), [(1, (True,)), (2, (False, True))])
def test_second_derivatives_with_respect_to_the_place_are_right(dims, periodic):
    codec = codec_of(dims, periodic)
    tokens = codec.encode(fields_for(codec, batch=1))
    queries = (codec.geometry.coords()[2:4] + 0.013).requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda q: codec.decode(tokens, q), queries, eps=1e-6, atol=1e-3, rtol=1e-3
    )


def test_the_second_derivative_of_a_polynomial_is_exact_even_at_grid_points():
    codec = codec_of(1, (False,), random=False)
    x = codec.geometry.coords()[:, 0]
    fields = torch.stack([x**5, 1 - x**3], -1)[None]
    queries = codec.geometry.coords()[3:9].clone().requires_grad_()
    values = codec.decode(codec.encode(fields), queries)
    for field, exact in enumerate((20 * queries[:, 0] ** 3, -6 * queries[:, 0])):
        (slope,) = torch.autograd.grad(
            values[0, :, field].sum(), queries, create_graph=True, retain_graph=True
        )
        (second,) = torch.autograd.grad(slope.sum(), queries, retain_graph=True)
        torch.testing.assert_close(second[:, 0], exact.detach(), rtol=0, atol=1e-2)


@pytest.mark.parametrize("options", [{}, {"basis": "pca"}, {"compression": 4, "basis": "pca"}])
def test_mixed_precision_does_not_touch_the_linear_part(options):
    codec = codec_of(2, (True, False), random=False, **options).float()
    fields = fields_for(codec).float()
    exact = codec.linear(fields)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = codec.encode(fields)
        assert tokens.dtype == torch.float32
        torch.testing.assert_close(codec.decode(tokens), exact, rtol=0, atol=1e-5)
    rounded = codec.decode(tokens.bfloat16())
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"compression": 4, "basis": "pca", "encoder": "learned"}])
def test_a_gpu_gives_the_same(options):
    codec = codec_of(2, (True, False), space=(10, 18), **options)
    fields, queries = fields_for(codec), codec.geometry.coords() + 0.01
    codec.fit([fields])
    expected = [*codec(fields, queries), codec.decode(codec.encode(fields), space=(20, 36))]
    codec = codec.cuda()
    fields, queries = fields.cuda(), queries.cuda()
    codec.fit([fields])
    found = [*codec(fields, queries), codec.decode(codec.encode(fields), space=(20, 36))]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other)


def test_a_query_does_not_depend_on_the_others(codec):
    tokens = codec.encode(fields_for(codec))
    queries = codec.geometry.coords() + 0.01
    together = codec.decode(tokens, queries)
    torch.testing.assert_close(codec.decode(tokens, queries[5:7]), together[:, 5:7])


def test_one_grid_value_changes_one_token_only(codec):
    fields = fields_for(codec, batch=1)
    changed = fields.clone()
    changed[(0, *(size - 1 for size in codec.geometry.space), 1)] += 1
    moved = (codec.encode(changed) - codec.encode(fields)).abs().amax(-1)[0] > 1e-9
    assert torch.nonzero(moved).flatten().tolist() == [codec.num_tokens - 1]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_fields_are_periodic_at_any_point(dims):
    codec = codec_of(dims, (True,) * dims)
    tokens = codec.encode(fields_for(codec))
    queries = codec.geometry.coords()[:7] + 0.013
    length = torch.tensor(
        [n * h for n, h in zip(codec.geometry.space, codec.geometry.spacing, strict=True)]
    )
    torch.testing.assert_close(
        codec.decode(tokens, queries + 2 * length), codec.decode(tokens, queries), atol=1e-7,
        rtol=0,
    )  # fmt: skip


@pytest.mark.parametrize("coefficients", [None, 3])
@pytest.mark.parametrize("factor", [1e-2, 30.0])
def test_reconstruction_scales_with_the_amplitude_whatever_the_learned_weights(
    coefficients, factor
):
    codec = codec_of(1, (True,), coefficients=coefficients)
    codec.set_normalisation([0.0, 0.0], [2.0, 0.1])
    fields = fields_for(codec)
    queries = codec.geometry.coords() + 0.007
    one, scaled = (codec.decode(codec.encode(f), queries) for f in (fields, factor * fields))
    torch.testing.assert_close(scaled, factor * one, rtol=1e-4, atol=1e-4 * factor)


@pytest.mark.parametrize(("dims", "coefficients"), [(1, 3), (2, 5), (3, 4)])
def test_untrained_compression_is_the_projection_onto_the_kept_coefficients(dims, coefficients):
    codec = codec_of(dims, (True,) * dims, random=False, coefficients=coefficients)
    fields = fields_for(codec)
    once = codec.decode(codec.encode(fields))
    torch.testing.assert_close(codec.decode(codec.encode(once)), once, rtol=0, atol=1e-6)
    kept = codec.encode(fields).square().sum()
    full = codec_of(dims, (True,) * dims).encode(fields).square().sum()
    assert kept < full
    assert codec.encode(fields).shape[-1] == 2 * coefficients


@pytest.mark.parametrize("coefficients", [None, 3])
def test_every_weight_of_a_codec_can_learn(coefficients):
    codec = codec_of(1, (True,), random=False, coefficients=coefficients).train()
    fields, queries = fields_for(codec), codec.geometry.coords() + 0.01
    optimizer = torch.optim.Adam(codec.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        tokens = codec.encode(fields)
        (codec.decode(tokens, queries).square().mean() + codec.decode(tokens).mean()).backward()
        optimizer.step()
    silent = [name for name, weight in codec.named_parameters() if not weight.grad.any()]
    assert silent == []


def test_fingerprint_follows_weights_options_and_geometry_but_not_the_gate():
    codec = codec_of(1, (True,))
    known = codec.fingerprint()
    assert codec_of(1, (True,)).fingerprint() == known
    assert codec_of(1, (True,), gate=0.5).fingerprint() == known
    others = {codec_of(1, (False,)).fingerprint(), codec_of(1, (True,), depth=1).fingerprint()}
    with torch.no_grad():
        next(codec.parameters()).flatten()[0] += 1e-6
    others.add(codec.fingerprint())
    codec.set_normalisation([0.5, -1.0], [2.0, 0.1001])
    others.add(codec.fingerprint())
    assert len(others | {known}) == 5


def test_more_coefficients_than_points_are_refused():
    with pytest.raises(DataError, match="9 of a patch of 8 points"):
        GridCodec(GridCodecConfig(patch_size=8, coefficients=9), geometry_of(1, (True,)))


def test_fields_on_another_grid_are_a_programming_error():
    codec = codec_of(1, (True,))
    with pytest.raises(ValueError, match=r"\(16, 2\), expected \(32, 2\)"):
        codec.encode(torch.zeros(1, 16, 2, dtype=torch.float64))


def test_the_number_of_tokens_is_in_the_label():
    assert codec_of(2, (True, True)).label == "grid32_2d_8tok"
    assert math.prod(codec_of(2, (True, True)).anchors) == 8
