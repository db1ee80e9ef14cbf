"""The prior of steady problems: its levels, its noise, and what a perfect network gives."""

from __future__ import annotations

import pytest
import torch

from ups.config.models import PriorConfig
from ups.models.flow import normal, seeded
from ups.models.layout import Given, TokenLayout
from ups.models.steady import SteadyPrior

LAYOUT = TokenLayout(
    anchors=(4, 4), periodic=(False, False), latent_dim=3, num_fields=1, separable=False,
    points_per_token=4, conserved=(False,), num_parameters=1, dt=None, context_dim=2,
)  # fmt: skip
NETWORK = {"width": 8, "depth": 1, "mixer": "conv", "kernel_size": 3, "mlp": "mlp"}


def drawn(batch, channels=3, seed=0):
    return normal((batch, 16, channels), seeded(seed), "cpu")


def given(batch=4):
    return Given(torch.zeros(batch, 1), torch.ones(batch), drawn(batch, 2, seed=7))


def built(*, random=True, **options):
    torch.manual_seed(0)
    prior = SteadyPrior(PriorConfig(**NETWORK, **options), {"darcy": LAYOUT})
    if random:
        for weight in prior.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return prior.eval()


def solutions(number=300):
    return 2 + torch.tensor([1.0, 0.3, 0.001]) * drawn(number, seed=1)


def fitted(**options):
    prior = built(**options)
    prior.fit_scales("darcy", solutions(), given(300))
    return prior


def test_scales_are_those_of_the_training_split_with_a_floor():
    port = fitted().port("darcy")
    torch.testing.assert_close(port.average, solutions().mean(0))
    expected = torch.tensor([1.0, 0.3, 0.05])
    torch.testing.assert_close(port.size, expected, rtol=0.05, atol=0)
    assert port.whole.item() == pytest.approx((1.09 / 3) ** 0.5, rel=0.05)


def test_before_training_the_prediction_is_the_average_solution():
    prior = fitted(random=False, refinement_steps=1)
    found = prior.solve(given(), "darcy")
    torch.testing.assert_close(found, prior.port("darcy").average.expand(4, -1, -1))


def test_noise_levels_fall_geometrically_to_the_smallest():
    prior = fitted(refinement_steps=4, smallest_noise=1e-3)
    level = prior.noise_level(torch.arange(4), "darcy") / prior.port("darcy").whole
    torch.testing.assert_close(level, torch.tensor([1.0, 0.1, 0.01, 0.001]))


def test_the_linear_guess_is_the_best_one():
    """Of all multiples of x, what an untrained network returns is nearest to the noise."""
    prior = fitted(random=False)
    number = 2000
    noise, level = drawn(number, seed=3), torch.ones(number, dtype=torch.long)
    sigma = prior.noise_level(level, "darcy")[:, None, None]
    x = prior.port("darcy").size * drawn(number, seed=4) + sigma * noise
    found = prior(x, level, given(number), "darcy")
    best = (noise * x).mean((0, 1)) / x.square().mean((0, 1)) * x
    torch.testing.assert_close(found, best, rtol=0, atol=0.05)


def test_a_network_that_knows_the_solution_corrects_a_wrong_prediction():
    """x = w + sigma e: taking sigma e' = x - w_true off leads to the truth."""
    prior, truth = fitted(refinement_steps=3), solutions(4)
    deviation = truth - prior.port("darcy").average

    def oracle(x, level, told, task):
        if level[0] == 0:
            return torch.zeros_like(x)
        return (x - deviation) / prior.noise_level(level, task)[:, None, None]

    prior.forward = oracle
    states = prior.stages(given(), "darcy")
    assert (states[0] - truth).abs().max() > 0.5
    for state in states[1:]:
        torch.testing.assert_close(state, truth)


def test_solutions_repeat_unless_a_generator_is_given_and_samples_differ():
    prior = fitted()
    torch.manual_seed(1)
    one = prior.solve(given(), "darcy")
    torch.manual_seed(2)
    assert torch.equal(prior.solve(given(), "darcy"), one)
    assert not torch.equal(prior.solve(given(), "darcy", seeded(5)), one)
    several = prior.solve(given(), "darcy", seeded(5), samples=3)
    assert several.shape == (12, 16, 3)
    assert not torch.equal(several[0], several[1])
    first = prior.stages(given(), "darcy", samples=3)[0]
    torch.testing.assert_close(first[0], first[2])


def test_evaluations_in_use_are_what_was_chosen():
    prior = fitted(refinement_steps=4)
    calls = []
    prior.backbone.register_forward_hook(lambda *rest: calls.append(1))
    prior.solve(given(), "darcy")
    assert len(calls) == 4
    prior.port("darcy").evaluations.fill_(2)
    prior.solve(given(), "darcy")
    assert len(calls) == 6
    prior.solve(given(), "darcy", evaluations=1)
    assert len(calls) == 7


def test_context_and_parameters_change_the_solution():
    prior, told = fitted(), given()
    one = prior.solve(told, "darcy")
    moved = Given(told.parameters, told.dt, told.context + 1)
    assert (prior.solve(moved, "darcy") - one).abs().max() > 1e-3
    moved = Given(told.parameters + 1, told.dt, told.context)
    assert (prior.solve(moved, "darcy") - one).abs().max() > 1e-3


def test_what_is_given_as_x_does_not_matter_for_the_prediction():
    prior, level = fitted(), torch.tensor([0, 0, 1, 1])
    one, two = (prior(drawn(4, seed=seed), level, given(), "darcy") for seed in (1, 2))
    torch.testing.assert_close(one[:2], two[:2])
    assert (one[2:] - two[2:]).abs().max() > 1e-3
