"""Learning rates, optimizers and losses against their definitions."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_stage import Net

from ups.config.stages import AdamWConfig, MuonConfig, ScheduleConfig
from ups.training.losses import relative_l2
from ups.training.optim import Average, Plateau, build_optimizer, clip, lr_factor


@pytest.fixture
def net():
    return Net()


def weights_of(optimizer):
    return {id(weight) for group in optimizer.param_groups for weight in group["params"]}


def test_muon_gets_the_hidden_matrices_and_adamw_the_rest(net):
    rest, hidden = build_optimizer(net, MuonConfig()).members
    assert isinstance(rest, torch.optim.AdamW)
    assert isinstance(hidden, torch.optim.Muon)
    by_id = {id(weight): name for name, weight in net.named_parameters()}
    names = {by_id[key] for key in weights_of(hidden)}
    assert names == {"blocks.0.hidden.weight", "blocks.1.hidden.weight"}
    assert weights_of(hidden) | weights_of(rest) == by_id.keys()
    assert not weights_of(hidden) & weights_of(rest)


def test_adamw_gets_every_weight_and_frozen_weights_are_left_alone(net):
    net.embed.requires_grad_(False)
    (only,) = build_optimizer(net, AdamWConfig()).members
    moving = {id(weight) for weight in net.parameters() if weight.requires_grad}
    assert weights_of(only) == moving
    assert len(moving) == len(list(net.parameters())) - 4


@pytest.mark.parametrize("kind", [AdamWConfig, MuonConfig])
def test_a_fused_adamw_takes_the_same_step(kind):
    moved = []
    for fused in (False, True):
        torch.manual_seed(0)
        net = Net()
        optimizers = build_optimizer(net, kind(fused=fused))
        net(torch.ones(3, 2), 0).square().sum().backward()
        optimizers.step()
        assert optimizers.members[0].param_groups[0]["fused"] is (fused or None)
        moved.append(net.state_dict())
    for name, weight in moved[0].items():
        torch.testing.assert_close(moved[1][name], weight)


def test_a_step_of_muon_has_the_size_of_one_of_adamw():
    """`match_rms_adamw`: an update of RMS 0.2 lr, for a matrix of any shape."""
    for shape in ((16, 16), (64, 16), (16, 64)):
        module = torch.nn.Module()
        module.hidden = torch.nn.Parameter(noise(*shape))
        before = module.hidden.detach().clone()
        (muon,) = build_optimizer(module, MuonConfig(lr=1e-2, weight_decay=0)).members
        module.hidden.grad = noise(*shape, seed=1)
        muon.step()
        size = (module.hidden - before).square().mean().sqrt().item()
        assert size == pytest.approx(0.2e-2, rel=0.25)


def test_a_learning_rate_factor_reaches_every_optimizer_and_does_not_pile_up(net):
    optimizers = build_optimizer(net, MuonConfig(lr=0.5))
    for factor in (0.5, 0.1):
        optimizers.set_factor(factor)
    rates = [group["lr"] for one in optimizers.members for group in one.param_groups]
    assert rates == pytest.approx([0.05, 0.05])


def test_clipping_returns_the_norm_before_and_leaves_small_gradients_alone():
    grads = [torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]
    assert clip(grads, 10.0).item() == pytest.approx(5)
    assert clip(grads, None).item() == pytest.approx(5)
    assert clip(grads, 1.0).item() == pytest.approx(5)
    assert clip(grads, 1.0).item() == pytest.approx(1, rel=1e-5)
    assert grads[1][0, 1].item() == pytest.approx(0.8, rel=1e-5)


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


@given(
    st.lists(st.floats(0.01, 10), min_size=1, max_size=40),
    st.integers(0, 4),
    st.floats(0.1, 0.9),
    st.floats(0, 0.5),
)
def test_a_plateau_is_that_of_torch(values, patience, factor, final):
    config = ScheduleConfig(
        kind="plateau", patience=patience, factor=factor, final_fraction=final, warmup_steps=0
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, patience=patience, factor=factor, min_lr=final, eps=0
    )
    ours = Plateau(config)
    for value in values:
        ours.note(value)
        torchs.step(value)
        again = Plateau(config)
        again.load_state_dict(ours.state_dict())
        ours = again
        assert ours.factor == pytest.approx(optimizer.param_groups[0]["lr"])


def test_other_schedules_know_no_plateau():
    plateau = Plateau(ScheduleConfig(kind="cosine", patience=0))
    for _ in range(9):
        plateau.note(1.0)
    assert plateau.factor == 1


def test_averaged_weights_follow_the_weights():
    module = torch.nn.Linear(1, 1, bias=False)
    average = Average(module, 0.75)
    for value in (1.0, 2.0, 4.0):
        torch.nn.init.constant_(module.weight, value)
        average.update()
    expected = pytest.approx(0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 4)
    with average.applied():
        assert module.weight.item() == expected
    assert module.weight.item() == 4
    again = Average(module, 0.75)
    again.load_state_dict(average.state_dict())
    average.update()
    again.update()
    assert average.state_dict() == again.state_dict()


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
