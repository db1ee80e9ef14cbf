"""The flow solver against exact solutions, and the channel flows the card promises."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ups.data.generate import navier_stokes_mesh as channels
from ups.data.generate.base import PointTask
from ups.data.generate.domains import Domain, polygon
from ups.data.generate.taylor_hood import EXTRAPOLATION, FlowSolver
from ups.data.generate.triangulations import Triangulation, triangulate
from ups.errors import DataError, UsageError
from ups.registry import load_card

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
VISCOSITY = 0.05
SHORT = {"RAMP": 0.05, "PULSE": (0.02, 0.04), "START_UP": (0.06, 0.08)}


def unit_square(nodes: int) -> Triangulation:
    return triangulate(Domain(polygon(SQUARE, 1)), nodes, np.random.default_rng(0))


def vortices(places, time):
    """Decaying Taylor-Green vortices, an exact solution of the Navier-Stokes equations."""
    x, y = 2 * np.pi * places.T
    decay = np.exp(-2 * VISCOSITY * (2 * np.pi) ** 2 * time)
    return decay * np.stack([np.sin(x) * np.cos(y), -np.cos(x) * np.sin(y)], 1)


def vortex_errors(mesh: Triangulation, step: float, end: float = 0.1) -> tuple[float, float]:
    """Relative L2 errors of velocity and pressure."""
    solver = FlowSolver(mesh, viscosity=VISCOSITY, time_step=step, dirichlet=[1])
    places = solver.places
    state = solver.start(vortices(places, 0), vortices(places, -step))
    for number in range(round(end / step)):
        state = solver.step(state, vortices(places[solver.given], (number + 1) * step))
    truth = vortices(places, end)
    x, y = 2 * np.pi * mesh.points.T
    pressure = np.exp(-4 * VISCOSITY * (2 * np.pi) ** 2 * end) * (np.cos(2 * x) + np.cos(2 * y)) / 4
    pressure -= pressure.mean()
    return (
        float(np.linalg.norm(state.velocity - truth) / np.linalg.norm(truth)),
        float(np.linalg.norm(state.pressure - pressure) / np.linalg.norm(pressure)),
    )


@pytest.fixture
def quick(monkeypatch):
    """A start-up of hundredths instead of units of time: the flow does not develop."""
    for name, value in SHORT.items():
        monkeypatch.setattr(channels, name, value)


def task(trajectories: range, **parameters: float) -> PointTask:
    times = tuple(0.02 * frame for frame in range(3))
    return PointTask(trajectories, 0, times, (500, 550), parameters, torch.device("cpu"))


def test_taylor_green_converges_in_space_velocity_third_order_pressure_second():
    coarse, fine = (vortex_errors(unit_square(nodes), 0.002) for nodes in (100, 400))
    assert fine[0] < coarse[0] / 7
    assert fine[1] < coarse[1] / 3
    assert fine[0] < 5e-4
    assert fine[1] < 0.05


def test_taylor_green_converges_in_time_with_second_order():
    mesh = unit_square(900)
    errors = [vortex_errors(mesh, step)[0] for step in (0.02, 0.01)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)


def test_extrapolation_is_second_order_and_stable_for_pure_waves():
    """u' = i w u with BDF2: no root of the characteristic polynomial beyond the unit circle."""
    assert sum(EXTRAPOLATION) == pytest.approx(1)
    assert -EXTRAPOLATION[1] - 2 * EXTRAPOLATION[2] == pytest.approx(1)
    implicit = np.array([1.5, -2, 0.5, 0], dtype=complex)
    for wave in np.linspace(0.02, 0.7, 35):
        explicit = 1j * wave * np.array([0, *EXTRAPOLATION])
        assert np.abs(np.roots(implicit - explicit)).max() < 1 + 1e-9


