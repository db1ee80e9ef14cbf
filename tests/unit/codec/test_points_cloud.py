"""Clouds: shares of volume, normals, neighbours, batches; supernodes and their neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scattered import mesh, particles

from ups.codec.anchors import AnchorGrid
from ups.codec.boundary import boundary_moments, inside
from ups.codec.cloud import make_cloud, merged, repeated
from ups.codec.local_fit import LocalFit
from ups.codec.supernodes import farthest_points, nearest
from ups.data.generate.domains import Domain, circle
from ups.data.generate.triangulations import triangulate
from ups.errors import DataError

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
TWO = np.array([[0, 1, 2], [0, 2, 3]])


def ring():
    """A disc around (0.5, 0.5) with a hole."""
    domain = Domain(circle((0.5, 0.5), 0.4, 1), (circle((0.5, 0.5), 0.15, 2),))
    found = triangulate(domain, 400, np.random.default_rng(0))
    return make_cloud(found.points, cells=found.cells, tags=found.tags)


def test_nodes_of_two_triangles_share_their_area():
    cloud = make_cloud(SQUARE, cells=TWO)
    torch.testing.assert_close(cloud.volumes, torch.tensor([2, 1, 2, 1]) / 6)
    assert {tuple(edge) for edge in cloud.edges.tolist()} == {
        (0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0), (2, 3), (3, 2), (0, 3), (3, 0),
    }  # fmt: skip


def test_normals_point_out_and_have_the_length_of_the_boundary():
    cloud = make_cloud(SQUARE, cells=TWO)
    torch.testing.assert_close(cloud.normals, torch.tensor(SQUARE - 0.5).float())
    fine = mesh(per_axis=9)
    assert (fine.normals[fine.tags == 0] == 0).all()
    right = fine.coords[:, 0] == 1
    middle = right & (fine.coords[:, 1] > 0) & (fine.coords[:, 1] < 1)
    assert (fine.normals[middle, 0] > 0.01).all()
    torch.testing.assert_close(fine.normals[right, 0].sum(), torch.tensor(1.0))


@pytest.mark.parametrize("dims", [2, 3])
def test_volumes_integrate_linear_functions_exactly(dims):
    cloud = mesh(per_axis=6, dims=dims)
    assert cloud.volumes.sum() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(
        (cloud.volumes[:, None] * cloud.coords).sum(0), torch.full((dims,), 0.5)
    )


def test_room_of_particles_is_smaller_where_they_crowd():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.random((200, 2)) * 0.5, 0.5 + rng.random((50, 2)) * 0.5])
    cloud = make_cloud(points, radius=0.1)
    crowd = cloud.volumes[:200].mean() / cloud.volumes[200:].mean()
    assert 0.15 < crowd < 0.45
    assert cloud.volumes.sum() == pytest.approx(1, abs=1e-5)


def test_room_and_neighbours_do_not_depend_on_the_image_of_a_periodic_box():
    one = particles()
    images = one.coords.numpy() + np.random.default_rng(1).integers(-2, 3, (300, 2))
    other = make_cloud(images, radius=0.15, periods=(1.0, 1.0))
    torch.testing.assert_close(one.volumes, other.volumes, rtol=1e-3, atol=1e-7)
    assert len(one.edges) == len(other.edges)
    walls = make_cloud(one.coords.numpy(), radius=0.15)
    assert len(walls.edges) < len(one.edges)


def test_a_single_particle_has_all_the_room():
    cloud = make_cloud(np.array([[0.5, 0.5]]), radius=0.1)
    assert cloud.volumes.tolist() == [1.0]
    assert cloud.edges.shape == (0, 2)


def test_merged_clouds_keep_samples_and_edges_apart():
    parts = [mesh(0, per_axis=4), mesh(1, per_axis=5)]
    batch = merged(parts)
    assert batch.num_samples == 2
    assert batch.counts.tolist() == [16, 25]
    assert (batch.sample[batch.edges[:, 0]] == batch.sample[batch.edges[:, 1]]).all()
    torch.testing.assert_close(batch.edges[len(parts[0].edges) :] - 16, parts[1].edges)
    three = repeated(parts[0], 3)
    assert three.counts.tolist() == [16, 16, 16]
    assert merged([mesh(), particles()]).tags is None
    assert batch.to("cpu").normals.shape == batch.coords.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coords": np.empty((0, 2)), "radius": 1.0}, "no nodes"),
        ({"coords": SQUARE, "cells": np.array([[0, 1, 2, 3]])}, "expected \\(cell, 3\\)"),
        ({"coords": SQUARE * [1, 0], "cells": TWO}, "no volume"),
    ],
)
def test_what_is_no_cloud_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        make_cloud(**arguments)


def test_neighbours_must_follow_from_something():
    with pytest.raises(ValueError, match="edges, cells or a radius"):
        make_cloud(SQUARE)


def test_farthest_points_of_a_line():
    points = np.stack([np.arange(9) / 10, np.zeros(9)], 1)
    cloud = make_cloud(points, radius=0.15)
    chosen = farthest_points(cloud, 5, (None, None), (0.0, 0.0))
    assert chosen[:3].tolist() == [0, 8, 4]
    assert set(chosen[3:].tolist()) == {2, 6}
    wrapped = farthest_points(cloud, 2, (0.9, None), (0.0, 0.0))
    assert wrapped.tolist()[1] in (4, 5)


def test_farthest_points_of_a_batch_are_those_of_each_sample():
    parts = [mesh(0, per_axis=4), mesh(1, per_axis=6)]
    batch = farthest_points(merged(parts), 20, (None, None), (0.5, 0.5))
    one, two = (farthest_points(part, 20, (None, None), (0.5, 0.5)) for part in parts)
    assert len(one) == 16
    assert sorted(one.tolist()) == list(range(16))
    assert batch.tolist() == one.tolist() + (two + 16).tolist()


def test_nearest_are_the_nearest_and_of_the_same_sample():
    generator = torch.Generator().manual_seed(0)
    places, sources = torch.rand(7, 2, generator=generator), torch.rand(30, 2, generator=generator)
    of_place, of_source = torch.arange(7) % 2, torch.arange(30) // 28
    found = nearest(places, of_place, sources, of_source, 4, (1.0, None))
    assert found.found.sum(1).tolist() == [4, 2, 4, 2, 4, 2, 4]
    assert (
        of_source[found.index][found.found] == of_place[:, None].expand(-1, 4)[found.found]
    ).all()
    steps = places[0] - sources[:28]
    steps[:, 0] -= steps[:, 0].round()
    expected = steps.norm(dim=1).topk(4, largest=False)
    assert found.index[0].tolist() == expected.indices.tolist()
    torch.testing.assert_close(found.offset[0].norm(dim=1), expected.values)


def test_an_anchor_is_inside_a_ring_and_not_in_its_hole():
    cloud, grid = ring(), AnchorGrid((21, 21), ((0.0, 1.0), (0.0, 1.0)), (False, False))
    found = inside(cloud, grid)[0]
    radius = (grid.centres() - 0.5).norm(dim=1)
    clear = ((radius - 0.4).abs() > 0.03) & ((radius - 0.15).abs() > 0.03)
    truth = (radius < 0.4) & (radius > 0.15)
    torch.testing.assert_close(found[clear], truth[clear].float(), rtol=0, atol=0.05)


def test_boundary_moments_add_up_to_the_boundary():
    cloud, grid = ring(), AnchorGrid((8, 8), ((0.0, 1.0), (0.0, 1.0)), (False, False))
    moments = boundary_moments(cloud, LocalFit(grid, 1, 1e-3).prepare(cloud), grid, num_tags=2)
    assert moments.shape == (1, 64, 1 + 2 + 2 + 1)
    total = moments[0].sum(0) / 8
    around = 2 * np.pi * 0.4
    assert total[1] == pytest.approx(around, rel=0.03)
    assert total[2] == pytest.approx(2 * np.pi * 0.15, rel=0.08)
    assert total[0] == pytest.approx(float(total[1] + total[2]), rel=1e-5)
    assert total[3:5].abs().max() < 1e-4
    cut = make_cloud(cloud.coords.numpy(), radius=0.1)
    with pytest.raises(DataError, match="without cells"):
        boundary_moments(cut, LocalFit(grid, 1, 1e-3).prepare(cut), grid, num_tags=2)
