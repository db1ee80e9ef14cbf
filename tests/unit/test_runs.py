"""Run folders: made once each, found by any name a person would use."""

from __future__ import annotations

import json

import pytest

from ups import paths, runs
from ups.config.schema import Experiment
from ups.errors import CheckpointError

EXPERIMENT = Experiment.model_validate({"name": "mine", "data": {"dataset": "burgers1d"}})


def run_at(stamp, name="mine", stages=("operator",)):
    folder = paths.runs_dir() / name / f"{stamp}-abc"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / runs.CONFIG).write_text("name: x\n")
    for stage in stages:
        runs.checkpoint_path(folder, stage).write_text("")
    return folder


def test_runs_of_the_same_second_get_folders_of_their_own():
    made = [runs.create_run(EXPERIMENT, stages=["codec"]) for _ in range(3)]
    assert len(set(made)) == 3
    assert all(run.parent == paths.runs_dir() / "mine" for run in made)
    assert set(runs.list_runs()) == set(made)


def test_a_run_remembers_its_config_its_stages_and_what_they_stand_on(tmp_path):
    codec = tmp_path / "codec.pt"
    run = runs.create_run(EXPERIMENT, stages=["operator"], stands_on={"codec": codec})
    assert runs.run_experiment_of(run) == EXPERIMENT
    plan = runs.planned(run)
    assert (plan.stages, plan.stands_on) == (("operator",), {"codec": str(codec)})
    plan = runs.planned(runs.create_run(EXPERIMENT, stages=["codec"]))
    assert (plan.stages, plan.stands_on) == (("codec",), {})


def test_the_record_of_the_environment_holds_no_secret(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "hush-hush")
    run = runs.create_run(EXPERIMENT)
    assert "hush-hush" not in "".join(p.read_text() for p in run.iterdir() if p.is_file())
    record = json.loads((run / runs.ENVIRONMENT).read_text())
    assert record["packages"]["torch"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"stages": ["codec"]}'])
def test_a_damaged_record_is_a_checkpoint_error(text):
    run = runs.create_run(EXPERIMENT)
    (run / runs.ENVIRONMENT).write_text(text)
    with pytest.raises(CheckpointError, match="not the record of a run"):
        runs.planned(run)


def test_a_run_is_found_by_path_by_id_by_name_and_as_the_newest(home):
    old, new = run_at("20250101T000000Z"), run_at("20260101T000000Z")
    other = run_at("20270101T000000Z", name="other")
    unfinished = run_at("20280101T000000Z", stages=("codec",))
    assert runs.find_run(None) == other
    assert runs.find_run("mine") == new
    for given in (old, str(old), "mine/20250101T000000Z-abc"):
        assert runs.find_run(given) == old
    assert runs.find_run("mine", with_stage="codec") == unfinished
    assert runs.run_id(old) == "mine/20250101T000000Z-abc"


def test_a_run_that_is_not_there_offers_the_nearest():
    run_at("20250101T000000Z")
    with pytest.raises(CheckpointError, match=r"mien: no such run \(did you mean 'mine'\?\)"):
        runs.find_run("mien")


def test_a_run_without_the_stage_says_how_to_go_on():
    run = run_at("20250101T000000Z", stages=("codec",))
    with pytest.raises(CheckpointError, match="has no model that predicts yet") as caught:
        runs.find_run(runs.run_id(run))
    assert "ups train --resume mine/20250101T000000Z-abc" in caught.value.hint


def test_no_run_at_all_names_the_command():
    with pytest.raises(CheckpointError, match="no run with a model that predicts") as caught:
        runs.find_run(None)
    assert caught.value.hint == "ups train --stage operator, or steady_prior"
