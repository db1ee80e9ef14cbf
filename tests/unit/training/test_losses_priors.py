"""Physics priors: which a card allows, and that the truth itself costs nothing."""

from __future__ import annotations

import pytest
import torch

from ups.physics.grids import UniformGrid
from ups.registry import load_card
from ups.training.losses import PhysicsPriors

PRIORS = {
    "burgers1d": {"conservation", "boundary", "pde_residual"},
    "reaction_diffusion1d": {"boundary", "pde_residual"},
    "darcy2d": {"boundary", "pde_residual"},
    "shallow_water2d": {"conservation", "positivity"},
    "compressible_ns2d": {"conservation", "boundary", "positivity", "pde_residual"},
    "navier_stokes2d": {"divergence", "boundary", "pde_residual"},
}


def priors(key):
    card = load_card(key)
    axes = card.discretisation.axes
    names = [(axis.boundary, axis.upper_boundary or axis.boundary) for axis in axes]
    return PhysicsPriors(card, UniformGrid.cells([1 / 12] * len(axes), names))


def frames(card, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3 if card.time.step else 1, *[12] * card.num_dims, len(card.fields))
    return 1 + 0.3 * torch.randn(shape, generator=generator)


def given(card):
    space = [12] * card.num_dims
    return {
        "dt": None if card.time.step is None else torch.full((2,), card.time.step),
        "parameters": torch.ones(2, len(card.parameters)),
        "inputs": torch.ones(2, *space, len(card.inputs)) if card.inputs else None,
    }


@pytest.mark.parametrize("key", PRIORS)
def test_the_card_says_which_priors_hold(key):
    assert priors(key).available == PRIORS[key]


@pytest.mark.parametrize("key", PRIORS)
def test_the_truth_costs_nothing_and_any_other_field_has_finite_gradients(key):
    prior = priors(key)
    truth = frames(prior.card, 0)
    terms = prior.terms(truth, truth, **given(prior.card))
    assert terms.keys() == prior.available
    assert all(term().item() == 0 for term in terms.values())
    prediction = frames(prior.card, 1).requires_grad_()
    sum(term() for term in prior.terms(prediction, truth, **given(prior.card)).values()).backward()
    assert prediction.grad.isfinite().all()


def test_each_prior_sees_its_own_violation():
    prior = priors("compressible_ns2d")
    smooth = torch.ones(2, 3, 12, 12, 4)
    negative, leaking = smooth.clone(), smooth.clone()
    negative[:, :, 3, 3, 0] = -1
    leaking[:, 1:, ..., 0] += 0.2
    broken = prior.terms(negative, smooth, **given(prior.card))
    assert broken["positivity"]().item() > 0.01
    drifting = prior.terms(leaking, smooth, **given(prior.card))
    assert drifting["conservation"]().item() == pytest.approx(0.2, rel=1e-4)
    assert drifting["positivity"]().item() == 0
    flow = priors("navier_stokes2d")
    spreading = torch.zeros(2, 3, 12, 12, 3)
    spreading[..., 0] = torch.arange(12.0)[:, None]
    resting = torch.zeros_like(spreading)
    assert flow.terms(spreading, resting, **given(flow.card))["divergence"]().item() > 0.9
