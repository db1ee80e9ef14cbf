"""Darcy flow on meshes against exact solutions, itself refined, and what the card promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ups.data.generate import darcy2d_mesh
from ups.data.generate.base import PointTask
from ups.data.generate.darcy2d_mesh import RandomField, solve, solve_darcy
from ups.data.generate.domains import Domain, circle, polygon
from ups.data.generate.triangulations import triangulate
from ups.errors import DataError
from ups.registry import load_card

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def task(trajectories: range, beta: float = 1.0, nodes: tuple[int, int] = (200, 300)) -> PointTask:
    return PointTask(trajectories, 0, (0.0,), nodes, {"beta": beta}, torch.device("cpu"))


def relative(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def test_a_manufactured_solution_is_approached_faster_than_second_order():
    """u = sin(pi x) sin(pi y) with a = 1 + x + y^2 / 2."""

    def exact(p):
        return np.sin(np.pi * p[:, 0]) * np.sin(np.pi * p[:, 1])

    def source(p):
        (sx, sy), (cx, cy) = np.sin(np.pi * p.T), np.cos(np.pi * p.T)
        a = 1 + p[:, 0] + p[:, 1] ** 2 / 2
        return 2 * np.pi**2 * a * sx * sy - np.pi * cx * sy - np.pi * p[:, 1] * sx * cy

    errors = []
    for nodes in (60, 240, 960):
        mesh = triangulate(Domain(polygon(SQUARE, 1)), nodes, np.random.default_rng(0))
        u = solve_darcy(mesh, lambda p: 1 + p[:, 0] + p[:, 1] ** 2 / 2, source, refinements=0)
        errors.append(relative(u, exact(mesh.points)))
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 4
    assert errors[2] < 1e-5


def test_a_disk_of_constant_coefficient_has_the_parabola_as_its_solution():
    """u = beta (R^2 - r^2) / (4 a); the polygon inside the circle costs second order."""
    errors = []
    for nodes in (60, 240, 960):
        mesh = triangulate(Domain(circle((0.5, 0.5), 0.5, 1)), nodes, np.random.default_rng(0))
        u = solve_darcy(mesh, lambda p: np.full(len(p), 2.0), 3.0)
        radius = np.linalg.norm(mesh.points - 0.5, axis=1)
        errors.append(relative(u, 3.0 * (0.25 - radius**2) / (4 * 2.0)))
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3
    assert errors[2] < 3e-3


@pytest.mark.parametrize("index", range(2))
def test_drawn_problems_are_converged(index):
    """The card promises 1e-3 in relative L2 for its coarsest meshes."""
    rng = np.random.default_rng([0, index, darcy2d_mesh.STREAM])
    domain, a = darcy2d_mesh.draw_domain(rng), darcy2d_mesh.draw_coefficient(rng)
    mesh = triangulate(domain, 500, rng)
    found, finer = (solve_darcy(mesh, a, 1.0, refinements=n) for n in (1, 2))
    assert relative(found, finer) < 5e-4


def test_the_solution_is_proportional_to_beta_and_the_rest_does_not_depend_on_it():
    one, ten = (next(solve(task(range(1), beta))).trajectory for beta in (1.0, 10.0))
    assert ten.fields == pytest.approx(10 * one.fields, rel=1e-5)
    assert np.array_equal(one.inputs, ten.inputs)
    assert np.array_equal(one.coords, ten.coords)


def test_a_trajectory_does_not_depend_on_its_batch():
    together = list(solve(task(range(1, 3))))
    alone = next(solve(task(range(2, 3))))
    for name in ("coords", "fields", "inputs", "cells", "tags"):
        assert np.array_equal(
            getattr(together[1].trajectory, name), getattr(alone.trajectory, name)
        ), name
    assert not np.array_equal(together[0].trajectory.coords, alone.trajectory.coords)


def test_what_is_stored_fits_the_card():
    card = load_card("darcy2d_mesh")
    for solved in solve(task(range(2))):
        found = solved.trajectory
        number = len(found.coords)
        assert 200 <= number <= 300
        assert found.coords.shape == (number, 2)
        assert found.fields.shape == (1, number, len(card.fields))
        assert found.inputs is not None
        assert found.inputs.shape == (number, len(card.inputs))
        assert (found.inputs > 0).all()
        assert {a.dtype for a in (found.coords, found.fields, found.inputs)} == {
            np.dtype(np.float32)
        }
        assert found.cells is not None
        assert found.cells.dtype == np.int32
        assert found.tags is not None
        assert set(np.unique(found.tags)) <= {0, 1, 2}
        assert (found.fields[0, found.tags > 0] == 0).all()
        assert (found.fields[0, found.tags == 0] > 0).all()  # maximum principle
        bounds = np.array([axis.bounds for axis in card.discretisation.axes])
        assert (found.coords >= bounds[:, 0]).all()
        assert (found.coords <= bounds[:, 1]).all()


def test_holes_of_a_domain_are_tagged():
    drawn = [darcy2d_mesh.draw_domain(np.random.default_rng(seed)) for seed in range(20)]
    assert {len(domain.holes) for domain in drawn} == {0, 1, 2}
    domain = next(domain for domain in drawn if len(domain.holes) == 2)
    mesh = triangulate(domain, 300, np.random.default_rng(0))
    assert set(np.unique(mesh.tags)) == {0, 1, 2}
    assert (mesh.tags == 2).sum() >= 24


def test_the_random_field_has_unit_variance_and_the_given_correlation():
    rng = np.random.default_rng(0)
    pair = np.array([[0.3, 0.4], [0.3, 0.5]])
    values = np.array([RandomField.draw(rng, 0.1)(pair) for _ in range(4000)])
    assert values.mean() == pytest.approx(0, abs=0.06)
    assert values.var() == pytest.approx(1, abs=0.08)
    assert np.corrcoef(values.T)[0, 1] == pytest.approx(np.exp(-0.5), abs=0.05)


def test_a_solution_that_is_not_finite_names_its_trajectory():
    with pytest.raises(DataError, match=r"darcy2d_mesh: trajectory 5: .* finite"):
        next(solve(task(range(5, 6), beta=float("inf"))))
