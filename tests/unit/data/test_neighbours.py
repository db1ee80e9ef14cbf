"""Neighbour lists and mesh edges against counting every pair."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import Delaunay

from ups.data.conversion.neighbours import mesh_edges, radius_neighbours
from ups.errors import DataError

PERIODS = st.lists(st.sampled_from([None, 0.5, 1.0, 2.0]), min_size=1, max_size=3)


def distances(positions, periods):
    """(node, node), to the nearest image along periodic axes."""
    difference = positions[:, None] - positions[None]
    for axis, period in enumerate(periods):
        if period is not None:
            difference[..., axis] -= period * np.round(difference[..., axis] / period)
    return np.linalg.norm(difference, axis=-1)


@given(
    periods=PERIODS,
    nodes=st.integers(0, 40),
    radius=st.floats(0.01, 3.0),
    seed=st.integers(0, 2**16),
)
def test_neighbours_are_those_of_counting_every_pair(periods, nodes, radius, seed):
    positions = np.random.default_rng(seed).uniform(-1.5, 2.5, (nodes, len(periods)))
    separation = distances(positions, periods)
    np.fill_diagonal(separation, np.inf)
    edges = radius_neighbours(positions, radius, tuple(periods))
    near, near_enough = (np.argwhere(separation <= radius * (1 + sign * 1e-12)) for sign in (-1, 1))
    assert edges.dtype == np.int32
    assert edges.tolist() in (near.tolist(), near_enough.tolist())


def test_only_the_periodic_axis_wraps():
    positions = np.array([[0.02, 0.02], [0.98, 0.02], [0.02, 0.98]])
    assert radius_neighbours(positions, 0.1, (1.0, None)).tolist() == [[0, 1], [1, 0]]
    assert radius_neighbours(positions, 0.1, (None, 1.0)).tolist() == [[0, 2], [2, 0]]
    assert len(radius_neighbours(positions, 0.1, (None, None))) == 0
    assert len(radius_neighbours(positions, 0.05, (1.0, 1.0))) == 4


def test_positions_on_the_seam_and_just_below_zero_are_accepted():
    positions = np.array([[1.0], [-1e-20], [0.0], [3.0]])
    assert len(radius_neighbours(positions, 1e-6, (1.0,))) == 4 * 3


def test_coincident_particles_are_neighbours_but_none_is_its_own():
    edges = radius_neighbours(np.zeros((3, 2), dtype=np.float32), 0.1, (None, 1))
    assert edges.tolist() == [list(pair) for pair in permutations(range(3), 2)]


@pytest.mark.parametrize("nodes", [0, 1])
def test_without_a_pair_there_is_no_edge(nodes):
    edges = radius_neighbours(np.zeros((nodes, 2)), 1.0, (None, None))
    assert edges.shape == (0, 2)
    assert edges.dtype == np.int32


def test_a_position_that_is_not_finite_names_the_particle():
    with pytest.raises(DataError, match="particle 1 is at"):
        radius_neighbours(np.array([[0.0, 0.0], [0.0, np.nan]]), 1.0, (None, None))


@pytest.mark.parametrize(
    ("positions", "radius", "periods"),
    [
        (np.zeros((3, 2)), 1.0, (None,)),
        (np.zeros(3), 1.0, (None,)),
        (np.zeros((3, 0)), 1.0, ()),
        (np.zeros((3, 1)), 0.0, (None,)),
        (np.zeros((3, 1)), float("nan"), (None,)),
        (np.zeros((3, 1)), 1.0, (-1.0,)),
    ],
)
def test_neighbours_refuse_what_does_not_fit(positions, radius, periods):
    with pytest.raises(ValueError, match=r"fit|positive"):
        radius_neighbours(positions, radius, periods)


@given(
    corners=st.sampled_from([2, 3, 4]),
    nodes=st.integers(4, 30),
    cells=st.integers(0, 40),
    seed=st.integers(0, 2**16),
)
def test_edges_are_all_pairs_of_corners(corners, nodes, cells, seed):
    random = np.random.default_rng(seed)
    table = np.array(
        [random.choice(nodes, corners, replace=False) for _ in range(cells)], dtype=np.int32
    ).reshape(cells, corners)
    expected = sorted({pair for cell in table.tolist() for pair in permutations(cell, 2)})
    edges = mesh_edges(table, nodes)
    assert edges.dtype == np.int32
    assert [tuple(edge) for edge in edges.tolist()] == expected


def test_a_planar_triangulation_obeys_euler():
    points = np.random.default_rng(0).uniform(size=(200, 2))
    cells = Delaunay(points).simplices
    edges = len(mesh_edges(cells, len(points))) // 2
    assert len(points) - edges + len(cells) == 1


def test_a_tetrahedron_has_six_edges():
    assert len(mesh_edges(np.array([[0, 1, 2, 3]]), 4)) == 2 * 6


def test_cells_that_name_no_node_or_one_twice_are_refused():
    with pytest.raises(DataError, match="cell 1 names node 5, the mesh has 5"):
        mesh_edges(np.array([[0, 1, 2], [2, 3, 5]]), 5)
    with pytest.raises(DataError, match="cell 0 names node -1"):
        mesh_edges(np.array([[0, 1, -1]]), 5)
    with pytest.raises(DataError, match="cell 1 names node 3 twice"):
        mesh_edges(np.array([[0, 1, 2], [3, 2, 3]]), 5)


@pytest.mark.parametrize("cells", [np.zeros((2, 3)), np.zeros(3, int), np.zeros((2, 8), int)])
def test_edges_refuse_a_table_that_holds_no_simplices(cells):
    with pytest.raises(ValueError, match="cells must be"):
        mesh_edges(cells, 10)