def test_the_velocity_has_no_divergence_against_any_pressure_function():
    mesh = unit_square(200)
    solver = FlowSolver(mesh, viscosity=VISCOSITY, time_step=0.01, dirichlet=[1])
    state = solver.start(*(vortices(solver.places, t) for t in (0, -0.01)))
    start = solver.divergence_residual(state.velocity)
    state = solver.step(state, vortices(solver.places[solver.given], 0.01))
    assert start > 1e-6  # interpolation alone does not see to it
    assert solver.divergence_residual(state.velocity) < 1e-12


def test_a_channel_without_obstacle_carries_its_parabola_to_rounding():
    """Poiseuille flow is in the space: it stays as it is, with p falling linearly to 0."""
    corners = np.array([[0, 0], [1.2, 0], [1.2, channels.HEIGHT], [0, channels.HEIGHT]])
    domain = Domain(polygon(corners, [3, 2, 3, 1]))
    mesh = triangulate(domain, 150, np.random.default_rng(0))
    solver = FlowSolver(mesh, viscosity=0.01, time_step=0.005, dirichlet=(1, 3))
    y = solver.places[:, 1]
    exact = np.stack([6 * y * (channels.HEIGHT - y) / channels.HEIGHT**2, 0 * y], 1)
    state = solver.start(exact, exact)
    for _ in range(20):
        state = solver.step(state, exact[solver.given])
    assert np.abs(state.velocity - exact).max() < 1e-10
    slope = 12 * 0.01 / channels.HEIGHT**2
    assert state.pressure == pytest.approx(slope * (1.2 - mesh.points[:, 0]), abs=1e-9)


def test_force_on_the_walls_balances_the_pressure_drop():
    """Steady Poiseuille flow: friction on both walls = pressure drop x height."""
    corners = np.array([[0, 0], [1, 0], [1, channels.HEIGHT], [0, channels.HEIGHT]])
    mesh = triangulate(Domain(polygon(corners, [3, 2, 3, 1])), 150, np.random.default_rng(0))
    solver = FlowSolver(mesh, viscosity=0.01, time_step=0.005, dirichlet=(1, 3))
    y = solver.places[:, 1]
    exact = np.stack([6 * y * (channels.HEIGHT - y) / channels.HEIGHT**2, 0 * y], 1)
    state = solver.step(solver.start(exact, exact), exact[solver.given])
    on_walls = np.flatnonzero(np.isclose(y, 0) | np.isclose(y, channels.HEIGHT))
    drop = 12 * 0.01 / channels.HEIGHT**2 * channels.HEIGHT
    # The corners of the inflow belong to the walls and take a share of its pressure.
    assert solver.force(state, on_walls)[0] == pytest.approx(drop, rel=0.1)
    assert np.abs(solver.force(state, solver.given)).max() < 1e-9  # what flows in flows out


def test_what_is_stored_fits_the_card(quick):
    card = load_card("navier_stokes_mesh")
    for solved in channels.solve(task(range(2))):
        found = solved.trajectory
        number = len(found.coords)
        assert 500 <= number <= 550
        assert found.fields.shape == (3, number, len(card.fields))
        assert found.fields.dtype == found.coords.dtype == np.dtype(np.float32)
        assert found.inputs is None
        assert found.tags is not None
        assert set(np.unique(found.tags)) == {0, 1, 2, 3, 4}
        still = np.isin(found.tags, (channels.WALL, channels.OBSTACLE))
        assert (found.fields[:, still, :2] == 0).all()
        inflow = found.tags == channels.INFLOW
        y = found.coords[inflow, 1]
        parabola = 6 * y * (channels.HEIGHT - y) / channels.HEIGHT**2
        assert found.fields[-1, inflow, 0] == pytest.approx(parabola, rel=1e-5)
        assert (found.fields[-1, inflow, 1] == 0).all()
        assert set(solved.drawn) == set(card.generator.drawn if card.generator else ())
        for parameter in card.parameters:
            low, high = parameter.range
            assert low <= solved.drawn[parameter.name] <= high


def test_a_trajectory_does_not_depend_on_its_batch(quick):
    together = list(channels.solve(task(range(2))))
    alone = next(channels.solve(task(range(1, 2))))
    assert np.array_equal(together[1].trajectory.fields, alone.trajectory.fields)
    assert np.array_equal(together[1].trajectory.cells, alone.trajectory.cells)
    assert together[1].drawn == alone.drawn != together[0].drawn


