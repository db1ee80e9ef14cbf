"""Learning rates, optimizers and losses against their definitions."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ups.config.models import LatentOperatorConfig
from ups.config.stages import AdamWConfig, MuonConfig, ScheduleConfig
from ups.models.operator import LatentOperator, TokenLayout
from ups.training.losses import relative_l2
from ups.training.optim import averaged, build_optimizer, lr_factor


@pytest.fixture(params=["spectral", "conv", "attention"])
def operator(request):
    config = LatentOperatorConfig(mixer=request.param, width=8, depth=2, heads=2)
    return LatentOperator(config, TokenLayout((4,), (True,), 4, 4, (True,), 1, 0.1))


def weights_of(optimizer):
    return {id(weight) for group in optimizer.param_groups for weight in group["params"]}


def test_muon_gets_the_hidden_matrices_and_adamw_the_rest(operator):
    rest, hidden = build_optimizer(operator, MuonConfig()).members
    assert isinstance(rest, torch.optim.AdamW)
    assert isinstance(hidden, torch.optim.Muon)
    by_id = {id(weight): name for name, weight in operator.named_parameters()}
    names = {by_id[key] for key in weights_of(hidden)}
    assert names
    for name in names:
        assert name.startswith("blocks.")
        assert "hidden" in name
        assert name.endswith(".weight")
    matrices = {
        name for name, w in operator.named_parameters()
        if w.ndim == 2 and name.startswith("blocks.")
    }  # fmt: skip
    assert names == matrices
    assert weights_of(hidden) | weights_of(rest) == by_id.keys()
    assert not weights_of(hidden) & weights_of(rest)


def test_adamw_gets_every_weight_and_frozen_weights_are_left_alone(operator):
    operator.embed.requires_grad_(False)
    (only,) = build_optimizer(operator, AdamWConfig()).members
    moving = {id(weight) for weight in operator.parameters() if weight.requires_grad}
    assert weights_of(only) == moving
    assert len(moving) == len(list(operator.parameters())) - 2


def test_a_learning_rate_factor_reaches_every_optimizer_and_does_not_pile_up(operator):
    optimizers = build_optimizer(operator, MuonConfig(lr=0.5))
    for factor in (0.5, 0.1):
        optimizers.set_factor(factor)
    rates = [group["lr"] for one in optimizers.members for group in one.param_groups]
    assert rates == pytest.approx([0.05, 0.05])


@given(warmup=st.integers(0, 50), final=st.floats(0, 1), steps=st.integers(51, 400))
def test_the_rate_rises_linearly_and_then_falls_to_its_final_fraction(warmup, final, steps):
    config = ScheduleConfig(warmup_steps=warmup, final_fraction=final)
    factors = [lr_factor(config, step, steps) for step in range(steps + 1)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[-1] == pytest.approx(final)
    after = factors[max(warmup - 1, 0) :]
    assert all(a >= b for a, b in pairwise(after))
    constant = ScheduleConfig(kind="constant", warmup_steps=warmup)
    expected = [min(1.0, (step + 1) / max(warmup, 1)) for step in range(steps)]
    assert [lr_factor(constant, step, steps) for step in range(steps)] == pytest.approx(expected)


def test_the_cosine_is_a_cosine():
    config = ScheduleConfig(warmup_steps=0, final_fraction=0)
    for share in (0, 0.25, 0.5, 0.75, 1):
        expected = (1 + math.cos(math.pi * share)) / 2
        assert lr_factor(config, int(100 * share), 100) == pytest.approx(expected)


def test_averaged_weights_follow_the_weights_and_decay_zero_keeps_none():
    module = torch.nn.Linear(1, 1, bias=False)
    assert averaged(module, 0.0) is None
    average = averaged(module, 0.75)
    for value in (1.0, 2.0, 4.0):
        torch.nn.init.constant_(module.weight, value)
        average.update_parameters(module)
    assert average.module.weight.item() == pytest.approx(0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 4)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_relative_l2_of_nothing_is_one_and_of_the_truth_is_zero():
    target = noise(4, 8, 3)
    assert relative_l2(torch.zeros_like(target), target).item() == pytest.approx(1, abs=1e-6)
    assert relative_l2(target, target).item() < 1e-5
    assert relative_l2(1.25 * target, target).item() == pytest.approx(0.25, rel=1e-5)


def test_relative_l2_weighs_every_sample_alike():
    target = noise(2, 8, 3)
    target[1] *= 1000
    prediction = target.clone()
    prediction[1] *= 1.5
    assert relative_l2(prediction, target).item() == pytest.approx(0.25, rel=1e-4)


@given(st.floats(0.1, 1e4))
def test_relative_l2_does_not_depend_on_units(scale):
    a, b = noise(3, 5), noise(3, 5, seed=1)
    assert relative_l2(scale * a, scale * b).item() == pytest.approx(
        relative_l2(a, b).item(), rel=1e-4
    )


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_relative_l2_has_a_finite_gradient_where_the_error_is_zero(size):
    target = size * noise(4, 8)
    prediction = target.clone().requires_grad_()
    relative_l2(prediction, target).backward()
    assert prediction.grad.isfinite().all()
