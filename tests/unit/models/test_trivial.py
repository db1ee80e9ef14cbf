"""Persistence and means as operators without weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ups.config.models import TrivialOperatorConfig
from ups.errors import ConfigError
from ups.models.layout import Given, TokenLayout
from ups.models.operator import build_operator
from ups.models.saved import described, rebuilt

LINE = TokenLayout(
    anchors=(8,), periodic=(True,), latent_dim=8, num_fields=2, separable=True,
    points_per_token=4, conserved=(False, False), num_parameters=1, dt=0.1,
)  # fmt: skip
STEADY = replace(LINE, dt=None, context_dim=3)


def trivial(kind, layout=LINE):
    return build_operator(TrivialOperatorConfig(kind=kind), {"task": layout})


def given(batch=3):
    return Given(torch.zeros(batch, 1), torch.ones(batch))


def test_persistence_is_the_present_and_has_nothing_to_learn():
    history, found = torch.randn(3, 2, 8, 8), trivial("persistence")
    assert torch.equal(found(history, given(), "task"), history[:, -1])
    assert list(found.parameters()) == []


def test_mean_is_each_fields_mean_everywhere():
    now = torch.randn(3, 1, 8, 8)
    after = trivial("mean")(now, given(), "task")
    torch.testing.assert_close(after[:, 0, :2], now[:, 0, :, :2].mean(1))
    assert torch.equal(after[:, 5], after[:, 0])
    assert not after[..., 2:].any()
    assert torch.equal(trivial("mean")(after[:, None], given(), "task"), after)


def test_of_a_steady_problem_it_is_the_training_mean_and_is_saved():
    found = trivial("mean", STEADY)
    solutions = torch.randn(5, 1, 8, 8)
    found.fit_scales("task", solutions, given(5))
    again = rebuilt("operator", described(found), {"task": STEADY})
    after = again(torch.zeros(3, 0, 8, 8), given(), "task")
    torch.testing.assert_close(after[2, 4, :2], solutions[:, 0, :, :2].mean((0, 1)))


def test_nothing_persists_in_a_steady_problem():
    with pytest.raises(ConfigError, match="task 'task' is steady") as caught:
        trivial("persistence", STEADY)
    assert caught.value.hint == "--model mean"
