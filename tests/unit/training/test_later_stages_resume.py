"""Runs stopped in a later stage go on to what an uninterrupted run has, bit for bit."""

from __future__ import annotations

import signal

import pytest
import torch
from tiny_runs import STAGE, losses_of, small_experiment

from ups import checkpoint as checkpoints
from ups import files, runs
from ups.training import run as training
from ups.training.loop import InterruptedRunError
from ups.training.session import open_session

DISTILL = STAGE | {
    "steps": 4, "ensemble": 2, "validation_trajectories": 2, "teacher_steps": 4,
    "micro_batches": 2,
}  # fmt: skip


def moving(**changes):
    stages = {
        "diff_residual": {"steps": 4, "sampling_steps": 4, "ema_decay": 0.5},
        "consistency_distill": DISTILL,
    }
    return small_experiment("burgers1d", "advection1d", stages=stages, **changes)


def steady():
    return small_experiment(
        "darcy2d", stages={"steady_prior": {"refinement_steps": 3, "validate_every": 3}}
    )


def newest_but(other):
    return next(run for run in runs.list_runs() if run != other)


def stopping(stage, step):
    """A progress callback that presses Ctrl-C when a stage has taken so many steps."""

    def progress(what, done, total, note):
        if (what, done) == (stage, step):
            signal.raise_signal(signal.SIGINT)

    return progress


@pytest.mark.parametrize(
    ("make", "stage"),
    [(moving, "diff_residual"), (moving, "consistency_distill"), (steady, "steady_prior")],
)
def test_a_later_stage_resumes_to_the_uninterrupted_one(small, make, stage):
    for key in ("burgers1d", "advection1d", "darcy2d"):
        small(key)
    stages = open_session(make()).all_stages
    whole = training.train(make(), stages)
    with pytest.raises(InterruptedRunError):
        training.train(make(), stages, progress=stopping(stage, 1))
    run = newest_but(whole)
    assert len(losses_of(run, stage)) < len(losses_of(whole, stage))
    training.resume(run)
    assert runs.read_metrics(run / runs.METRICS) == runs.read_metrics(whole / runs.METRICS)
    for name in stages:
        ours, theirs = (checkpoints.load(runs.checkpoint_path(r, name)) for r in (run, whole))
        for part, module in theirs.modules.items():
            for key, weight in module.state_dict().items():
                assert torch.equal(ours.modules[part].state_dict()[key], weight), (part, key)


def test_a_checkpoint_names_what_it_stands_on_by_hash(small):
    small("burgers1d", "advection1d")
    session = open_session(moving())
    run = training.train(session, session.all_stages)
    last = checkpoints.load(runs.checkpoint_path(run, "consistency_distill"))
    assert set(last.modules) == {"operator", "residual", "flow_map"}
    assert last.identity.earlier == {
        name: files.sha256_file(runs.checkpoint_path(run, name))
        for name in ("codec", "operator", "diff_residual")
    }
