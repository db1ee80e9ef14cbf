"""Paths and samplers against Gaussian data, where the exact velocity is known."""

from __future__ import annotations

import math

import pytest
import torch

from ups.config.stages import TauConfig
from ups.models.flow import Path, draw_tau, integrate, normal, seeded, trajectory

OBJECTIVES = ("flow", "diffusion")
each_objective = pytest.mark.parametrize("objective", OBJECTIVES)
MEAN, DEVIATION = 0.7, 0.2


def sample(*shape, seed=0):
    return normal(shape, seeded(seed), "cpu").double()


def exact(path, mean=MEAN, deviation=DEVIATION):
    """E[target | x] for data that are normal with this mean and deviation."""

    def output(x, tau):
        alpha, sigma, alpha_rate, sigma_rate = path.coefficients(tau)
        variance = alpha**2 * deviation**2 + sigma**2
        covariance = alpha * alpha_rate * deviation**2 + sigma * sigma_rate
        return alpha_rate * mean + covariance / variance * (x - alpha * mean)

    return output


@each_objective
def test_the_sampler_reproduces_mean_and_deviation_of_gaussian_data(objective):
    path = Path(objective)
    output = exact(path)
    noise = sample(4000, 1, 1)
    found = integrate(lambda x, tau: path.velocity(output(x, tau)), noise, 64)
    torch.testing.assert_close(found, MEAN + DEVIATION * noise, rtol=0, atol=2e-3)


@each_objective
def test_heun_is_of_second_order_and_euler_of_first(objective):
    path, noise = Path(objective), sample(50, 1, 1)
    output = exact(path)

    def error(steps, method):
        found = integrate(lambda x, t: path.velocity(output(x, t)), noise, steps, method=method)
        return (found - MEAN - DEVIATION * noise).square().mean().sqrt().item()

    for method, order in (("euler", 1), ("heun", 2)):
        assert math.log2(error(32, method) / error(64, method)) == pytest.approx(order, abs=0.35)


@each_objective
def test_the_target_is_the_derivative_along_the_path(objective):
    path, data, noise = Path(objective), sample(3, 2, 2), sample(3, 2, 2, seed=1)
    tau, small = torch.tensor([0.1, 0.5, 0.9]).double(), 1e-6
    later, before = (path.corrupt(data, noise, tau + h) for h in (small, -small))
    target = path.target(data, noise, tau)
    torch.testing.assert_close((later - before) / (2 * small), path.velocity(target))


@each_objective
def test_ends_of_the_path_are_noise_and_data(objective):
    path, data, noise = Path(objective), sample(3, 2, 2), sample(3, 2, 2, seed=1)
    torch.testing.assert_close(path.corrupt(data, noise, torch.zeros(3).double()), noise)
    torch.testing.assert_close(path.corrupt(data, noise, torch.ones(3).double()), data)


@each_objective
def test_data_are_read_off_the_target_and_at_time_zero_are_the_mean(objective):
    path, data, noise = Path(objective), sample(5, 2, 2), sample(5, 2, 2, seed=1)
    tau = torch.linspace(0, 1, 5).double()
    x = path.corrupt(data, noise, tau)
    torch.testing.assert_close(path.data(path.target(data, noise, tau), x, tau), data)
    start = torch.zeros(5).double()
    mean = path.data(exact(path)(noise, start), noise, start)
    torch.testing.assert_close(mean, torch.full_like(mean, MEAN))


@each_objective
def test_the_linear_guess_is_the_exact_velocity_of_standard_normal_data(objective):
    path, x = Path(objective), sample(5, 2, 2)
    tau = torch.linspace(0, 1, 5).double()
    expected = exact(path, mean=0, deviation=1)(x, tau)
    torch.testing.assert_close(path.gaussian(tau) * x, expected)


def test_both_objectives_lead_the_same_noise_to_the_same_sample():
    noise = sample(100, 1, 1)
    ends = []
    for objective in OBJECTIVES:
        path = Path(objective)
        output = exact(path)
        ends.append(integrate(lambda x, t, p=path, o=output: p.velocity(o(x, t)), noise, 128))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=2e-3)


def test_a_trajectory_holds_its_ends_and_the_slopes_at_its_points():
    noise = sample(3, 1, 1)
    points, slopes = trajectory(lambda x, tau: x * tau[:, None, None], noise, 4, method="euler")
    assert (len(points), len(slopes)) == (5, 4)
    assert torch.equal(points[0], noise)
    for index, (x, slope) in enumerate(zip(points, slopes, strict=False)):
        torch.testing.assert_close(slope, x * index / 4)
        torch.testing.assert_close(points[index + 1], x + slope / 4)
    with pytest.raises(ValueError, match="at least 1, found 0"):
        integrate(lambda x, tau: x, noise, 0)


def test_uniform_times_fill_the_interval_evenly_and_beta_times_follow_their_law():
    uniform = draw_tau(TauConfig(), 64, seeded(0))
    assert (uniform.sort().values * 64).floor().tolist() == list(range(64))
    assert not torch.equal(uniform, uniform.sort().values)
    drawn = draw_tau(TauConfig(kind="beta", alpha=2.0, beta=1.0), 20000, seeded(0))
    assert drawn.mean().item() == pytest.approx(2 / 3, abs=0.01)
    assert drawn.var().item() == pytest.approx(1 / 18, abs=0.002)


@pytest.mark.parametrize("kind", ["uniform", "beta"])
def test_times_depend_on_their_generator_alone(kind):
    config = TauConfig(kind=kind, alpha=1.5, beta=1.0)
    torch.manual_seed(1)
    one = draw_tau(config, 8, seeded(3, 4))
    torch.manual_seed(2)
    assert torch.equal(one, draw_tau(config, 8, seeded(3, 4)))
    assert not torch.equal(one, draw_tau(config, 8, seeded(4, 3)))
