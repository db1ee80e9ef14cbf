"""The fit around anchors: exact on polynomials, isometric, steady where nodes are few."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scattered import mesh, particles, relative_error, smooth, waves

from ups.codec.anchors import AnchorGrid, halved
from ups.codec.cloud import make_cloud, merged
from ups.codec.local_fit import LocalFit
from ups.codec.polynomials import LocalPolynomials, hat, panels


def grid_of(anchors, periodic=None, bounds=None):
    dims = len(anchors)
    bounds = bounds or ((0.0, 1.0),) * dims
    return AnchorGrid(tuple(anchors), bounds, tuple(periodic or (False,) * dims))


def reconstructed(fit, values, cloud, coords=None):
    coefficients = fit.prepare(cloud).encode(values[None])
    where = cloud.coords if coords is None else coords
    return fit.decode(coefficients, where, torch.zeros(len(where), dtype=torch.int64))[0]


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_polynomials_are_orthonormal_under_the_weight(degree):
    points, weights = panels()
    values = LocalPolynomials(1, degree)(points[:, None])
    gram = torch.einsum("q,qi,qj->ij", weights * hat(points), values, values)
    torch.testing.assert_close(gram, torch.eye(degree + 1, dtype=torch.float64))
    assert (values[:, 0] == 1).all()


def test_number_of_polynomials_of_total_degree():
    assert [len(LocalPolynomials(dims, 2)) for dims in (1, 2, 3)] == [3, 6, 10]
    assert LocalPolynomials(3, 2).orders[0] == (0, 0, 0)


def test_coarser_grids_end_with_two():
    assert halved((16, 4)) == [(2, 1), (4, 1), (8, 2), (16, 4)]
    assert halved((1,)) == [(1,)]


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_weights_around_a_point_add_up_to_one(periodic, size):
    grid = grid_of((size, 3), (periodic, False))
    coords = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2
    around = grid.around(coords)
    torch.testing.assert_close(around.weight.sum(1), torch.ones(200))
    assert around.index.min() >= 0
    assert around.index.max() < grid.num_anchors
    at_anchor = grid.around(grid.centres())
    chosen = at_anchor.index[at_anchor.weight > 0.5]
    assert chosen.tolist() == list(range(grid.num_anchors))


@pytest.mark.parametrize(("anchors", "dims"), [((6,), 1), ((6, 5), 2), ((1, 4), 2), ((3, 3, 3), 3)])
def test_polynomials_of_the_degree_are_reproduced_everywhere(anchors, dims):
    fit = LocalFit(grid_of(anchors), degree=2, ridge=3e-3)
    cloud = mesh(per_axis={1: 40, 2: 12, 3: 8}[dims], dims=dims)

    def polynomial(x):
        return (1 - x[:, :1] + 2 * x[:, -1:] * x[:, :1] - x[:, -1:] ** 2).double()

    queries = torch.rand(50, dims, generator=torch.Generator().manual_seed(1)).double()
    values = polynomial(cloud.coords.double())
    found = reconstructed(fit, values, cloud, queries)
    torch.testing.assert_close(found, polynomial(queries), rtol=0, atol=1e-5)
    cubic = cloud.coords.double()[:, :1] ** 3
    assert relative_error(reconstructed(fit, cubic, cloud), cubic) > 1e-5


def test_smooth_fields_are_reconstructed_better_by_more_anchors():
    cloud = mesh(per_axis=33)
    values = smooth(cloud.coords)
    errors = [
        relative_error(reconstructed(LocalFit(grid_of((n, n)), 2, 3e-3), values, cloud), values)
        for n in (4, 8)
    ]
    assert errors[0] < 2e-3
    assert errors[1] < errors[0] / 5  # third order: 8 times


def test_first_coefficient_is_the_local_mean_and_energy_the_mean_square():
    cloud = particles(number=4000, radius=0.02)
    values = 2 + waves(cloud.coords)
    plan = LocalFit(grid_of((8, 8), (True, True)), 3, 1e-3).prepare(cloud)
    found = plan.encode(values[None])[0, 0]
    energy = found.square().sum(1).mean()
    assert energy == pytest.approx(float((cloud.volumes[:, None] * values**2).sum()), rel=0.03)
    assert found[:, 0].mean() == pytest.approx(2.0, rel=0.02)


def test_encoding_is_linear():
    cloud = mesh(per_axis=9)
    plan = LocalFit(grid_of((5, 5)), 2, 3e-3).prepare(cloud)
    a, b = torch.randn(2, 3, 81, 2, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(plan.encode(2 * a - b), 2 * plan.encode(a) - plan.encode(b))
    torch.testing.assert_close(plan.encode(a)[1], plan.encode(a[1:2])[0])


def test_starved_anchors_follow_the_coarser_fit():
    rng = np.random.default_rng(0)
    sparse = rng.random((60, 2)).astype(np.float32)
    cloud = make_cloud(sparse, radius=0.3)
    queries = torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    fit = LocalFit(grid_of((16, 16)), 2, 3e-3)
    found = reconstructed(fit, smooth(cloud.coords), cloud, queries)
    assert relative_error(found, smooth(queries)) < 0.02
    left = replace(cloud, volumes=cloud.volumes * (cloud.coords[:, 0] < 0.5))
    far = reconstructed(fit, smooth(cloud.coords), left, torch.tensor([[0.75, 0.5]]))
    assert far.isfinite().all()
    assert (far - smooth(torch.tensor([[0.75, 0.5]]))).abs().max() < 0.3


def test_a_single_node_gives_a_constant():
    cloud = make_cloud(np.array([[0.3, 0.6]]), radius=0.1)
    fit = LocalFit(grid_of((8, 8)), 2, 3e-3)
    queries = torch.tensor([[0.3, 0.6], [0.9, 0.1]])
    found = reconstructed(fit, torch.tensor([[5.0]]), cloud, queries)
    torch.testing.assert_close(found, torch.full((2, 1), 5.0), rtol=1e-5, atol=0)


def test_nothing_changes_when_nodes_move_by_a_side_of_a_periodic_box():
    cloud = particles()
    fit = LocalFit(grid_of((6, 6), (True, True)), 2, 3e-3)
    values = waves(cloud.coords)
    turns = torch.randint(-2, 3, cloud.coords.shape, generator=torch.Generator().manual_seed(0))
    moved = replace(cloud, coords=cloud.coords + turns)
    expected = fit.prepare(cloud).encode(values[None])
    torch.testing.assert_close(fit.prepare(moved).encode(values[None]), expected, rtol=0, atol=1e-3)
    sample = torch.zeros(300, dtype=torch.int64)
    here = fit.decode(expected, cloud.coords, sample)
    torch.testing.assert_close(fit.decode(expected, moved.coords, sample), here, rtol=0, atol=1e-4)
    assert relative_error(here[0], values) < 0.02


def test_a_periodic_field_is_smooth_across_the_end_of_the_box():
    cloud = particles(number=1000, radius=0.05)
    fit = LocalFit(grid_of((8, 8), (True, True)), 3, 3e-3)
    ends = torch.tensor([[0.0, 0.3], [1.0, 0.3], [1e-4, 0.3], [1 - 1e-4, 0.3]])
    found = reconstructed(fit, waves(cloud.coords), cloud, ends)
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], found[3], rtol=0, atol=5e-3)
    torch.testing.assert_close(found, waves(ends), rtol=0, atol=0.02)


def test_samples_of_a_batch_do_not_see_each_other():
    parts = [mesh(0, per_axis=7), mesh(1, per_axis=11)]
    fit = LocalFit(grid_of((5, 5)), 2, 3e-3)
    values = [smooth(part.coords) for part in parts]
    together = fit.prepare(merged(parts)).encode(torch.cat(values)[None])
    for row, (part, own) in enumerate(zip(parts, values, strict=True)):
        torch.testing.assert_close(together[:, row], fit.prepare(part).encode(own[None])[:, 0])


@pytest.mark.parametrize("periodic", [False, True])
def test_decoding_is_differentiable_in_coordinates_and_tokens(periodic):
    fit = LocalFit(grid_of((4, 3), (periodic, False)), 2, 3e-3)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 2, 12, 6, 1, generator=generator, dtype=torch.float64)
    coords = torch.rand(5, 2, generator=generator, dtype=torch.float64)
    sample = torch.tensor([0, 1, 1, 0, 1])
    inputs = (tokens.requires_grad_(), coords.requires_grad_())
    assert torch.autograd.gradcheck(lambda t, x: fit.decode(t, x, sample), inputs)
