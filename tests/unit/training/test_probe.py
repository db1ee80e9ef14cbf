"""What a dry run says of a stage's cost, without a cache, a checkpoint or a trained weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_runs import operator_stage, small_experiment

from ups import paths, runs
from ups.models.flops import num_parameters
from ups.training.building import new_codec
from ups.training.plan import costs, plan
from ups.training.probe import cost_of, random_task
from ups.training.session import open_session


@pytest.mark.parametrize(
    ("task", "stages"),
    [
        ("burgers1d", ("codec", "operator", "diff_residual", "consistency_distill")),
        ("darcy2d", ("codec", "operator", "steady_prior")),
        ("darcy2d_mesh", ("codec", "steady_prior")),
        ("particles_advect", ("codec", "operator")),
    ],
)
def test_every_stage_can_be_probed_and_leaves_nothing(small, task, stages):
    small(task)
    session = open_session(small_experiment(task))
    for cost in costs(session, stages):
        if cost.parameters:
            assert cost.flops_per_step > 2 * cost.parameters
            assert cost.memory_bytes > 16 * cost.parameters
            assert 0 < cost.seconds < 60
    assert not paths.caches_dir().exists()
    assert runs.list_runs() == []


def test_the_counted_parameters_are_those_of_the_stage(small):
    small("burgers1d")
    cost = cost_of(open_session(small_experiment("burgers1d")), "operator")
    stage = operator_stage("burgers1d")
    assert cost.parameters == num_parameters(stage.trainable)
    assert cost.steps == 6


def test_more_steps_and_longer_unrolls_cost_more(small):
    small("burgers1d")

    def cost(**operator):
        changes = {"stages": {"operator": operator}}
        return cost_of(open_session(small_experiment("burgers1d", **changes)), "operator")

    one = cost(unroll=[{"start": 0, "steps": 1}])
    four = cost(unroll=[{"start": 0, "steps": 4}])
    assert 3 < four.flops_per_step / one.flops_per_step < 5
    mean = cost(unroll=[{"start": 0, "steps": 1}, {"start": 0.5, "steps": 4}])
    assert mean.flops_per_step == pytest.approx(2.5 * one.flops_per_step, rel=0.15)
    assert cost(steps=600).seconds > 10 * cost(steps=6).seconds


def test_random_tokens_look_like_the_cached_ones(small):
    small("darcy2d")
    session = open_session(small_experiment("darcy2d"))
    task = random_task(session, "darcy2d", new_codec(session, session.tasks[0]))
    (real,) = operator_stage("darcy2d").mixture.tasks
    rows = np.arange(3)
    for one, other in zip(
        (task.windows("train", rows, rows * 0, 1), task.given("train", rows).context),
        (real.windows("train", rows, rows * 0, 1), real.given("train", rows).context),
        strict=True,
    ):
        assert one.shape == other.shape
        assert torch.isfinite(one).all()


def test_the_plan_names_data_codecs_and_operator(small):
    small("burgers1d", "darcy2d_mesh")
    lines = dict(plan(open_session(small_experiment("burgers1d", "darcy2d_mesh"))))
    assert set(lines) == {"data", "device", "codec", "operator"}
    assert lines["codec"].startswith("darcy2d_mesh: points")
    assert "4 x 4 tokens" in lines["codec"]
    assert "pdet_stack, mixer attention, width 16" in lines["operator"]
