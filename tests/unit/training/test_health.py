"""`ups train --model`: runs that can be judged, and health gates that catch what is broken."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ups import checkpoint as checkpoints
from ups import runs
from ups.cli.main import app
from ups.config.baselines import is_baseline
from ups.data.convert import convert
from ups.evaluation.context import open_context
from ups.registry import load_card
from ups.training.baselines import load_baseline
from ups.training.health import check_health
from ups.training.run import train

QUICK = [
    "device=cpu", "threads=1", "stages.operator.steps=30", "stages.operator.batch_size=8",
    "stages.operator.schedule.warmup_steps=2", "stages.operator.validate_every=30",
    "stages.operator.checkpoint_every=30", "stages.operator.unroll=[{start: 0, steps: 1}]",
]  # fmt: skip
SMALL = ["operator.width=8", "operator.depth=2", "operator.modes=6"]


def trained(model, config="advection1d", more=()):
    return train(load_baseline(model, config, [*QUICK, *more]))


def errors_of(run):
    """nRMSE of the model and of persistence, over the test split, as the run predicts."""
    context = open_context(run)
    found = [
        ((batch.prediction - batch.reference).square().mean().sqrt(),
         (batch.given[:, None] - batch.reference).square().mean().sqrt())
        for batch in context.predict(context.members)
    ]  # fmt: skip
    return [float(torch.stack(column).mean()) for column in zip(*found, strict=True)]


def gates_of(run, **options):
    return {gate.name: gate for gate in check_health(run, **options).gates}


def test_persistence_trains_nothing_and_predicts_the_present(store):
    result = CliRunner().invoke(
        app, ["train", "--model", "persistence", "--config", "advection1d", "--set", "threads=1"]
    )
    assert result.exit_code == 0, result.output
    assert "0 steps" in result.stdout
    (run,) = runs.list_runs()
    assert run.parent.name == "advection1d-persistence"
    assert is_baseline(runs.run_experiment_of(run))
    ours, persistence = errors_of(run)
    assert ours == pytest.approx(persistence, rel=1e-5)
    section = check_health(run)
    assert [gate.name for gate in section.gates] == ["split", "normalisation"]
    assert section.content["skipped"]["dead_parameters"] == "'persistence' has learned nothing"


@pytest.mark.parametrize("model", ["uno", "unet", "dit"])
def test_networks_train_on_the_configs_data_and_beat_persistence(store, model):
    sizes = {"uno": SMALL, "unet": ["operator.width=8", "operator.levels=2"],
             "dit": ["operator.width=16", "operator.heads=2", "operator.depth=2"]}  # fmt: skip
    run = trained(model, more=sizes[model])
    ours, persistence = errors_of(run)
    assert ours < 0.8 * persistence
    resolved = runs.run_experiment_of(run)
    assert (resolved.name, resolved.operator.kind) == (f"advection1d-{model}", model)


@pytest.fixture
def good(store):
    """A small run that every gate lets pass."""
    return trained("cosine_fno", more=SMALL)


def change(run, stage, alter):
    """Save a checkpoint again with other weights."""
    path = runs.checkpoint_path(run, stage)
    found = checkpoints.load(path)
    alter(found)
    checkpoints.save(path, found)


def test_a_sound_run_passes_and_is_not_asked_twice(good):
    section = check_health(good)
    assert [gate.name for gate in section.gates if not gate.passed] == []
    assert set(section.content["skipped"]) == {"hears_parameters"}
    assert "one value" in section.content["skipped"]["hears_parameters"]
    kept = json.loads((good / "health.json").read_text())
    kept["gates"][0]["detail"] = "kept"
    (good / "health.json").write_text(json.dumps(kept))
    assert check_health(good).gates[0].detail == "kept"
    (good / "health.json").write_text("{damaged")
    assert check_health(good).gates[0].detail != "kept"


def test_a_dead_block_is_named(good):
    def kill(found):
        with torch.no_grad():  # the second layer hears nothing of the first
            found.modules["operator"].network.waves[1].weight.zero_()
            found.modules["operator"].network.hidden[1].weight.zero_()

    assert gates_of(good)["dead_parameters"].passed
    change(good, "operator", kill)
    gate = gates_of(good)["dead_parameters"]
    assert not gate.passed
    assert re.search(r"no gradient reaches \d+ of \d+ weights: .*waves\.0", gate.detail), gate


def test_a_swapped_normalisation_is_caught(good):
    def swap(found):
        codec = found.codec()
        shift, scale = codec.shift.clone(), codec.scale.clone()
        codec.shift.copy_(scale)
        codec.scale.copy_(shift + 1)

    change(good, "operator", swap)
    gate = gates_of(good)["normalisation"]
    assert (gate.passed, gate.kind) == (False, "data")
    assert "disagree with the training split" in gate.detail
    assert "field 'u'" in gate.detail


def test_a_leaky_split_is_caught(tmp_path, advected, write_raw):
    tensor = advected(20, 11, 32, beta=1.0, seed=0)
    tensor[9] = tensor[0] * np.float32(1 + 1e-6)  # the first two are tested
    raw = write_raw(tmp_path / "1D_Advection_Sols_beta1.0.hdf5", tensor, {"beta": 1.0})
    convert(load_card("advection1d"), [raw], version="leaky")
    gate = gates_of(trained("mean"))["split"]
    assert (gate.passed, gate.kind) == (False, "data")
    assert re.search(r"trajectory 9 \(\w+\) and 0 \(test\) start from the same state", gate.detail)


def test_a_constant_predictor_is_caught(small):
    small("darcy2d")
    longer = ["stages.operator.steps=80", "stages.operator.optimizer.lr=2e-2"]
    run = trained("cosine_fno", "darcy2d", more=[*SMALL, *longer])

    def silence(found):
        head = found.modules["operator"].network.head
        with torch.no_grad():
            head.weight.zero_()
            head.bias.fill_(1.0)

    assert gates_of(run)["not_constant"].passed
    change(run, "operator", silence)
    gate = gates_of(run)["not_constant"]
    assert not gate.passed
    assert "predictions hardly differ between inputs: by 0.0%" in gate.detail


def test_a_model_without_parameters_is_caught_where_they_vary(tmp_path, advected, write_raw):
    """Two speeds, whose files hold the same starts."""
    files = [
        write_raw(tmp_path / f"1D_Advection_Sols_beta{beta}.hdf5",
                  advected(20, 11, 32, beta=beta, seed=0), {"beta": beta})
        for beta in (0.5, 3.0)
    ]  # fmt: skip
    convert(load_card("advection1d"), files, version="two")
    run = trained("cosine_fno", more=[*SMALL, "stages.operator.steps=60"])
    assert gates_of(run)["hears_parameters"].passed

    def deafen(found):
        with torch.no_grad():
            found.modules["operator"].network.lift.weight[:, 1:].zero_()

    change(run, "operator", deafen)
    gate = gates_of(run)["hears_parameters"]
    assert not gate.passed
    assert "the model does not hear them" in gate.detail
