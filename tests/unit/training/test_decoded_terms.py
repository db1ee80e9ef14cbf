"""Every loss term of the operator on real tasks: finite, with a gradient, and zero at the truth."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_runs import operator_stage

from ups.config.stages import LossesConfig, Term
from ups.errors import ConfigError

TERMS = [name for name, field in LossesConfig.model_fields.items() if field.annotation is Term]
AVAILABLE = {
    "reaction_diffusion2d": {"boundary", "pde_residual"},
    "burgers1d": {"conservation", "boundary", "pde_residual"},
    "darcy2d": {"boundary", "pde_residual"},
}
PHYSICS = {"divergence", "conservation", "boundary", "positivity", "pde_residual"}


def stage_with(task, term, **losses):
    only = {"forward": 0.0} if term != "forward" else {}
    return operator_stage(task, stages={"operator": {"losses": only | {term: 1.0} | losses}})


@pytest.mark.parametrize("task", ["reaction_diffusion2d", "burgers1d", "darcy2d"])
def test_every_term_that_a_task_has_is_finite_and_has_a_gradient(small, task):
    small(task)
    for term in TERMS:
        if term in PHYSICS - AVAILABLE[task]:
            with pytest.raises(ConfigError, match=rf"losses\.{term}: none of the tasks {task} can"):
                stage_with(task, term)
            continue
        stage = stage_with(task, term)
        torch.manual_seed(0)
        for weight in stage.operator.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        found = stage.losses(stage.batch(0, 0), 0.5)
        assert list(found) == [term]
        assert math.isfinite(found[term].item())
        assert found[term].item() >= 0
        found[term].backward()
        size = sum(w.grad.abs().sum() for w in stage.operator.parameters() if w.grad is not None)
        assert math.isfinite(size)
        # A linear codec gives back what it is given, the operator conserves, a period has no end.
        exact = {"inverse_encoding", "inverse_decoding", "boundary", "conservation"}
        assert size > 0 or term in exact, term


@pytest.mark.parametrize("term", ["forward", "decoded", "nrmse", "spectral", "latent_norm"])
def test_the_truth_has_no_loss(small, term):
    """Up to what the codec leaves out, and the cache's half precision."""
    small("burgers1d")
    stage = stage_with("burgers1d", term)
    batch = stage.batch(0, 0)
    truth = batch.tokens[:, 1:]
    (right,) = stage._terms(batch, truth, 0, 0.5).values()
    (wrong,) = stage._terms(batch, 1.5 * truth, 0, 0.5).values()
    assert right < 0.01 * wrong


def test_terms_wait_for_their_share_of_the_run(small):
    small("burgers1d")
    ramp = {"weight": 2.0, "start": 0.5, "ramp": 0.2}
    stage = operator_stage("burgers1d", stages={"operator": {"losses": {"decoded": ramp}}})
    batch = stage.batch(0, 0)
    assert list(stage.losses(batch, 0.4)) == ["forward"]
    values = [stage.losses(batch, progress)["decoded"].item() for progress in (0.6, 0.7, 0.9)]
    assert values[1] == pytest.approx(2 * values[0], rel=1e-4)
    assert values[2] == pytest.approx(values[1], rel=1e-4)


def test_query_points_prefer_where_errors_were_and_survive_a_resume(small):
    small("burgers1d")
    sampled = {"query_points": 4, "query_sampling": "error"}
    stage, again = (stage_with("burgers1d", "decoded", **sampled) for _ in range(2))
    again.operator.load_state_dict(stage.operator.state_dict())
    for step in range(3):
        stage.losses(stage.batch(step, 0), 0.0)
    again.load_state_dict(stage.state_dict())
    one, two = (each.losses(each.batch(3, 0), 0.0)["decoded"] for each in (stage, again))
    assert torch.equal(one, two)
    fresh = stage_with("burgers1d", "decoded", **sampled)
    fresh.operator.load_state_dict(stage.operator.state_dict())
    assert not torch.equal(one, fresh.losses(fresh.batch(3, 0), 0.0)["decoded"])


def test_on_meshes_the_loss_is_in_tokens_alone(small):
    small("darcy2d_mesh")
    stage = stage_with("darcy2d_mesh", "forward")
    assert list(stage.losses(stage.batch(0, 0), 0.0)) == ["forward"]
    with pytest.raises(ConfigError, match=r"losses\.decoded: none of the tasks darcy2d_mesh can"):
        stage_with("darcy2d_mesh", "decoded")
