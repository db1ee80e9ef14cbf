"""Particles in a flow against exact solutions, and what the generator promises of its output."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from ups.data.conversion.neighbours import radius_neighbours
from ups.data.generate import particles_advect
from ups.data.generate.base import PointSolver, PointTask
from ups.data.generate.particles_advect import FourierFlow, advect, random_flow
from ups.errors import DataError, UsageError
from ups.registry import load_card

FRAMES = tuple(0.02 * index for index in range(6))


def task(trajectories=range(3), nodes=(30, 40), times=FRAMES, seed=7, **parameters):
    values = {"unsteadiness": 2.0, **parameters}
    return PointTask(trajectories, seed, times, nodes, values, torch.device("cpu"))


def flow_of(seed, unsteadiness=2.0):
    return random_flow(np.random.default_rng(seed), unsteadiness)


def grid(points):
    axis = np.arange(points) / points
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)


@pytest.mark.parametrize("stokes", [1e-3, 0.1, 10.0])
def test_in_a_uniform_flow_velocities_relax_exactly_in_steps_of_any_length(stokes):
    wind = np.array([0.7, -0.2])
    place, velocity = np.random.default_rng(0).normal(size=(2, 5, 2))
    found = advect(lambda x, t: np.broadcast_to(wind, x.shape), place, velocity,
                   stokes=stokes, times=[0.0, 0.5, 2.0], max_step=1.0)  # fmt: skip
    for x, v, time in zip(found[0], found[1], [0.0, 0.5, 2.0], strict=True):
        left = math.exp(-time / stokes)
        np.testing.assert_allclose(v, wind + left * (velocity - wind), atol=1e-13)
        expected = place + wind * time + stokes * (1 - left) * (velocity - wind)
        np.testing.assert_allclose(x, expected, atol=1e-13)


@pytest.mark.parametrize("stokes", [0.0, 0.3])
def test_in_solid_body_rotation_the_error_falls_with_the_fourth_power_of_the_step(stokes):
    turn = 2.0 * np.array([[0.0, -1.0], [1.0, 0.0]])
    place, velocity = np.array([[0.3, 0.1]]), np.array([[0.5, -0.4]])
    if stokes:
        matrix = np.block([[np.zeros((2, 2)), np.eye(2)], [turn / stokes, -np.eye(2) / stokes]])
        exact = (expm(matrix) @ np.concatenate([place[0], velocity[0]]))[:2]
    else:
        exact = expm(turn) @ place[0]
    errors = []
    for step in (0.1, 0.05, 0.025):
        x, _, _ = advect(lambda x, t: x @ turn.T, place, velocity,
                         stokes=stokes, times=[1.0], max_step=step)  # fmt: skip
        errors.append(np.abs(x[0, 0] - exact).max())
    assert errors[-1] < 1e-6
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 3.7).all()
    assert (orders < 4.6).all()


def test_tracers_in_a_shear_flow_move_along_straight_lines():
    def shear(x, t):
        return np.stack([np.sin(2 * math.pi * x[:, 1]), np.zeros(len(x))], axis=1)

    start = np.random.default_rng(1).uniform(size=(20, 2))
    x, _, _ = advect(shear, start, np.zeros_like(start), stokes=0.0, times=[3.0])
    np.testing.assert_allclose(x[0], start + 3.0 * shear(start, 0.0), atol=1e-12)


def test_tracers_of_a_steady_flow_stay_on_their_streamline():
    flow = flow_of(2, unsteadiness=0.0)
    start = np.random.default_rng(2).uniform(size=(50, 2))
    x, v, _ = advect(flow, start, flow(start, 0.0), stokes=0.0, times=[2.0])
    before, after = flow.streamfunction(start, 0.0), flow.streamfunction(x[0], 2.0)
    assert np.abs(x[0] - start).max() > 0.1
    assert np.abs(after - before).max() < 1e-4 * np.abs(before).max()
    np.testing.assert_array_equal(v[0], flow(x[0], 2.0))


def test_little_inertia_parts_particles_from_tracers_in_proportion():
    flow = flow_of(3)
    start = np.random.default_rng(3).uniform(size=(50, 2))

    def end(stokes):
        return advect(flow, start, flow(start, 0.0), stokes=stokes, times=[0.2])[0][0]

    gaps = [np.abs(end(stokes) - end(0.0)).mean() for stokes in (4e-4, 2e-4)]
    assert 1.8 < gaps[0] / gaps[1] < 2.2


@pytest.mark.parametrize("stokes", [0.0, 0.01, 0.2])
def test_the_default_step_is_fine_enough(stokes):
    flow = flow_of(4)
    start = np.random.default_rng(4).uniform(size=(40, 2))
    coarse, fine = (
        advect(flow, start, flow(start, 0.0), stokes=stokes, times=[0.5], max_step=step)[0]
        for step in (particles_advect.MAX_STEP, particles_advect.MAX_STEP / 4)
    )
    assert np.abs(coarse - fine).max() < 2e-5


@pytest.mark.parametrize("time", [0.0, 3.7])
def test_the_flow_has_unit_rms_speed_no_mean_and_no_divergence_at_all_times(time):
    flow, points = flow_of(5), grid(24)
    velocity = flow(points, time)
    assert (velocity**2).sum(1).mean() == pytest.approx(1.0, rel=1e-12)
    np.testing.assert_allclose(velocity.mean(0), 0.0, atol=1e-13)
    step = 1e-5 * np.eye(2)
    by_axis = [(flow(points + e, time) - flow(points - e, time)) / 2e-5 for e in step]
    assert np.abs(by_axis[0][:, 0] + by_axis[1][:, 1]).max() < 1e-7
    assert np.abs(by_axis[0][:, 0]).max() > 1.0


def test_the_flow_is_the_curl_of_its_streamfunction_and_periodic():
    flow, points, step = flow_of(6), grid(10) + 0.03, 1e-5 * np.eye(2)
    by_x, by_y = (
        (flow.streamfunction(points + e, 0.4) - flow.streamfunction(points - e, 0.4)) / 2e-5
        for e in step
    )
    np.testing.assert_allclose(flow(points, 0.4), np.stack([by_y, -by_x], axis=1), atol=1e-7)
    np.testing.assert_allclose(flow(points + np.array([1, -2]), 0.4), flow(points, 0.4), atol=1e-12)


def test_a_single_wave_is_the_one_written_down():
    coefficients, frequencies = np.zeros((3, 5), dtype=complex), np.full((3, 5), 0.7)
    coefficients[2, 1] = 0.5  # k = (2, -1)
    x = np.random.default_rng(0).uniform(size=(9, 2))
    phase = 2 * math.pi * (2 * x[:, 0] - x[:, 1]) + 0.7 * 1.3
    found = FourierFlow(coefficients, frequencies)(x, 1.3)
    expected = math.pi * np.stack([np.sin(phase), 2 * np.sin(phase)], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_stored_frames_fit_the_card():
    card = load_card("particles_advect")
    assert isinstance(particles_advect.solve, PointSolver)
    assert card.parameters[0].range == particles_advect.STOKES
    assert {axis.bounds for axis in card.discretisation.axes} == {(0.0, particles_advect.BOX)}
    for solved in particles_advect.solve(task()):
        coords, fields = solved.trajectory.coords, solved.trajectory.fields
        assert coords.shape == (6, len(coords[0]), card.num_dims)
        assert 30 <= len(coords[0]) <= 40
        assert fields.shape == (*coords.shape[:2], len(card.fields))
        assert coords.dtype == fields.dtype == np.float32
        assert coords.min() >= 0
        assert coords.max() < 1
        assert set(solved.drawn) == set(card.generator.drawn)
        assert particles_advect.STOKES[0] <= solved.drawn["stokes"] <= particles_advect.STOKES[1]
        np.testing.assert_array_equal(fields[0, :, :2], fields[0, :, 2:])


def test_stored_velocities_are_those_of_the_wrapped_positions():
    for solved in particles_advect.solve(task(times=tuple(0.002 * i for i in range(100)))):
        coords = solved.trajectory.coords.astype(np.float64)
        velocity = solved.trajectory.fields[..., :2].astype(np.float64)
        moved = np.diff(coords, axis=0)
        assert np.abs(moved).max() > 0.9, "nobody crossed a side: the test says nothing"
        moved -= np.round(moved)
        np.testing.assert_allclose(moved, 0.001 * (velocity[1:] + velocity[:-1]), atol=5e-6)


def test_a_particle_a_hair_below_zero_is_stored_inside_the_box():
    place = np.array([[[-1e-12, 1.0], [2.5, -0.25]]])
    stored = particles_advect._stored(place, np.zeros_like(place), np.zeros_like(place))
    np.testing.assert_array_equal(stored.coords, [[[0.0, 0.0], [0.5, 0.75]]])


def test_the_card_gives_a_particle_eight_to_twenty_neighbours():
    card = load_card("particles_advect")
    end = (card.time.frames - 1) * card.time.step
    stokes = float(np.mean(card.parameters[0].range))
    for nodes in card.discretisation.nodes:
        one = task(range(1), (nodes, nodes), times=(0.0, end), stokes=stokes)
        (solved,) = particles_advect.solve(one)
        for coords in solved.trajectory.coords:
            edges = radius_neighbours(coords, card.discretisation.neighbour_radius, (1.0, 1.0))
            assert 7.5 < len(edges) / nodes < 20


def test_a_trajectory_depends_on_seed_and_number_alone():
    whole = list(particles_advect.solve(task()))
    (again,) = particles_advect.solve(task(range(2, 3)))
    (other,) = particles_advect.solve(task(range(2, 3), seed=8))
    np.testing.assert_array_equal(whole[2].trajectory.fields, again.trajectory.fields)
    np.testing.assert_array_equal(whole[2].trajectory.coords, again.trajectory.coords)
    assert whole[2].drawn == again.drawn != other.drawn
    assert whole[1].drawn != whole[2].drawn


def test_the_same_flow_and_start_serve_every_stokes_number():
    (free,) = particles_advect.solve(task(range(1)))
    (tracers,) = particles_advect.solve(task(range(1), stokes=0.0))
    (heavy,) = particles_advect.solve(task(range(1), stokes=0.05))
    assert (tracers.drawn["stokes"], heavy.drawn["stokes"]) == (0.0, 0.05)
    for one in (tracers, heavy):
        np.testing.assert_array_equal(one.trajectory.fields[0], free.trajectory.fields[0])
    np.testing.assert_array_equal(*np.split(tracers.trajectory.fields, 2, axis=-1))
    assert np.abs(np.subtract(*np.split(heavy.trajectory.fields, 2, axis=-1))).max() > 0.01


@pytest.mark.parametrize("parameters", [{"stokes": -0.1}, {"unsteadiness": math.nan}])
def test_parameters_without_meaning_are_named(parameters):
    with pytest.raises(UsageError, match=f"parameter {next(iter(parameters))}="):
        next(particles_advect.solve(task(**parameters)))


def test_what_does_not_stay_finite_names_the_trajectory():
    with pytest.raises(DataError, match="trajectory 5: the solution did not stay finite"):
        next(particles_advect.solve(task(range(5, 6), unsteadiness=1e308)))


@pytest.mark.parametrize("times", [(), (0.1, 0.1), (-0.1, 0.0)])
def test_times_that_do_not_rise_are_refused(times):
    with pytest.raises(ValueError, match="times must rise"):
        next(particles_advect.solve(task(times=times)))
