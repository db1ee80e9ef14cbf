"""One codec, several resolutions: tokens that mean the same, fields of any size."""

from __future__ import annotations

import math

import pytest
import torch

from ups.codec.grid import GridCodec, GridGeometry
from ups.config.models import GridCodecConfig
from ups.errors import DataError

TAU = 2 * math.pi


def cells(space, periodic, fields=("u",)):
    """Cell centres of a box whose axes have length 1, 2, ..."""
    step = tuple((axis + 1) / size for axis, size in enumerate(space))
    return GridGeometry(space, tuple(h / 2 for h in step), step, periodic, fields)


def nodes(size, *, periodic):
    """Points on the ends of a domain of length 1."""
    step = 1 / size if periodic else 1 / (size - 1)
    return GridGeometry((size,), (0.0,), (step,), (periodic,), ("u",))


def smooth(geometry):
    """The same function wherever it is asked for; it has the period of the box."""
    x = geometry.coords()
    value = 1.0 + torch.sin(TAU * x[:, 0] + 0.3)
    for axis in range(1, geometry.num_dims):
        value = value * (1.5 + torch.cos(TAU * x[:, axis] / (axis + 1) + 0.7))
    return value.reshape(1, *geometry.space, 1).float()


def codec_of(geometry, anchors, *, random=True, **options):
    torch.manual_seed(0)
    codec = GridCodec(GridCodecConfig(anchors=anchors, width=8, **options), geometry)
    if random:
        for weight in codec.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return codec.eval()


CASES = [
    ((64,), (8,), (True,)),
    ((60,), (8,), (False,)),
    ((48, 64), (6, 8), (True, False)),
    ((24, 28, 24), (3, 4, 3), (False, True, True)),
]


@pytest.mark.parametrize(("space", "anchors", "periodic"), CASES)
@pytest.mark.parametrize("factor", [2, 1.5])
def test_a_smooth_field_has_the_same_tokens_at_every_resolution(space, anchors, periodic, factor):
    codec = codec_of(cells(space, periodic), anchors, compression=2)
    finer = cells(tuple(int(factor * size) for size in space), periodic)
    expected = codec.encode(smooth(codec.geometry))
    found = codec.encode(smooth(finer))
    assert found.shape == expected.shape
    assert (found - expected).norm() / expected.norm() < 2e-4


@pytest.mark.parametrize("periodic", [True, False])
def test_points_on_the_ends_of_the_domain_are_placed_where_they_are(periodic):
    """The cells of node-centred points at two resolutions do not nest: taken for cell centres
    they would be off by a quarter of a spacing."""
    codec = codec_of(nodes(64, periodic=periodic), (8,))
    finer = nodes(128 if periodic else 127, periodic=periodic)
    expected = codec.encode(smooth(codec.geometry))
    placed = (codec.encode(smooth(finer), finer) - expected).norm() / expected.norm()
    assert placed < 1e-5
    if periodic:
        assumed = (codec.encode(smooth(finer)) - expected).norm() / expected.norm()
        assert assumed > 100 * placed


@pytest.mark.parametrize(("space", "anchors", "periodic"), CASES)
def test_tokens_are_decoded_at_any_resolution(space, anchors, periodic):
    codec = codec_of(cells(space, periodic), anchors, random=False)
    tokens = codec.encode(smooth(codec.geometry))
    for factor in (0.5, 1, 1.5):
        wanted = tuple(int(factor * size) for size in space)
        found = codec.decode(tokens, space=wanted)
        expected = smooth(cells(wanted, periodic))
        assert found.shape == expected.shape
        assert (found - expected).norm() / expected.norm() < 5e-4


@pytest.mark.parametrize(("space", "anchors", "periodic"), CASES)
def test_a_finer_grid_is_decoded_like_its_points(space, anchors, periodic):
    """With every learned part at random: both ways go through the same functions."""
    codec = codec_of(cells(space, periodic), anchors, compression=2)
    tokens = codec.encode(smooth(codec.geometry))
    wanted = tuple(3 * size // 2 for size in space)
    grid = codec.decode(tokens, space=wanted).flatten(1, -2)
    points = codec.decode(tokens, codec.geometry.resized(wanted).coords())
    torch.testing.assert_close(grid, points, rtol=1e-3, atol=1e-3)


def test_inputs_come_at_another_resolution_too():
    geometry = cells((64,), (True,))
    geometry = GridGeometry(**{**vars(geometry), "inputs": ("force",)})
    codec = codec_of(geometry, (8,))
    finer = cells((128,), (True,))
    expected = codec.encode_inputs(smooth(codec.geometry))
    assert (codec.encode_inputs(smooth(finer)) - expected).norm() / expected.norm() < 1e-5


def test_another_domain_is_refused():
    codec = codec_of(cells((64,), (True,)), (8,))
    other = GridGeometry((128,), (0.0,), (2 / 128,), (True,), ("u",))
    with pytest.raises(DataError, match=r"reaches from .* to .*, the codec's from 0 to 1"):
        codec.encode(torch.zeros(1, 128, 1), other)
    with pytest.raises(DataError, match="periodic axes"):
        codec.encode(torch.zeros(1, 128, 1), cells((128,), (False,)))


def test_the_codecs_own_grid_is_never_resampled():
    codec = codec_of(cells((64,), (True,)), (8,))
    fields = torch.randn(2, 64, 1)
    assert torch.equal(codec.encode(fields), codec.encode(fields, cells((64,), (True,))))
    assert torch.equal(
        codec.decode(codec.encode(fields)), codec.decode(codec.encode(fields), space=(64,))
    )


def test_a_strided_grid_with_its_geometry_is_the_same_function():
    """Every second point of cell centres is no grid of cell centres of the same box."""
    fine = cells((256,), (True,))
    codec = codec_of(cells((64,), (True,)), (8,))
    strided = GridGeometry((128,), fine.origin, (2 / 256,), (True,), ("u",))
    expected = codec.encode(smooth(codec.geometry))
    found = codec.encode(smooth(fine)[:, ::2], strided)
    assert (found - expected).norm() / expected.norm() < 1e-5
