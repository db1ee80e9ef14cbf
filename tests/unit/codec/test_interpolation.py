"""Local polynomials and band-limited shifts against functions that are known everywhere."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ups.codec.interpolation import interpolate, resample, shifted

DOUBLE = torch.float64


def places(queries, size, *, edge=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(queries, generator=generator, dtype=DOUBLE)
    return -edge + share * (size - 1 + 2 * edge)


@given(degree=st.integers(0, 5), size=st.integers(6, 20), seed=st.integers(0, 99))
def test_interpolation_is_exact_for_polynomials_of_degree_five_up_to_the_walls(degree, size, seed):
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(degree + 1, generator=generator, dtype=DOUBLE)

    def polynomial(x):
        return sum(c * (x / size) ** k for k, c in enumerate(factors))

    x = torch.arange(size, dtype=DOUBLE)
    at = places(20, size, seed=seed)
    found = interpolate(polynomial(x)[None, :, None], at[:, None], (False,))[0, :, 0]
    torch.testing.assert_close(found, polynomial(at), rtol=1e-9, atol=1e-9)


def test_interpolation_is_exact_for_products_of_polynomials_in_three_dimensions():
    def polynomial(x, y, z):
        return (1 + x**5) * (2 - y**4) * (z**3 + z)

    axes = [torch.arange(n, dtype=DOUBLE) for n in (7, 6, 8)]
    grid = polynomial(*torch.meshgrid(*axes, indexing="ij"))
    at = torch.stack([places(15, n, seed=n) for n in (7, 6, 8)], -1)
    found = interpolate(grid[None, ..., None], at, (False,) * 3)[0, :, 0]
    torch.testing.assert_close(found, polynomial(*at.unbind(-1)), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dims", [1, 2])
def test_interpolation_of_a_smooth_periodic_function_is_of_sixth_order(dims):
    errors = []
    for size in (16, 32, 64):
        axes = torch.meshgrid(*[torch.arange(size, dtype=DOUBLE) / size] * dims, indexing="ij")
        values = torch.sin(2 * math.pi * sum(axes))[None, ..., None]
        share = torch.rand(200, dims, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
        found = interpolate(values, share * size, (True,) * dims)[0, :, 0]
        errors.append((found - torch.sin(2 * math.pi * share.sum(-1))).abs().max().item())
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert min(orders) > 5.7, errors


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_interpolation_meets_the_grid_points_of_any_grid(size, periodic):
    values = torch.randn(2, size, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    at = torch.arange(size, dtype=DOUBLE)[:, None]
    torch.testing.assert_close(interpolate(values, at, (periodic,)), values)


@pytest.mark.parametrize("periodic", [True, False])
def test_interpolation_knows_no_left_and_right(periodic):
    values = torch.randn(2, 12, 1, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    at = places(40, 12)[:, None]
    mirrored = interpolate(values.flip(1), 11 - at, (periodic,))
    torch.testing.assert_close(mirrored, interpolate(values, at, (periodic,)))


def band_limited(size, dims, periodic, seed):
    """A random function below the Nyquist wave, as callable of positions in grid points."""
    generator = torch.Generator().manual_seed(seed)
    limit = (size - 1) // 2 if periodic else size - 1
    waves = torch.randint(0, limit + 1, (5, dims), generator=generator)
    size_of, phase = torch.randn(2, 5, dims, generator=generator, dtype=DOUBLE)

    def function(*places):
        total = torch.zeros(())
        for term in range(5):
            product = torch.ones(())
            for axis, place in enumerate(places):
                k, a, p = waves[term, axis], size_of[term, axis], phase[term, axis]
                angle = 2 * math.pi * k * place / size + p
                if not periodic:
                    angle = math.pi * k * (place + 0.5) / size
                product = product * a * torch.cos(angle)
            total = total + product
        return total

    return function


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("periodic", [True, False])
@given(size=st.integers(4, 17), seed=st.integers(0, 99), offset=st.floats(-0.5, 1.0))
def test_a_band_limited_function_is_shifted_exactly(dims, periodic, size, seed, offset):
    function = band_limited(size, dims, periodic, seed)
    axes = torch.meshgrid(*[torch.arange(size, dtype=DOUBLE)] * dims, indexing="ij")
    offsets = [offset, -offset / 3][:dims]
    found = shifted(function(*axes)[None, ..., None], offsets, (periodic,) * dims)[0, ..., 0]
    exact = function(*(axis + move for axis, move in zip(axes, offsets, strict=True)))
    torch.testing.assert_close(found, exact, rtol=0, atol=2e-5)


def test_a_shift_by_a_whole_number_of_points_is_a_roll():
    values = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        shifted(values, [2.0], (True,)), values.roll(-2, 1), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("periodic", [True, False])
def test_resampling_a_product_of_places_is_interpolation_at_each_of_them(periodic):
    values = torch.randn(2, 7, 9, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    sides = [places(5, 7, seed=1), places(4, 9, seed=2)]
    everywhere = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1).flatten(0, 1)
    found = resample(values, sides, (periodic,) * 2)
    expected = interpolate(values, everywhere, (periodic,) * 2).unflatten(1, (5, 4))
    torch.testing.assert_close(found, expected)
