"""One step and long rollouts, on operators whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_runs import small_experiment
from torch import nn

from ups.evaluation.context import open_context
from ups.evaluation.horizons import LONG_FACTOR, long_rollout_section, one_step_section
from ups.training import run as training


class Times(nn.Module):
    """Multiplies the state by a number: tokens of a linear codec, and so its fields too."""

    history = 1

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, history, given, task):
        return self.factor * history[:, -1]


@pytest.fixture
def context(small):
    small("burgers1d")
    torch.manual_seed(0)
    return open_context(training.train(small_experiment("burgers1d")))


def with_operator(context, factor):
    context.surrogate.operator = Times(factor)
    return replace(context)


def test_one_step_from_true_frames_is_the_change_of_a_frame(context):
    found = one_step_section(with_operator(context, 1.0)).content
    store, members = context.store, context.members
    true = np.stack([np.asarray(store.fields[int(row)], np.float64) for row in members])
    starts = found["starts"]
    assert starts == list(range(store.num_frames - 1)), "a short trajectory from every frame"
    after = true[:, np.array(starts) + 1]
    change = np.sqrt(((true[:, starts] - after) ** 2).mean((2, 3)))
    size = np.sqrt((after**2).mean((2, 3)))
    expected = (change / (size + 1e-7)).mean()
    assert found["metrics"]["nrmse"]["mean"] == pytest.approx(expected, rel=1e-4)
    assert found["num_trajectories"] == len(members)


def test_a_rollout_that_stays_is_stable(context):
    found = long_rollout_section(with_operator(context, 1.0)).content
    steps = LONG_FACTOR * context.horizon.steps
    assert found["steps"] == len(found["times"]) == len(found["rms"]["u"]) == steps
    assert found["stable_share"] == 1
    assert found["stable_steps"] == steps
    assert found["times"][0] == pytest.approx(context.dt)


def test_a_rollout_that_grows_is_told_when(context):
    found = long_rollout_section(with_operator(context, 2.0)).content
    assert found["stable_share"] == 0
    # Sizes double; the limit is ten times the largest true one, which is near the first.
    assert 2 <= found["stable_steps"] <= 6
    assert found["rms"]["u"][1] == pytest.approx(2 * found["rms"]["u"][0], rel=1e-4)


def test_a_rollout_that_is_not_finite_is_not_stable(context):
    found = long_rollout_section(with_operator(context, float("nan"))).content
    assert found["stable_steps"] == 0
