"""The operator's stage: what its windows hold, and that an interrupted run is the whole one."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from tiny_runs import losses_of, operator_stage, small_experiment

from ups import checkpoint as checkpoints
from ups import runs
from ups.data.convert import convert
from ups.errors import DataError
from ups.registry import load_card
from ups.training import run as training
from ups.training.loop import InterruptedRunError

EVERYTHING = {
    "data": {"noise": 0.01, "mixing": "inverse_nrmse"},
    "operator": {"history": 2, "local": True, "drop_path": 0.1},
    "stages": {"operator": {
        "max_stride": 2,
        "ema_decay": 0.5,
        "accumulate": 2,
        "curriculum": [
            {"steps": 3, "tasks": ["burgers1d", "advection1d"], "unroll": 1},
            {"steps": 4, "unroll": 2},
        ],
        "losses": {"decoded": {"weight": 0.5, "start": 0.2}, "query_points": 8,
                   "query_sampling": "error"},
        "validate_every": 2, "checkpoint_every": 3,
    }},
}  # fmt: skip


@pytest.mark.parametrize("step", [2, 5])
def test_with_mixing_curriculum_noise_and_queries_an_interrupted_run_is_the_whole_one(small, step):
    tasks = ("burgers1d", "advection1d", "reaction_diffusion2d")
    small(*tasks)
    experiment = small_experiment(*tasks, **EVERYTHING)

    def stop(what, done, total, note):
        if (what, done) == ("operator", step):
            os.kill(os.getpid(), signal.SIGINT)

    whole = training.train(experiment)
    with pytest.raises(InterruptedRunError):
        training.train(experiment, progress=stop)
    (run,) = set(runs.list_runs()) - {whole}
    assert len(losses_of(run, "operator")) < len(losses_of(whole, "operator")) == 7
    training.resume(run)
    assert runs.read_metrics(run / runs.METRICS) == runs.read_metrics(whole / runs.METRICS)
    for name in ("operator", "operator-last"):
        ours, theirs = (checkpoints.load(runs.checkpoint_path(one, name)) for one in (run, whole))
        for key, value in ours.modules["operator"].state_dict().items():
            assert torch.equal(value, theirs.modules["operator"].state_dict()[key]), key
        assert (ours.step, ours.metrics) == (theirs.step, theirs.metrics)
    last = checkpoints.load(runs.checkpoint_path(run, "operator-last")).training
    assert set(last["stage"]) == {"curriculum", "queries", "next"}


def test_unrolling_follows_the_phase_and_else_the_share_of_the_run(small):
    small("burgers1d")
    unroll = [{"start": 0, "steps": 1}, {"start": 0.5, "steps": 2}]
    phases = [{"steps": 2, "unroll": 3}, {"steps": 8}]
    stage = operator_stage(
        "burgers1d", stages={"operator": {"unroll": unroll, "curriculum": phases}}
    )
    assert [stage.unroll_at(step) for step in range(10)] == [3, 3, 1, 1, 1, 2, 2, 2, 2, 2]
    assert stage.batch(0, 0).tokens.shape[1] == 1 + 3


def test_a_phase_that_unrolls_further_than_the_data_reach_is_refused(small):
    small("burgers1d")
    with pytest.raises(DataError, match="burgers1d: 9 unrolled steps of 1 frames do not fit"):
        operator_stage(
            "burgers1d", stages={"operator": {"curriculum": [{"steps": 2, "unroll": 9}]}}
        )


def test_windows_hold_the_frames_they_say(small):
    """At any stride; before the first frame stands the first frame."""
    small("burgers1d")
    stage = operator_stage(
        "burgers1d", operator={"history": 3}, stages={"operator": {"max_stride": 2}}
    )
    strides, early = set(), False
    (task,) = stage.mixture.tasks
    whole = torch.from_numpy(task.tokens("train").whole()).float()
    for step in range(12):
        batch = stage.batch(step, 0)
        strides.add(batch.stride)
        present = batch.frames[:, 0] - batch.stride
        places = present[:, None] + batch.stride * np.arange(-2, 3)
        early |= bool((places < 0).any())
        expected = whole[batch.rows[:, None], np.maximum(places, 0)]
        assert torch.equal(batch.tokens, expected)
        torch.testing.assert_close(
            batch.given.dt, torch.full((4,), task.layout.dt * batch.stride), check_dtype=False
        )
        assert batch.frames.max() < task.num_frames
    assert strides == {1, 2}
    assert early


def test_only_the_named_frames_are_trained_on(small):
    small("burgers1d")
    stage = operator_stage({"dataset": "burgers1d", "first_frame": 3, "last_frame": 6})
    frames = np.concatenate([stage.batch(step, 0).frames for step in range(20)])
    assert (frames.min(), frames.max()) == (4, 6)


def test_noise_moves_what_is_given_and_nothing_else(small):
    small("burgers1d")
    plain, noisy = (operator_stage("burgers1d", data={"noise": size}) for size in (0.0, 0.1))
    one, two, again = plain.batch(1, 0), noisy.batch(1, 0), noisy.batch(1, 0)
    assert torch.equal(two.tokens, again.tokens), "it depends on the step alone"
    assert not torch.equal(one.tokens[:, 0], two.tokens[:, 0])
    assert torch.equal(one.tokens[:, 1:], two.tokens[:, 1:])
    change = (one.tokens[:, 0] - two.tokens[:, 0]).square().mean().sqrt()
    assert 0.02 < change / one.tokens[:, 0].square().mean().sqrt() < 0.2


def test_pushforward_keeps_the_last_step_alone(small):
    small("burgers1d")
    full, pushed = (
        operator_stage("burgers1d", stages={"operator": {"losses": {"rollout": kind}}})
        for kind in ("full", "pushforward")
    )
    with torch.no_grad():
        batch = full.batch(0, 0)
        task, given = batch.task.name, batch.given
        first = full.operator(batch.tokens[:, :1], given, task)
        second = full.operator(first[:, None], given, task)
    seen = {}
    for name, stage in (("full", full), ("pushforward", pushed)):
        stage.operator.load_state_dict(full.operator.state_dict())

        def look(batch, prediction, before, progress, name=name):
            seen[name] = prediction
            return {}

        stage._terms = look
        stage.losses(batch, 0.0)
    torch.testing.assert_close(seen["full"], torch.stack([first, second], 1))
    torch.testing.assert_close(seen["pushforward"], second[:, None])
    assert seen["pushforward"].requires_grad


def test_an_operator_that_knows_its_parameters_gets_worse_when_they_are_shuffled(
    tmp_path, advected, write_raw, home
):
    """Waves at two speeds: without the right speed the next frame cannot be told."""
    raws = [
        write_raw(tmp_path / f"1D_Advection_Sols_beta{beta}.hdf5",
                  advected(20, 9, 32, beta=beta, seed=number), {"beta": beta})
        for number, beta in enumerate((0.5, 4.0))
    ]  # fmt: skip
    convert(load_card("advection1d"), raws, version="two")
    stage = operator_stage(
        "advection1d",
        operator={"mixer": "spectral", "width": 32},
        stages={"operator": {"batch_size": 16, "unroll": [{"start": 0, "steps": 1}]}},
    )
    optimizer = torch.optim.AdamW(stage.operator.parameters(), lr=1e-2)
    stage.operator.train()
    for step in range(80):
        loss = sum(stage.losses(stage.batch(step, 0), 0.0).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    stage.operator.eval()
    (task,) = stage.mixture.tasks
    rows = np.arange(task.num_trajectories("valid"))
    given = task.given("valid", rows)
    assert len(given.parameters.unique()) == 2
    windows = task.windows("valid", rows, np.zeros_like(rows), 2)

    def error(parameters):
        with torch.no_grad():
            found = stage.operator(windows[:, :1], type(given)(parameters, given.dt), task.name)
        return float((found - windows[:, 1]).square().mean().sqrt())

    swapped = given.parameters.sum(0) * 0 + given.parameters.unique().sum() - given.parameters
    assert error(swapped) > 2 * error(given.parameters)
