"""Derivatives of functions whose derivatives are known, at any end."""

from __future__ import annotations

import math

import pytest
import torch

from ups.physics.derivatives import Condition, at_end, derivative, gradient, laplacian
from ups.physics.grids import UniformGrid


def periodic(points, length=2 * math.pi):
    grid = UniformGrid.cells([length / points], [("periodic", "periodic")])
    return grid, (torch.arange(points, dtype=torch.float64) + 0.5) * length / points


def bounded(points, lower="outflow", upper="outflow"):
    grid = UniformGrid.cells([1 / points], [(lower, upper)])
    return grid, (torch.arange(points, dtype=torch.float64) + 0.5) / points


def rate(error, coarse, fine):
    return math.log2(error(coarse) / error(fine)) / math.log2(fine / coarse)


@pytest.mark.parametrize("points", [15, 16])
@pytest.mark.parametrize("order", [1, 2])
def test_spectral_derivative_of_a_wave_is_exact(points, order):
    grid, x = periodic(points)
    exact = 3 * torch.cos(3 * x) if order == 1 else -9 * torch.sin(3 * x)
    torch.testing.assert_close(derivative(torch.sin(3 * x), grid, 0, order), exact)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("scheme", [2, 4, 6])
def test_differences_converge_at_their_order(scheme, order):
    def error(points):
        grid, x = periodic(points)
        exact = torch.cos(x) if order == 1 else -torch.sin(x)
        return (derivative(torch.sin(x), grid, 0, order, scheme=scheme) - exact).abs().max().item()

    assert rate(error, 16, 32) == pytest.approx(scheme, abs=0.15)


CLOSURES = {
    "free": (None, None),
    "value": (Condition(right=1.0), Condition(right=math.e)),
    "slope": (Condition(0.0, 1.0, -1.0), Condition(0.0, 1.0, math.e)),
    "robin": (Condition(1.0, 0.5, 0.5), Condition(1.0, 0.5, 1.5 * math.e)),
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("scheme", [2, 4, 6])
@pytest.mark.parametrize("closure", CLOSURES)
def test_closures_lose_one_order_at_most_at_ends_and_none_inside(closure, scheme, order):
    def errors(points):
        grid, x = bounded(points)
        found = derivative(x.exp(), grid, 0, order, scheme=scheme, ends=CLOSURES[closure])
        return (found - x.exp()).abs()

    assert rate(lambda n: errors(n).max().item(), 12, 24) > scheme - 1.3
    inside = slice(scheme // 2, -(scheme // 2))
    assert rate(lambda n: errors(n)[inside].max().item(), 12, 24) > scheme - 0.5


def test_second_difference_without_flux_mirrors_the_outermost_cell():
    grid, _ = bounded(5, "neumann", "neumann")
    u = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0], dtype=torch.float64)
    no_flux = Condition(0.0, 1.0)
    found = derivative(u, grid, 0, 2, scheme=2, ends=(no_flux, no_flux))
    padded = torch.cat([u[:1], u, u[-1:]])
    torch.testing.assert_close(found, (padded[2:] - 2 * u + padded[:-2]) * 25)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_axis_is_the_one_named_whatever_stands_before_space(axis):
    grid = UniformGrid.cells([0.1, 0.2, 0.3], [("outflow", "outflow")] * 3)
    places = torch.meshgrid(*(torch.arange(6.0, dtype=torch.float64) * d for d in grid.spacing),
                            indexing="ij")  # fmt: skip
    u = (places[0] + 2 * places[1] + 3 * places[2]).expand(2, 4, 6, 6, 6)
    expected = torch.full_like(u, float(axis + 1))
    torch.testing.assert_close(derivative(u, grid, axis, scheme=2), expected)
    torch.testing.assert_close(gradient(u, grid, scheme=4)[axis], expected)
    assert laplacian(u, grid).abs().max() < 1e-9


def test_ends_of_a_parabola_are_read_off_exactly_with_slopes_pointing_out():
    grid = UniformGrid((0.1,), (("dirichlet", "outflow"),), ((0.05, 0.02),))
    x = 0.05 + 0.1 * torch.arange(5, dtype=torch.float64)
    u = 1 + 2 * x + 3 * x**2
    low_value, low_slope = at_end(u, grid, 0, 0)
    high_value, high_slope = at_end(u, grid, 0, 1)
    end = 0.47
    expected = [1.0, -2.0, 1 + 2 * end + 3 * end**2, 2 + 6 * end]
    found = torch.stack([low_value, low_slope, high_value, high_slope])
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["periodic", "outflow"])
def test_gradients_flow_through_derivatives(kind):
    grid = UniformGrid.cells([0.3, 0.4], [(kind, kind)] * 2)
    u = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: laplacian(u, grid), u)


def test_half_precision_is_differentiated_in_float32():
    grid, x = periodic(16)
    assert derivative(torch.sin(x).bfloat16(), grid, 0).dtype == torch.float32


def test_autocast_changes_no_derivative():
    grid, x = bounded(12)
    u = x.exp().float()
    exact = derivative(u, grid, 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(derivative(u, grid, 0), exact)
        assert at_end(u, grid, 0, 1)[0].dtype == torch.float32


def test_a_third_derivative_is_refused():
    grid, x = periodic(8)
    with pytest.raises(ValueError, match="order 1 and 2, not 3"):
        derivative(x, grid, 0, 3)


def test_grid_of_a_store_knows_how_far_its_points_are_from_the_walls():
    """Every second of 8 cells: half a raw cell at the lower end, one and a half at the upper."""
    grid = UniformGrid.within([(0.0, 1.0)], [(1, 3)], space=[4], origin=[1 / 16], spacing=[1 / 4])
    assert grid.boundaries == (("dirichlet", "robin"),)
    assert grid.gaps[0] == pytest.approx((1 / 16, 3 / 16))
    assert grid.periodic == (False,)


def test_unknown_boundary_condition_is_refused():
    with pytest.raises(ValueError, match="sponge"):
        UniformGrid.cells([0.1], [("sponge", "outflow")])
