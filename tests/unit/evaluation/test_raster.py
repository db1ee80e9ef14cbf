"""Nodes as images: the nearest one is shown, nothing far from all, moving ones where they are."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ups.data.points import PointStore
from ups.evaluation.page import write_page
from ups.evaluation.plots import Example, Grid, plot_error_shares, plot_examples
from ups.evaluation.raster import _nearest, _pixels, raster_of


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


class Moving(PointStore):
    """Two particles of which the second one moves on by 0.2 in each frame."""

    metadata = SimpleNamespace(bounds=((0.0, 1.0),) * 3, periodic=(False,) * 3)
    kind = "particles"

    def __init__(self):
        """Without a file."""

    def moves(self, trajectory):
        return True

    def coords(self, trajectory, frames):
        where = np.array([[0.2, 0.2, 0.5], [0.4 + 0.2 * frames.start, 0.6, 0.5]])
        return where[None]


def test_moving_nodes_are_drawn_where_they_are_in_the_central_plane():
    raster = raster_of(Moving(), 0, [0, 2])
    images = raster.image(np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert images.shape == (2, 160, 160, 1)
    inside = raster.mask(np.zeros((2, 2)))
    assert (images[0, 32, 32, 0], images[0, 64, 96, 0]) == (1.0, 2.0)
    assert (images[1, 32, 32, 0], images[1, 128, 96, 0]) == (3.0, 4.0)
    assert inside[1, 128, 96, 0]


@pytest.mark.parametrize("space", [(12, 8), (6, 8, 4)], ids=str)
def test_steady_problems_are_one_row_each(tmp_path, space):
    random = np.random.default_rng(0)
    reference = random.standard_normal((1, *space))
    inside = random.random((1, *space)) > 0.3
    one = Example("median", reference + 0.1, reference, inside)
    grid = Grid(times=[0.0], bounds=[(0.0, 1.0)] * len(space), is_steady=True)
    path = plot_examples(tmp_path / "a.png", [one, one], grid)
    assert path.stat().st_size > 5000
    two = plot_error_shares(tmp_path / "b.png", {"model": np.array([0.1, 0.2]), "x": np.zeros(2)})
    assert two.stat().st_size > 5000


def test_each_task_has_its_page(tmp_path):
    from test_report import PROTOCOL, row

    from ups.evaluation.report import Report

    report = Report(
        run={"name": "r", "task": "darcy"},
        protocol=PROTOCOL,
        rows=(row("model", "model", 0.1), row("training mean", "trivial", 0.4)),
    )
    page = write_page(report, tmp_path)
    assert page.name == "report-darcy.html"
    assert "0.250 of training mean (0.400)" in page.read_text()
