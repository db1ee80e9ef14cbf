"""What a token keeps: compression, principal components, logarithms, inputs."""

from __future__ import annotations

import math

import pytest
import torch

from ups.codec.basis import token_size
from ups.codec.grid import GridCodec, GridGeometry
from ups.config.models import GridCodecConfig
from ups.errors import DataError


def codec_of(space=(32,), fields=("u", "v"), **options):
    torch.manual_seed(0)
    extra = {key: options.pop(key) for key in ("transforms", "inputs") if key in options}
    step = tuple(1 / size for size in space)
    geometry = GridGeometry(
        space, tuple(h / 2 for h in step), step, (True,) * len(space), fields, **extra
    )
    config = GridCodecConfig(**({"patch_size": 8, "width": 8} | options))
    return GridCodec(config, geometry).double().eval()


def noise(codec, batch=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, *codec.geometry.space, codec.num_fields)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def waves(codec, number, seed=0):
    """Fields in which v follows from u, so that components of both together are worth it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.linspace(0, 2 * math.pi, codec.geometry.space[0] + 1, dtype=torch.float64)[:-1]
    a, b = torch.randn(2, number, 1, generator=generator, dtype=torch.float64)
    u = a * torch.sin(3 * x) + b * torch.cos(5 * x)
    return torch.stack([2 + u, 10 - 3 * u], -1)


@pytest.mark.parametrize(
    ("options", "points", "num_fields", "size"),
    [
        ({}, 64, 2, 128),
        ({"coefficients": 5}, 64, 2, 10),
        ({"compression": 4}, 64, 2, 32),
        ({"compression": 3}, 8, 1, 2),
        ({"compression": 16}, 8, 3, 3),
        ({"compression": 3, "basis": "pca"}, 64, 2, 42),
        ({"compression": 16, "basis": "pca"}, 8, 3, 3),
    ],
)
def test_the_size_of_a_token_follows_from_what_is_asked_for(options, points, num_fields, size):
    assert token_size(GridCodecConfig(**options), points, num_fields) == size


def test_compression_counts_what_is_stored():
    codec = codec_of((30,), compression=4)
    assert codec.compression == pytest.approx(30 * 2 / (4 * 4))
    assert codec_of((32,)).compression == 1


@pytest.mark.parametrize("space", [(32,), (30,)])
def test_all_principal_components_are_an_isometry_that_mixes_fields(space):
    codec = codec_of(space, basis="pca")
    codec.set_normalisation([2.0, 10.0], [1.0, 3.0])
    codec.fit([waves(codec, 20), noise(codec)])
    fields = noise(codec, seed=1)
    tokens = codec.encode(fields)
    torch.testing.assert_close(codec.decode(tokens), fields, rtol=0, atol=1e-5)
    energy = tokens.square().sum(-1) / codec.points_per_token
    shares = torch.tensor(codec.weights or (1 / codec.num_tokens,) * codec.num_tokens)
    normalised = (fields - codec.shift) / codec.scale
    torch.testing.assert_close(
        (energy * shares).sum(1), normalised.square().mean(1).sum(-1), rtol=1e-5, atol=0
    )
    assert not codec.separable
    assert codec.is_invertible


@pytest.mark.parametrize(("basis", "bound"), [("dct", None), ("pca", 1e-5)])
def test_few_components_hold_what_the_data_have(basis, bound):
    """Two waves of one field and another that follows from it: 8 numbers hold patches of 16."""
    codec = codec_of(basis=basis, coefficients=3)
    codec.set_normalisation([2.0, 10.0], [1.0, 3.0])
    codec.fit([waves(codec, 7), waves(codec, 9, seed=1)])
    unseen = waves(codec, 5, seed=2)
    error = (codec.linear(unseen) - unseen).abs().max().item()
    assert error < bound if bound else error > 1e-2
    torch.testing.assert_close(codec.decode(codec.encode(unseen)), codec.linear(unseen))


def test_components_do_not_depend_on_the_batches_and_follow_the_units():
    one, two = codec_of(basis="pca", compression=4), codec_of(basis="pca", compression=4)
    for codec, scale in ((one, 1.0), (two, 7.0)):
        codec.set_normalisation([0.0, 0.0], [scale, 3 * scale])
    data = noise(one, 12)
    one.fit([data])
    two.fit(iter((7.0 * data).split([1, 6, 5])))
    torch.testing.assert_close(one.basis.components, two.basis.components)
    assert one.state_dict().keys() == codec_of(basis="pca", compression=4).state_dict().keys()


def test_a_fitted_codec_is_restored_from_its_state():
    fitted = codec_of(basis="pca", compression=4)
    fitted.fit([waves(fitted, 20)])
    other = codec_of(basis="pca", compression=4)
    assert other.fingerprint() != fitted.fingerprint()
    other.load_state_dict(fitted.state_dict())
    assert other.fingerprint() == fitted.fingerprint()


def test_smaller_patches_are_left_out_of_the_components():
    codec = codec_of((30,), basis="pca", compression=4)
    whole, changed = noise(codec), noise(codec)
    changed[:, 24:] += 100
    codec.fit([whole])
    components = codec.basis.components.clone()
    codec.fit([changed])
    assert torch.equal(codec.basis.components, components)


@pytest.mark.parametrize("basis", ["dct", "pca"])
def test_learned_parts_never_touch_the_means(basis):
    """So what the equation conserves is conserved by encoding and decoding too."""
    codec = codec_of(basis=basis, compression=4, encoder="learned")
    for weight in codec.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    fields = noise(codec)
    tokens = codec.encode(fields)
    patches = fields.unflatten(1, (-1, 8)).mean(2)
    torch.testing.assert_close(tokens[..., :2] / math.sqrt(8), patches, rtol=0, atol=1e-6)
    decoded = codec.decode(tokens)
    assert (decoded - codec.linear(fields)).abs().max() > 1e-2
    torch.testing.assert_close(decoded.mean(1), fields.mean(1), rtol=0, atol=1e-6)


def test_the_encoder_is_learned_only_where_it_is_asked_for():
    assert codec_of(compression=4).encoder is None
    with pytest.raises(ValueError, match="nothing to learn without compression"):
        GridCodecConfig(encoder="learned")
    with pytest.raises(ValueError, match="compression or coefficients, not both"):
        GridCodecConfig(compression=4, coefficients=2)


LOG = {"fields": ("density", "u"), "transforms": ("log", "none")}


def positive(codec, seed=0):
    fields = noise(codec, 6, seed)
    fields[..., 0] = (2 * fields[..., 0] - 4).exp()
    return fields


def test_a_positive_field_is_encoded_as_its_logarithm():
    codec = codec_of(**LOG)
    codec.set_normalisation([3.0, 0.5], [1.0, 2.0])
    fields = positive(codec)
    codec.fit(fields.split(4))
    log = fields[..., 0].log()
    assert codec.shift.tolist() == pytest.approx([log.mean().item(), 0.5], rel=1e-5)
    assert codec.scale.tolist() == pytest.approx([log.std(correction=0).item(), 2.0], rel=1e-5)
    tokens = codec.encode(fields)
    mean = ((log - codec.shift[0]) / codec.scale[0]).unflatten(1, (-1, 8)).mean(-1)
    torch.testing.assert_close(tokens[..., 0] / math.sqrt(8), mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(codec.decode(tokens), fields, rtol=1e-5, atol=1e-6)


def test_what_is_decoded_is_positive_whatever_the_tokens():
    codec = codec_of(**LOG, compression=4)
    fields = positive(codec)
    codec.fit([fields])
    tokens = 2 * torch.randn_like(codec.encode(fields))
    assert (codec.decode(tokens)[..., 0] > 0).all()
    assert (codec.decode(tokens)[..., 1] < 0).any()


def test_values_without_a_logarithm_are_refused_by_fit_and_bounded_by_encode():
    codec = codec_of(**LOG)
    fields = positive(codec)
    bad = fields.clone()
    bad[0, 3, 0] = 0
    with pytest.raises(DataError, match="field 'density': 0 has no logarithm"):
        codec.fit([fields, bad])
    codec.fit([fields])
    least = codec.decode(codec.encode(bad))[0, 3, 0].item()
    assert least == pytest.approx(1e-3 * fields[..., 0].min().item(), rel=1e-3)
    tokens = codec.encode(bad.requires_grad_())
    assert torch.autograd.grad(tokens.square().sum(), bad)[0].isfinite().all()


def test_a_constant_positive_field_is_refused():
    codec = codec_of(**LOG)
    fields = positive(codec)
    fields[..., 0] = 2.5
    with pytest.raises(DataError, match="field 'density' is constant"):
        codec.fit([fields])


def test_only_what_needs_data_reads_them():
    assert not codec_of(compression=4).needs_fit
    codec_of(compression=4).fit(iter(()))
    with pytest.raises(ValueError, match="no batches"):
        codec_of(basis="pca").fit(iter(()))


def test_inputs_are_kept_without_loss():
    codec = codec_of((8, 12), inputs=("permeability",), patch_size=4, compression=8)
    codec.set_input_normalisation([1.0], [4.0])
    inputs = torch.rand(3, 8, 12, 1, dtype=torch.float64)
    context = codec.encode_inputs(inputs)
    assert context.shape == (3, codec.num_tokens, codec.context_dim) == (3, 6, 16)
    restored = codec.patches.inverse(context.unflatten(1, (2, 3)).unflatten(-1, (16, 1)))
    torch.testing.assert_close(4 * restored + 1, inputs, rtol=0, atol=1e-6)
    assert codec_of().context_dim == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_the_wrong_number_of_channels_is_a_programming_error(channels):
    with pytest.raises(ValueError, match=r"expected \(32, 2\)"):
        codec_of().encode(torch.zeros(1, 32, channels, dtype=torch.float64))


def test_transforms_name_every_field():
    with pytest.raises(ValueError, match="transforms"):
        codec_of(transforms=("log",))
    with pytest.raises(ValueError, match="transforms"):
        codec_of(transforms=("log", "root"))
