"""Invariants, signs, divergence, boundary values: known answers, no dependence on units."""

from __future__ import annotations

import math

import pytest
import torch

from ups.physics.boundary import boundary_violation, conditions_of, has_conditions
from ups.physics.divergence import divergence, relative_divergence, vectors_of
from ups.physics.grids import UniformGrid
from ups.physics.invariants import (
    compressible_energy,
    conservation_drift,
    drift,
    energy,
    means,
)
from ups.physics.positivity import negativity
from ups.registry import load_card

DOUBLE = torch.float64


def square(points=16, boundary="periodic", length=2 * math.pi):
    grid = UniformGrid.cells([length / points] * 2, [(boundary, boundary)] * 2)
    x = (torch.arange(points, dtype=DOUBLE) + 0.5) * length / points
    return grid, *torch.meshgrid(x, x, indexing="ij")


def finite_gradient(function, *shape, value=0.0):
    fields = torch.full(shape, value, requires_grad=True)
    function(fields).sum().backward()
    assert fields.grad.isfinite().all()


def test_means_and_energies_of_constants():
    fields = torch.tensor([2.0, -3.0]).expand(4, 3, 8, 8, 2)
    torch.testing.assert_close(means(fields)[0, 0], torch.tensor([2.0, -3.0]))
    torch.testing.assert_close(energy(fields)[0, 0], torch.tensor([2.0, 4.5]))


def test_drift_is_relative_to_the_scale_and_to_the_first_frame():
    values = torch.tensor([[[1.0], [4.0], [-3.0]]])
    torch.testing.assert_close(
        drift(values, torch.tensor([[2.0]])), torch.tensor([2.5**0.5 * 1.25**0.5])
    )
    with pytest.raises(ValueError, match="two frames"):
        drift(values[:, :1], torch.tensor([[2.0]]))


def test_conservation_counts_conserved_fields_only_and_no_units():
    fields = torch.randn(2, 3, 16, 2, dtype=DOUBLE)
    fields[..., 0] -= fields[..., 0].mean(2, keepdim=True)
    fields[..., 0] += 0.5
    assert conservation_drift(fields, [True, False]).max() < 1e-9
    assert conservation_drift(fields, [True, True]).min() > 1e-3
    one, other = (conservation_drift(scale * fields, [False, True]) for scale in (1.0, 1e5))
    torch.testing.assert_close(one, other)
    finite_gradient(lambda f: conservation_drift(f, [True]), 2, 3, 8, 1)


def test_energy_of_a_gas_is_thermal_plus_kinetic():
    ones = torch.ones(1, 1, 4, 4)
    found = compressible_energy(2 * ones, 3 * ones, [ones, 2 * ones], gamma=2.0)
    assert found.item() == pytest.approx(3 + 5)


def test_negativity_is_the_share_below_zero():
    fields = torch.ones(1, 1, 4, 2)
    fields[0, 0, 0, 0] = -1
    assert negativity(fields, [True, False]).item() == pytest.approx(0.5)
    assert negativity(fields, [False, True]).item() < 1e-9
    assert negativity(1e-4 * fields, [True, False]).item() == pytest.approx(0.5, rel=1e-4)
    assert negativity(-fields[..., 1:], [True]).item() == pytest.approx(1.0)
    finite_gradient(lambda f: negativity(f, [True]), 2, 1, 4, 1)


def test_stream_function_makes_a_flow_without_divergence_and_a_potential_does_not():
    grid, x, y = square()
    rotating = torch.stack([torch.sin(x) * torch.cos(y), -torch.cos(x) * torch.sin(y)], -1)
    assert relative_divergence(rotating[None, None], grid, (0, 1)).item() < 1e-11
    spreading = torch.stack([torch.sin(x), torch.sin(y)], -1)
    expected = divergence(list(spreading.unbind(-1)), grid)
    torch.testing.assert_close(expected, torch.cos(x) + torch.cos(y))
    found = relative_divergence(spreading[None, None], grid, (0, 1))
    assert found.item() == pytest.approx(1.0)
    finite_gradient(lambda f: relative_divergence(f, grid, (0, 1)), 2, 1, 16, 16, 2, value=3.0)