def test_a_given_reynolds_number_is_used_and_changes_nothing_else(quick):
    free, fixed = (next(channels.solve(task(range(1), **p))) for p in ({}, {"reynolds": 90.0}))
    assert fixed.drawn["reynolds"] == 90.0
    assert np.array_equal(free.trajectory.coords, fixed.trajectory.coords)
    assert fixed.drawn["viscosity"] * 90 == pytest.approx(
        free.drawn["viscosity"] * free.drawn["reynolds"]
    )


def test_obstacles_keep_their_distance_and_lie_in_the_channel():
    numbers = set()
    for seed in range(60):
        channel = channels.draw_channel(np.random.default_rng(seed))
        numbers.add(len(channel.obstacles))
        for obstacle in channel.obstacles:
            assert obstacle.points[:, 1].min() > 0.06
            assert obstacle.points[:, 1].max() < channels.HEIGHT - 0.06
            assert obstacle.points[:, 0].min() > 0.1
            assert obstacle.points[:, 0].max() < 1.5
        for one, other in itertools.combinations(channel.obstacles, 2):
            gaps = np.linalg.norm(one.points[:, None] - other.points, axis=-1)
            assert gaps.min() > 0.08
    assert numbers == {1, 2, 3}


def test_the_inflow_rises_smoothly_from_rest_and_its_mean_is_one():
    channel = channels.draw_channel(np.random.default_rng(0))
    y = (np.arange(1000) + 0.5) / 1000 * channels.HEIGHT
    late = channel.inflow(y, 2.0)
    assert late[:, 0].mean() == pytest.approx(1, rel=1e-5)
    assert (late[:, 1] == 0).all()
    assert (channel.inflow(y, 0.0) == 0).all()
    assert np.abs(channel.inflow(y, 0.01)).max() < 1e-4
    middle = sum(channels.PULSE) / 2
    assert np.abs(channel.inflow(y, middle)[:, 1]).max() == pytest.approx(abs(channel.pulse), 1e-3)


def test_a_flow_that_blows_up_names_its_trajectory(quick, monkeypatch):
    monkeypatch.setattr(channels, "FASTEST", 0.5)
    with pytest.raises(DataError, match=r"navier_stokes_mesh: trajectory 3: .* bounded"):
        next(channels.solve(task(range(3, 4))))


def test_uneven_frame_times_are_refused():
    uneven = replace(task(range(1)), times=(0.0, 0.02, 0.05))
    with pytest.raises(UsageError, match=r"times: steps between 0.02 and 0.03"):
        next(channels.solve(uneven))


@pytest.mark.slow
def test_the_vortex_street_behind_a_cylinder_has_the_benchmarks_frequency():
    """DFG benchmark 2D-2, Re = 100: Strouhal number 0.295 to 0.305."""
    angle = np.linspace(0, 2 * math.pi, 256, endpoint=False)
    circle = channels.Obstacle(0.2 + 0.05 * np.stack([np.cos(angle), np.sin(angle)], 1))
    channel = channels.Channel((circle,), reynolds=100.0, pulse=0.3, start=4.0)
    mesh = triangulate(channel.domain(), 1000, np.random.default_rng(0), size=channel.size)
    times = [0.02 * frame for frame in range(100)]
    frames = channels.solve_channel(channel, mesh, times, where="benchmark")
    behind = np.argmin(np.linalg.norm(mesh.points - [0.5, 0.2], axis=1))
    signal = frames[:, behind, 1] - frames[:, behind, 1].mean()
    rising = np.flatnonzero((signal[:-1] < 0) & (signal[1:] >= 0))
    crossing = 0.02 * (rising - signal[rising] / (signal[rising + 1] - signal[rising]))
    strouhal = 0.1 * (len(crossing) - 1) / (crossing[-1] - crossing[0])
    assert 0.285 < strouhal < 0.31
