"""Parts of experiments, and their absence."""

from __future__ import annotations

import pytest
from tiny_runs import small_experiment

from ups import load_experiment
from ups.config.schema import Experiment
from ups.errors import UsageError
from ups.pipeline.ablation_parts import PARTS, overrides_without, without
from ups.training.session import open_session

EVERYTHING = {
    "data": {"augment": ["shift"], "noise": 0.01},
    "operator": {
        "mixer": "attention", "local": True, "positions": True, "history": 2,
        "input_scaling": "channel", "mlp": "neighbours",
    },
    "codecs": {"grid1d": {"encoder": "learned", "coefficients": 6}},
    "stages": {
        "order": ["codec", "operator", "diff_residual", "consistency_distill"],
        "operator": {
            "early_bias": 2.0, "max_stride": 2, "ema_decay": 0.9, "losses": {"nrmse": 1.0},
        },
    },
}  # fmt: skip


def test_every_part_that_is_taken_away_is_gone_and_nothing_else_changes(small):
    small("advection1d")
    experiment = small_experiment("advection1d", **EVERYTHING)
    session = open_session(experiment)
    tried = []
    for part in PARTS.values():
        changes = part.without(session)
        if changes is None:
            continue
        tried.append(part.name)
        smaller = without(experiment, changes)
        assert smaller != experiment, part.name
        assert part.without(open_session(smaller)) is None, f"{part.name} is still there"
        touched = {change.partition("=")[0].split(".")[0] for change in changes}
        same = set(Experiment.model_fields) - touched
        assert all(getattr(smaller, key) == getattr(experiment, key) for key in same)
    expected = {
        "diff_residual", "consistency_distill", "normalise", "conserve", "conditioning",
        "input_scaling", "history", "local",
        "positions", "neighbours", "learned_codec", "unroll", "early_bias", "max_stride", "muon",
        "schedule", "ema", "grad_clip", "augment", "noise", "forward_loss", "nrmse_loss",
    }  # fmt: skip
    assert expected == set(tried)


def test_muon_gives_way_to_adamw_at_the_same_rate(small):
    small("advection1d")
    experiment = small_experiment("advection1d", stages={
        "operator": {"optimizer": {"kind": "muon_hybrid", "lr": 0.007}}})  # fmt: skip
    smaller = without(experiment, overrides_without("muon", open_session(experiment)))
    assert (smaller.stages.operator.optimizer.kind, smaller.stages.operator.optimizer.lr) == (
        "adamw", 0.007,
    )  # fmt: skip


def test_parts_of_baselines_and_of_the_default(small):
    small("burgers1d")
    session = open_session(load_experiment("burgers1d", ["device=cpu"]))
    assert overrides_without("spectral", session) == ('operator.mixer="conv"',)
    fno = open_session(load_experiment("fno1d", ["operator.wrapper=true", "device=cpu"]))
    assert overrides_without("wrapper", fno) == ("operator.wrapper=false",)


def test_a_part_that_is_not_there_is_an_error_that_lists_those_that_are(small):
    small("burgers1d")
    session = open_session(load_experiment("burgers1d", ["device=cpu"]))
    with pytest.raises(UsageError, match="'burgers1d' does not have it") as caught:
        overrides_without("local", session)
    assert "normalise" in str(caught.value.hint)
    with pytest.raises(UsageError, match="did you mean 'muon'"):
        overrides_without("moun", session)
