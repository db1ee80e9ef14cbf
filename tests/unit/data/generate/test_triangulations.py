"""Triangulations: as many nodes as asked for, good angles, every boundary edge where it belongs."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from ups.data.generate.domains import (
    Domain,
    circle,
    closed_curve,
    contains,
    corner_angles,
    polygon,
    random_polygon,
    star_shape,
)
from ups.data.generate.triangulations import draw_nodes, triangulate
from ups.errors import DataError

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
CENTRE = np.array([0.5, 0.5])


def square_with_hole() -> Domain:
    return Domain(polygon(SQUARE, [1, 2, 3, 4]), (circle((0.6, 0.5), 0.15, 5),))


@pytest.mark.parametrize("nodes", [90, 257])
def test_the_number_of_nodes_is_the_one_asked_for(nodes):
    mesh = triangulate(square_with_hole(), nodes, np.random.default_rng(0))
    assert len(mesh.points) == nodes
    assert np.array_equal(np.unique(mesh.cells), np.arange(nodes))


@pytest.mark.parametrize("seed", range(4))
def test_random_domains_have_no_sharp_triangles(seed):
    rng = np.random.default_rng(seed)
    draw = star_shape if seed % 2 else random_polygon
    more = () if seed % 2 else (5,)
    mesh = triangulate(Domain(draw(rng, CENTRE, 0.5, 1, *more)), 300, rng)
    assert mesh.min_angle() > 20
    assert mesh.angles().sum(1) == pytest.approx(180)


def test_triangles_fill_the_polygon_of_boundary_nodes_and_nothing_else():
    mesh = triangulate(square_with_hole(), 250, np.random.default_rng(1))
    hole = mesh.points[mesh.facets[mesh.facet_tags == 5, 0]]
    x, y = (hole - hole.mean(0)).T
    hole_area = 0.5 * abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
    assert mesh.area() == pytest.approx(1 - hole_area, rel=1e-12)


def test_boundary_facets_are_exactly_the_edges_of_one_triangle():
    mesh = triangulate(square_with_hole(), 250, np.random.default_rng(2))
    counts: Counter[tuple[int, ...]] = Counter()
    for cell in mesh.cells.tolist():
        counts.update(tuple(sorted((cell[i], cell[i - 1]))) for i in range(3))
    assert set(counts.values()) == {1, 2}
    on_boundary = {edge for edge, times in counts.items() if times == 1}
    assert on_boundary == {tuple(sorted(edge)) for edge in mesh.facets.tolist()}


def test_tags_say_on_which_part_a_node_lies_and_corners_take_the_larger():
    mesh = triangulate(square_with_hole(), 250, np.random.default_rng(3))
    x, y = mesh.points.T
    assert (mesh.tags[(y == 0) & (x > 0) & (x < 1)] == 1).all()
    assert mesh.tags[(y == 0) & (x == 1)].tolist() == [2]
    assert mesh.tags[(y == 0) & (x == 0)].tolist() == [4]
    radius = np.hypot(x - 0.6, y - 0.5)
    assert np.array_equal(mesh.tags == 5, radius < 0.1501)
    assert set(np.unique(mesh.tags)) == {0, 1, 2, 3, 4, 5}
    assert (mesh.facet_tags > 0).all()


def test_edges_are_shorter_where_the_size_function_is_smaller():
    mesh = triangulate(
        Domain(polygon(SQUARE, 1)), 500, np.random.default_rng(0), size=lambda p: 1 + 3 * p[:, 0]
    )
    areas = np.abs(np.linalg.det(np.diff(mesh.points[mesh.cells], axis=1))) / 2
    middle = mesh.points[mesh.cells].mean(1)[:, 0]
    edge = np.sqrt(areas)
    ratio = np.median(edge[middle > 0.85]) / np.median(edge[middle < 0.15])
    assert ratio == pytest.approx(3.775 / 1.225, rel=0.2)
    assert mesh.min_angle() > 20


def test_the_same_generator_state_gives_the_same_triangulation():
    one, other = (triangulate(square_with_hole(), 150, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(one.points, other.points)
    assert np.array_equal(one.cells, other.cells)


def test_too_few_nodes_for_the_boundary_is_said_in_one_line():
    holes = tuple(circle((x, y), 0.1, 2) for x in (0.25, 0.75) for y in (0.25, 0.75))
    with pytest.raises(DataError, match=r"trajectory 3: 40 nodes are too few") as caught:
        triangulate(
            Domain(polygon(SQUARE, 1), holes), 40, np.random.default_rng(0), where="trajectory 3"
        )
    assert "\n" not in str(caught.value)


def test_a_corner_too_sharp_to_mesh_is_said():
    needle = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.1]])
    with pytest.raises(DataError, match=r"mesh: no good triangulation of 100 nodes"):
        triangulate(Domain(polygon(needle, 1)), 100, np.random.default_rng(0))


def test_number_of_nodes_is_uniform_in_its_logarithm():
    rng = np.random.default_rng(0)
    drawn = np.array([draw_nodes(rng, (100, 10_000)) for _ in range(2000)])
    assert drawn.min() >= 100
    assert drawn.max() <= 10_000
    assert (drawn < 1000).mean() == pytest.approx(0.5, abs=0.04)


def test_inner_angles_of_an_arrowhead():
    arrow = np.array([[0.0, 0.0], [1.0, -1.0], [3.0, 0.0], [1.0, 1.0]])
    angles = corner_angles(arrow)
    assert angles[0] == pytest.approx(90)
    assert angles.sum() == pytest.approx(360)
    dented = np.array([[0.5, 0.0], [0.0, 1.0], [0.0, -1.0], [2.0, -1.0], [2.0, 1.0]])
    assert corner_angles(np.roll(dented, -1, 0)).sum() == pytest.approx(540)


def test_points_in_a_hole_are_not_inside():
    ring = [SQUARE, 0.25 + 0.5 * SQUARE]
    points = np.array([[0.1, 0.1], [0.5, 0.5], [1.5, 0.5], [0.9, 0.5]])
    assert contains(ring, points).tolist() == [True, False, False, True]


def test_a_closed_curve_keeps_its_shape_to_second_order():
    angle = np.linspace(0, 2 * math.pi, 400, endpoint=False)
    curve = closed_curve(np.stack([np.cos(angle), np.sin(angle)], 1), 1)
    short = [
        math.pi - triangulate(Domain(curve), n, np.random.default_rng(0)).area() for n in (60, 240)
    ]
    assert 0 < short[1] < short[0] / 3
