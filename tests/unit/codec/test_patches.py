"""Patches that do not fit: exactly invertible, masked, and weighed by what they cover."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ups.codec.patches import PatchTransform, cosine_matrix, frequency_order, patch_sizes
from ups.config.models import GridCodecConfig
from ups.errors import DataError

CASES = [
    ((32,), (8,)),
    ((30,), (8,)),
    ((9,), (8,)),
    ((8, 16), (4, 4)),
    ((10, 13), (4, 4)),
    ((12, 13), (4, 6)),
    ((5, 6, 7), (2, 3, 4)),
    ((4, 6, 5), (2, 2, 2)),
]


def noise(space, channels=2, batch=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *space, channels, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("space", "patch"), CASES)
def test_the_transform_is_undone_exactly_whatever_the_size(space, patch):
    transform, fields = PatchTransform(space, patch).double(), noise(space)
    coefficients = transform(fields)
    assert coefficients.shape == (3, *transform.anchors, math.prod(patch), 2)
    torch.testing.assert_close(transform.inverse(coefficients), fields, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("space", "patch"), CASES)
def test_the_weighted_energy_of_tokens_is_the_mean_square_of_the_field(space, patch):
    transform, fields = PatchTransform(space, patch).double(), noise(space)
    energy = transform(fields).square().sum((-2, -1)).flatten(1) / transform.points
    weights = transform.weights or (1 / energy.shape[1],) * energy.shape[1]
    assert sum(weights) == pytest.approx(1)
    found = (energy * torch.tensor(weights, dtype=torch.float64)).sum(1)
    torch.testing.assert_close(found, fields.square().flatten(1).mean(1) * 2)


@pytest.mark.parametrize(("space", "patch"), CASES)
def test_the_first_coefficient_is_the_mean_of_any_patch(space, patch):
    transform, fields = PatchTransform(space, patch).double(), noise(space)
    first = transform(fields)[..., 0, :] / math.sqrt(transform.points)
    corner = tuple(slice((a - 1) * p, None) for a, p in zip(transform.anchors, patch, strict=True))
    last = fields[(slice(None), *corner)].flatten(1, -2).mean(1)
    torch.testing.assert_close(first.flatten(1, -2)[:, -1], last, rtol=0, atol=1e-7)
    torch.testing.assert_close(
        first.flatten(1, -2)[:, 0],
        fields[(slice(None), *(slice(0, p) for p in patch))].flatten(1, -2).mean(1),
        rtol=0, atol=1e-7,
    )  # fmt: skip


def test_a_smaller_patch_has_no_jump_and_no_higher_coefficients():
    """A constant has only means, in the smaller patch too: nothing was padded."""
    transform = PatchTransform((30,), (8,))
    coefficients = transform(torch.full((1, 30, 1), 2.0))
    assert coefficients[0, :, 1:].abs().max() < 1e-6
    torch.testing.assert_close(coefficients[0, :, 0, 0], torch.full((4,), 2 * math.sqrt(8)))
    assert not transform(torch.randn(1, 30, 1))[0, 3, 6:].any()
    assert PatchTransform((32,), (8,)).weights is None


@given(space=st.integers(3, 40), patch=st.integers(1, 9))
def test_whole_patches_are_those_without_missing_coefficients(space, patch):
    transform = PatchTransform((space, 6), (min(patch, space), 4))
    whole = transform.whole_patches(transform(torch.randn(2, space, 6, 1)))
    assert len(whole) == 2 * (space // min(patch, space))


@pytest.mark.parametrize("size", [1, 2, 8])
def test_the_cosines_are_orthonormal_and_begin_with_the_mean(size):
    matrix = cosine_matrix(size)
    identity = torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(matrix.T @ matrix, identity, rtol=0, atol=1e-12)
    torch.testing.assert_close(matrix[:, 0], torch.full((size,), size**-0.5, dtype=torch.float64))


def test_coefficients_are_in_order_of_rising_frequency():
    assert frequency_order((2, 2)).tolist() == [0, 1, 2, 3]
    assert frequency_order((3, 3)).tolist() == [0, 1, 3, 4, 2, 6, 5, 7, 8]
    # one order of two points is as fast as two of four
    assert frequency_order((2, 4)).tolist() == [0, 1, 2, 4, 5, 6, 3, 7]


@pytest.mark.parametrize(
    ("space", "anchors", "patch"),
    [((64,), (8,), (8,)), ((30,), (4,), (8,)), ((64, 32), (8, 8), (8, 4)), ((5,), (5,), (1,))],
)
def test_the_patch_follows_from_the_anchors(space, anchors, patch):
    assert patch_sizes(GridCodecConfig(anchors=anchors), space) == patch
    assert PatchTransform(space, patch).anchors == anchors


def test_anchors_that_cannot_be_had_say_which_can():
    with pytest.raises(DataError, match=r"\[6\] cannot be had from 10 points.*\[5\] can") as caught:
        patch_sizes(GridCodecConfig(anchors=(6,)), (10,))
    assert caught.value.hint == "--set codec.anchors=[5]"
    with pytest.raises(DataError, match=r"\[8\] on a grid of 64x64 points"):
        patch_sizes(GridCodecConfig(anchors=(8,)), (64, 64))


def test_a_patch_larger_than_the_grid_is_refused():
    with pytest.raises(DataError, match="a patch of 8 points is larger than the grid of 16x4"):
        patch_sizes(GridCodecConfig(), (16, 4))