def test_vectors_are_found_by_the_card():
    assert vectors_of(load_card("navier_stokes2d")) == ((0, 1),)
    assert vectors_of(load_card("compressible_ns3d")) == ((2, 3, 4),)
    assert vectors_of(load_card("era5_64x32")) == ((2, 1),)
    assert vectors_of(load_card("allen_cahn2d")) == ()


def test_a_wrong_number_of_components_is_refused():
    grid, x, _ = square()
    with pytest.raises(ValueError, match="1 components on 2 axes"):
        divergence([x], grid)


def test_conditions_follow_the_grid_and_the_notes_of_the_card():
    card = load_card("diffusion_sorption1d")
    grid = UniformGrid.cells([1 / 64], [("dirichlet", "robin")])
    left, right = conditions_of(card, grid)["u"][0]
    assert (left.value, left.slope, left.right) == (1.0, 0.5 / 1024, 1.0)
    assert (right.value, right.slope, right.right) == (1.0, 5e-4 + 0.5 / 1024, 0.0)
    walls = UniformGrid.cells([0.1, 0.1], [("wall", "outflow")] * 2)
    flow = conditions_of(load_card("compressible_ns2d"), walls)
    assert flow["vx"][0][0] is not None
    assert flow["vx"][0][1] is None
    assert flow["vx"][1] == (None, None)
    assert flow["density"][0] == (None, None)
    open_ends = UniformGrid.cells([0.1], [("outflow", "outflow")])
    assert not has_conditions(conditions_of(load_card("compressible_ns1d"), open_ends), open_ends)


def test_fields_at_rest_on_the_walls_violate_nothing_and_a_slip_is_measured():
    card = load_card("navier_stokes2d")
    errors = []
    for points in (16, 32):
        grid, x, y = square(points, "dirichlet", length=1.0)
        rest = torch.sin(torch.pi * x) * torch.sin(torch.pi * y)
        density = torch.cos(torch.pi * x) * torch.cos(torch.pi * y)
        fields = torch.stack([rest, -rest, density], -1)[None, None]
        conditions = conditions_of(card, grid)
        errors.append(boundary_violation(fields, grid, conditions).item())
    assert errors[1] < errors[0] / 3
    assert errors[1] < 0.01
    slipping = fields + torch.tensor([1.0, 0.0, 0.0], dtype=DOUBLE)
    assert boundary_violation(slipping, grid, conditions).item() > 0.2
    finite_gradient(lambda f: boundary_violation(f, grid, conditions), 2, 1, 8, 8, 3)


def test_slopes_at_ends_without_flux_are_measured():
    card = load_card("reaction_diffusion2d")
    grid, x, y = square(32, "neumann", length=1.0)
    flat = torch.cos(torch.pi * x) * torch.cos(2 * torch.pi * y)
    steep = torch.sin(torch.pi * x) * torch.sin(2 * torch.pi * y)
    conditions = conditions_of(card, grid)
    good, bad = (torch.stack([u, u], -1)[None, None] for u in (flat, steep))
    assert boundary_violation(good, grid, conditions).item() < 0.03
    assert boundary_violation(bad, grid, conditions).item() > 0.5


def test_a_seam_is_seen_where_both_sides_of_a_period_differ():
    card = load_card("burgers1d")
    grid = UniformGrid.cells([1 / 64], [("periodic", "periodic")])
    x = (torch.arange(64, dtype=DOUBLE) + 0.5) / 64
    conditions = conditions_of(card, grid)
    wave, ramp = torch.sin(2 * torch.pi * x), x
    smooth = boundary_violation(wave[None, None, :, None], grid, conditions).item()
    jump = boundary_violation(ramp[None, None, :, None], grid, conditions).item()
    assert smooth < 1e-3
    assert jump == pytest.approx(1 / ramp.square().mean().sqrt().item())


def test_without_any_condition_there_is_nothing_to_measure():
    grid = UniformGrid.cells([0.1], [("outflow", "outflow")])
    with pytest.raises(ValueError, match="no boundary condition"):
        boundary_violation(torch.ones(1, 1, 8, 1), grid, {"u": ((None, None),)})
