"""Nodes as images: the nearest one is shown, nothing far from all, moving ones where they are."""

from __future__ import annotations

import numpy as np

from ups.evaluation.reporting.raster import _nearest, _pixels, raster_of


def lattice(points=11):
    axis = np.linspace(0.0, 1.0, points)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


def test_a_pixel_shows_its_nearest_node():
    bounds = ((0.0, 1.0), (0.0, 1.0))
    pixels, places = _pixels(bounds), lattice()
    node, inside = _nearest(places, pixels, bounds, (False, False), is_mesh=True)
    assert inside.all()
    np.testing.assert_allclose(places[node], np.round(pixels * 10) / 10, atol=1e-12)


def test_what_is_far_from_all_nodes_is_outside():
    """A hole of the domain stays empty, and so does what is beyond its edge."""
    bounds = ((0.0, 2.0), (0.0, 1.0))
    places = lattice()
    places = places[np.hypot(*(places - 0.5).T) > 0.3]
    pixels = _pixels(bounds)
    assert pixels.shape[:2] == (160, 80), "pixels are square"
    _, inside = _nearest(places, pixels, bounds, (False, False), is_mesh=True)
    assert not inside[pixels[..., 0] > 1.2].any()
    assert not inside[np.hypot(pixels[..., 0] - 0.5, pixels[..., 1] - 0.5) < 0.2].any()
    assert inside[(pixels[..., 0] < 0.15)].all()


def test_particles_are_dots_that_reach_around_the_period():
    bounds = ((0.0, 1.0), (0.0, 1.0))
    pixels = _pixels(bounds)
    _, inside = _nearest(np.array([[0.0, 0.5]]), pixels, bounds, (True, False), is_mesh=False)
    assert inside[0, 80]
    assert inside[-1, 80]
    _, inside = _nearest(np.array([[0.0, 0.5]]), pixels, bounds, (False, False), is_mesh=False)
    assert not inside[-1, 80]


def test_moving_nodes_are_drawn_where_they_are_in_the_central_plane():
    places = [np.array([[0.2, 0.2, 0.5], [0.4 + 0.2 * frame, 0.6, 0.5]]) for frame in (0, 2)]
    raster = raster_of(places, ((0.0, 1.0),) * 3, (False,) * 3, is_mesh=False)
    images = raster.image(np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert images.shape == (2, 160, 160, 1)
    inside = raster.mask(np.zeros((2, 2)))
    assert (images[0, 32, 32, 0], images[0, 64, 96, 0]) == (1.0, 2.0)
    assert (images[1, 32, 32, 0], images[1, 128, 96, 0]) == (3.0, 4.0)
    assert inside[1, 128, 96, 0]
