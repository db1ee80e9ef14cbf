"""Spheres with contacts: exact collisions, what is conserved, what the generator promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ups.data.generate import granular_contacts
from ups.data.generate.base import PointSolver, PointTask
from ups.data.generate.granular_contacts import (
    RADII,
    Spheres,
    damping_ratio,
    place_spheres,
    simulate,
)
from ups.errors import DataError, UsageError
from ups.registry import load_card

STILL = (0.0, 0.0, 0.0)
DOWN = (0.0, 0.0, -1.0)


def task(trajectories=range(2), nodes=(12, 20), times=(0.0, 0.02, 0.04), seed=3, **parameters):
    return PointTask(trajectories, seed, times, nodes, parameters, torch.device("cpu"))


def head_on(restitution, step, radii=RADII, time=0.01):
    """Sixteen pairs, far from each other, meet at speed 1 along slanted lines.

    Where in a step a contact begins is luck, so each pair has its own gap. Returns, per pair, the
    speed of separation and the distance of the centres less what it would be without the contact's
    duration: at `time`, had they bounced at once.
    """
    line, pairs = np.array([0.6, 0.0, 0.8]), np.arange(16)
    gaps = 0.001 + 0.0002 * np.random.default_rng(0).uniform(size=16)
    spheres = Spheres(np.repeat(radii, 16), restitution, STILL)
    aside = pairs[:, None] * np.array([0.0, 1.0, 0.0])
    start = np.concatenate([aside, aside + (sum(radii) + gaps[:, None]) * line])
    velocity = np.repeat([0.25 * line, -0.75 * line], 16, axis=0)
    x, v, _ = simulate(spheres, start, velocity, times=[time], max_step=step)
    distance = np.linalg.norm(x[0, 16:] - x[0, :16], axis=1)
    return (v[0, 16:] - v[0, :16]) @ line, distance - sum(radii) - (time - gaps)


def energy(spheres, x, v):
    """Kinetic, in gravity, and in the springs of all contacts, of one frame."""
    masses, radii, k = spheres.masses, spheres.radii, spheres.stiffness
    total = (0.5 * masses * (v**2).sum(1)).sum() - (masses * (x @ np.array(spheres.gravity))).sum()
    gap = np.linalg.norm(x[:, None] - x[None], axis=-1) - radii[:, None] - radii[None]
    total += 0.5 * k * (np.minimum(gap[np.triu_indices(len(x), 1)], 0) ** 2).sum()
    if spheres.box is not None:
        walls = np.stack([x - radii[:, None], spheres.box - x - radii[:, None]])
        total += 0.5 * k * (np.minimum(walls, 0) ** 2).sum()
    return total


def crowd(number, restitution, gravity=DOWN, box=1.0, seed=0, speed=1.0, dim=3):
    random = np.random.default_rng(seed)
    radii = random.uniform(0.06, 0.1, number)
    spheres = Spheres(radii, restitution, gravity, box)
    start = place_spheres(random, radii, dim)
    return spheres, start, random.normal(scale=speed / math.sqrt(dim), size=start.shape)


@pytest.mark.parametrize("restitution", [0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("radii", [RADII, (0.05, 0.05)])
def test_two_spheres_part_with_the_restitution_of_the_linear_dashpot(restitution, radii):
    zeta = damping_ratio(restitution)
    assert math.exp(-math.pi * zeta / math.sqrt(1 - zeta**2)) == pytest.approx(restitution)
    np.testing.assert_allclose(head_on(restitution, 2e-6, radii)[0], restitution, rtol=3e-3)


@pytest.mark.parametrize("restitution", [0.3, 0.6, 0.9, 1.0])
def test_the_default_step_keeps_the_restitution_to_a_few_percent(restitution):
    np.testing.assert_allclose(head_on(restitution, None)[0], restitution, rtol=0.08)


def test_without_damping_a_collision_is_half_a_sine_and_the_error_falls_with_the_step_squared():
    spheres = Spheres(np.array(RADII), 1.0, STILL)
    reduced = 1 / (1 / spheres.masses).sum()
    contact = math.pi * math.sqrt(reduced / spheres.stiffness)
    late = np.array([head_on(1.0, step)[1] + contact for step in (8e-5, 2e-5, 5e-6)])
    errors = np.abs(late).mean(1)
    assert errors[-1] < 1e-7
    assert (np.log2(errors[:-1] / errors[1:]) / 2 > 1.7).all()


def test_with_damping_the_error_falls_at_least_with_the_step():
    def error(step):
        return np.mean([np.abs(head_on(e, step)[0] / e - 1).mean() for e in (0.3, 0.6, 0.9)])

    assert np.log2(error(8e-5) / error(2.5e-6)) / 5 > 0.9


@pytest.mark.parametrize("restitution", [0.3, 0.8, 1.0])
def test_a_wall_gives_back_the_same_share_of_the_speed(restitution):
    spheres = Spheres(np.array([0.05]), restitution, STILL, box=1.0)
    start, velocity = np.array([[0.949, 0.5, 0.5]]), np.array([[1.0, 0.1, 0.0]])
    _, v, _ = simulate(spheres, start, velocity, times=[0.008], max_step=2e-6)
    np.testing.assert_allclose(v[0, 0], [-restitution, 0.1, 0.0], rtol=3e-3, atol=1e-12)


def test_free_fall_is_exact():
    spheres = Spheres(np.array([0.05, 0.04]), 0.5, DOWN, box=1.0)
    start = np.array([[0.3, 0.3, 0.9], [0.7, 0.7, 0.8]])
    velocity = np.array([[0.1, 0.0, 0.0], [0.0, -0.2, 0.3]])
    x, v, overlap = simulate(spheres, start, velocity, times=[0.0, 0.37, 0.8])
    for frame, time in enumerate([0.0, 0.37, 0.8]):
        expected = start + velocity * time + 0.5 * np.array(DOWN) * time**2
        np.testing.assert_allclose(x[frame], expected, atol=1e-12)
        np.testing.assert_allclose(v[frame], velocity + np.array(DOWN) * time, atol=1e-12)
    assert overlap == 0


@pytest.mark.parametrize(("dim", "number"), [(2, 15), (3, 60)])
def test_without_walls_and_gravity_momentum_is_kept_and_energy_is_not_gained(dim, number):
    spheres, start, _ = crowd(number, 0.7, gravity=(0.0,) * dim, box=None, dim=dim)
    inwards = 0.5 - start
    x, v, overlap = simulate(spheres, start, inwards, times=[0.0, 0.4, 0.8])
    momentum = (spheres.masses[:, None] * v).sum(1)
    np.testing.assert_allclose(momentum, np.broadcast_to(momentum[0], momentum.shape), atol=1e-15)
    spin = np.einsum("n,tni,tnj->tij", spheres.masses, x, v)
    spin -= spin.swapaxes(1, 2)
    np.testing.assert_allclose(spin, np.broadcast_to(spin[0], spin.shape), atol=1e-14)
    energies = [energy(spheres, *frame) for frame in zip(x, v, strict=True)]
    assert overlap > 0
    assert energies[2] < energies[1] < 0.99 * energies[0]


def test_with_restitution_one_energy_is_kept_through_many_collisions():
    spheres, start, velocity = crowd(40, 1.0)
    x, v, overlap = simulate(spheres, start, velocity, times=[0.0, 0.3, 0.6])
    energies = np.array([energy(spheres, *frame) for frame in zip(x, v, strict=True)])
    assert overlap > 0.01
    np.testing.assert_allclose(energies, energies[0], rtol=1e-4)


def test_a_sphere_at_rest_sinks_in_by_its_weight_over_the_stiffness():
    spheres = Spheres(np.array([0.06]), 0.3, DOWN, box=1.0)
    x, v, _ = simulate(spheres, np.array([[0.5, 0.5, 0.06]]), np.zeros((1, 3)), times=[0.05])
    assert 0.06 - x[0, 0, 2] == pytest.approx(spheres.masses[0] / spheres.stiffness, rel=1e-3)
    assert np.abs(v).max() < 1e-6


def test_all_spheres_stay_in_the_box_and_overlap_little_while_they_fall():
    times = tuple(np.linspace(0, 1.8, 10).tolist())
    (solved,) = granular_contacts.solve(task(range(1), (40, 40), times, restitution=0.3))
    x, radius = solved.trajectory.coords.astype(np.float64), solved.trajectory.inputs[:, 0]
    allowed = granular_contacts.MAX_OVERLAP * radius
    assert (np.minimum(x, 1 - x).min(-1) > radius - allowed).all()
    gap = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1) - radius[:, None] - radius[None]
    gap += 1e9 * np.eye(len(radius))
    assert (gap > -np.minimum(allowed[:, None], allowed[None])).all()
    height, speed = x[..., 2].mean(1), np.linalg.norm(solved.trajectory.fields, axis=-1).mean(1)
    assert height[-1] < 0.15 < 0.4 < height[0]
    assert speed[-1] < 0.35 * speed.max()


def test_the_longest_step_and_stiffness_follow_from_the_design():
    spheres = Spheres(np.array(RADII), 1.0, STILL)
    radius = RADII[1]
    pair = Spheres(np.array([radius, radius]), 1.0, STILL)
    start = np.array([[0.0, 0, 0], [2 * radius + 0.001, 0, 0]])
    velocity = np.array([[granular_contacts.FASTEST_APPROACH, 0, 0], STILL])
    _, _, overlap = simulate(pair, start, velocity, times=[0.01], max_step=1e-6)
    assert overlap == pytest.approx(granular_contacts.DESIGN_OVERLAP, rel=1e-3)
    smallest = math.pi * math.sqrt(spheres.masses[0] / 2 / spheres.stiffness)
    assert spheres.longest_step() == pytest.approx(smallest / granular_contacts.STEPS_PER_CONTACT)


def test_spheres_are_placed_apart_and_inside():
    random = np.random.default_rng(0)
    radii = random.uniform(*RADII, load_card("granular_contacts").discretisation.nodes[1])
    x = place_spheres(random, radii)
    gap = np.linalg.norm(x[:, None] - x[None], axis=-1) - radii[:, None] - radii[None]
    assert gap[np.triu_indices(len(x), 1)].min() >= 0
    assert (np.minimum(x, 1 - x).min(1) >= radii).all()


def test_too_many_spheres_are_refused():
    with pytest.raises(UsageError, match=r"nodes: 80 spheres .* do not fit"):
        place_spheres(np.random.default_rng(0), np.full(80, 0.15))


def test_stored_frames_fit_the_card():
    card = load_card("granular_contacts")
    assert isinstance(granular_contacts.solve, PointSolver)
    assert card.parameters[0].range == granular_contacts.RESTITUTION
    assert {axis.bounds for axis in card.discretisation.axes} == {(0.0, granular_contacts.BOX)}
    for solved in granular_contacts.solve(task()):
        found = solved.trajectory
        assert found.coords.shape == found.fields.shape == (3, len(found.coords[0]), 3)
        assert len(card.fields) == card.num_dims == 3
        assert 12 <= len(found.coords[0]) <= 20
        assert found.inputs.shape == (len(found.coords[0]), len(card.inputs))
        assert found.coords.dtype == found.fields.dtype == found.inputs.dtype == np.float32
        assert RADII[0] <= found.inputs.min() < found.inputs.max() <= RADII[1]
        low, high = card.parameters[0].range
        assert low <= solved.drawn["restitution"] <= high
        assert set(solved.drawn) == set(card.generator.drawn)


def test_a_trajectory_depends_on_seed_and_number_alone():
    whole = list(granular_contacts.solve(task()))
    (again,) = granular_contacts.solve(task(range(1, 2)))
    (other,) = granular_contacts.solve(task(range(1, 2), seed=4))
    np.testing.assert_array_equal(whole[1].trajectory.fields, again.trajectory.fields)
    np.testing.assert_array_equal(whole[1].trajectory.coords, again.trajectory.coords)
    assert whole[1].drawn == again.drawn != other.drawn
    assert whole[0].drawn != whole[1].drawn


def test_the_same_start_serves_every_restitution():
    one, other = (
        next(granular_contacts.solve(task(range(1), restitution=value))) for value in (0.4, 1.0)
    )
    assert (one.drawn["restitution"], other.drawn["restitution"]) == (0.4, 1.0)
    np.testing.assert_array_equal(one.trajectory.fields[0], other.trajectory.fields[0])
    np.testing.assert_array_equal(one.trajectory.inputs, other.trajectory.inputs)


@pytest.mark.parametrize("restitution", [0.0, -0.5, 1.01, math.nan])
def test_a_restitution_without_meaning_is_named(restitution):
    with pytest.raises(UsageError, match="parameter restitution="):
        next(granular_contacts.solve(task(restitution=restitution)))


def test_steps_that_are_too_long_name_the_trajectory(monkeypatch):
    monkeypatch.setattr(granular_contacts, "STEPS_PER_CONTACT", 0.05)
    times = tuple(0.1 * index for index in range(21))
    with pytest.raises(DataError, match="trajectory 4: "):
        list(granular_contacts.solve(task(range(4, 5), (60, 60), times, restitution=0.9)))


def test_what_does_not_stay_finite_is_said(monkeypatch):
    def lost(spheres, start, velocities, *, times):
        return np.full((len(times), *start.shape), np.nan), velocities[None], 0.0

    monkeypatch.setattr(granular_contacts, "simulate", lost)
    with pytest.raises(DataError, match="trajectory 1: the solution did not stay finite"):
        next(granular_contacts.solve(task(range(1, 2))))


def test_an_unstable_run_ends_with_frames_of_nan_instead_of_a_warning():
    spheres, start, velocity = crowd(40, 0.9)
    x, v, _ = simulate(spheres, start, 1e160 * velocity, times=[0.0, 1.0, 50.0], max_step=0.05)
    assert np.isfinite(x[0]).all()
    assert np.isnan(x[-1]).all()
    assert np.isnan(v[-1]).all()


@pytest.mark.parametrize("times", [(), (0.1, 0.1), (-0.1, 0.0)])
def test_times_that_do_not_rise_are_refused(times):
    with pytest.raises(ValueError, match="times must rise"):
        next(granular_contacts.solve(task(times=times)))
