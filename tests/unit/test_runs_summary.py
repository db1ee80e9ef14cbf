"""What is said about a run: read from small files, right for every state of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from ups import files, runs
from ups.config.schema import Experiment
from ups.runs import summary

STEPS = {"codec": {"steps": 40}, "operator": {"steps": 100}}


@pytest.fixture
def make():
    """make(stages={stage: last step}, ...) -> a run folder as training would leave it."""

    def run(reached, planned=("codec", "operator"), finished=(), data=None, **stages):
        data = data or {"dataset": "burgers1d", "version": "v1"}
        content = {"name": "mine", "data": data, "stages": {**STEPS, **stages}}
        folder = runs.create_run(Experiment.model_validate(content), stages=planned)
        records = []
        for stage, last in reached.items():
            for step in range(0, last + 1, 20):
                values = {"loss": 1 / (step + 1), "valid_nrmse": 2 / (step + 1)}
                records.append({"stage": stage, "step": step, "time": float(step), **values})
            runs.checkpoint_path(folder, stage).write_bytes(b"weights")
            if stage in finished:
                records.append({"stage": stage, "step": last, "finished": True})
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / runs.METRICS).write_text(text)
        return folder

    return run


def test_a_finished_run_says_how_far_how_good_and_how_long(make):
    found = summary.summarise(make({"codec": 40, "operator": 100}))
    assert found.state == "finished"
    codec, operator = found.stages
    assert (codec.name, codec.step, codec.steps, codec.finished) == ("codec", 40, 40, True)
    assert (operator.metric, operator.best, operator.best_step) == ("valid_nrmse", 2 / 101, 100)
    assert (operator.loss, operator.seconds) == (1 / 101, 100.0)
    assert found.datasets == ("burgers1d (v1)",)
    assert found.size_bytes == sum(p.stat().st_size for p in found.folder.rglob("*") if p.is_file())


def test_a_run_in_progress_is_told_from_a_stopped_one_by_its_lock(make):
    run = make({"codec": 40, "operator": 60})
    assert summary.summarise(run).state == "stopped"
    assert [stage.finished for stage in summary.summarise(run).stages] == [True, False]
    with files.exclusive(run, "training"):
        assert summary.summarise(run).state == "running"
        assert files.is_locked(run)
    assert summary.summarise(run).state == "stopped"


def test_asking_whether_a_run_is_locked_leaves_nothing_behind(tmp_path):
    assert not files.is_locked(tmp_path / "target")
    assert not list(tmp_path.iterdir())


def test_a_stage_that_has_not_begun_is_listed(make):
    stages = summary.summarise(make({"codec": 20})).stages
    assert [(s.name, s.step, s.finished, s.best_step) for s in stages] == [
        ("codec", 20, False, 20), ("operator", 0, False, None),
    ]  # fmt: skip


def test_a_stage_that_stopped_early_is_finished_where_it_said_so(make):
    assert summary.summarise(make({"codec": 40, "operator": 60}, finished=["operator"])).state == (
        "finished"
    )
    assert summary.summarise(make({"codec": 20, "operator": 100})).state == "finished"


def test_a_curriculum_has_no_number_of_steps_in_the_config(make):
    run = make({"codec": 40, "operator": 100}, operator={"curriculum": [{"steps": 300}]})
    operator = summary.summarise(run).stages[1]
    assert (operator.steps, operator.finished) == (None, False)


def test_a_stage_without_its_checkpoint_is_not_finished(make):
    run = make({"codec": 40, "operator": 100})
    runs.checkpoint_path(run, "operator").unlink()
    assert not summary.summarise(run).stages[1].finished


def test_every_dataset_of_a_run_with_several_is_named(make):
    tasks = ["burgers1d", {"dataset": "darcy2d", "version": "v2", "name": "darcy"}]
    found = summary.summarise(make({}, data={"task": tasks}))
    assert found.datasets == ("burgers1d (latest)", "darcy2d (v2)")


def test_the_report_gives_the_score(make):
    run = make({"codec": 40, "operator": 100})
    nrmse = {"mean": 0.01, "median": 0.005}
    rows = [{"name": "model", "metrics": {"nrmse": nrmse}}]
    (run / runs.REPORT).write_text(json.dumps({"protocol": {"split": "test"}, "rows": rows}))
    found = summary.summarise(run)
    assert (found.score, found.score_of) == (0.01, "test")
    assert summary.report_rows(run) == [{"name": "model", **nrmse}]


@pytest.mark.parametrize("name", [runs.REPORT, runs.TRACKING, runs.CODEC_CARD, runs.ENVIRONMENT])
@pytest.mark.parametrize("text", ["", "[]", "{", '{"rows": 3, "stages": [1]}'])
def test_damaged_files_do_not_hide_a_run(make, name, text):
    run = make({"codec": 40})
    (run / name).write_text(text)
    found = summary.summarise(run)
    assert found.stages[0].step == 40
    assert found.score is None
    assert summary.codec_cards(run) == {}


def test_a_config_of_another_program_is_read_as_far_as_it_goes(make):
    run = make({"codec": 40})
    (run / runs.CONFIG).write_text("data: 3\nstages: [1]\nlr: 0.1\n")
    assert summary.summarise(run).datasets == ()
    (run / runs.CONFIG).write_text("data: {task: [a, {dataset: b}, {}, 3]}\n")
    assert summary.summarise(run).datasets == ("a", "b")
    (run / runs.CONFIG).write_text(": {")
    assert summary.summarise(run).datasets == ()


def test_checkpoints_are_listed_with_their_hashes(make):
    (one, two) = summary.checkpoints_of(make({"codec": 40, "operator": 20}))
    assert (one["name"], two["name"]) == ("codec.pt", "operator.pt")
    assert one["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert one["size_bytes"] == 7


def test_codec_cards_are_found_one_for_a_task_or_one_alone(make):
    run = make({})
    errors = {"nrmse": 1e-7, "low": 1e-8}
    card = {"native": errors, "double": errors, "num_frames": 64}
    (run / runs.CODEC_CARD).write_text(json.dumps(card))
    assert summary.codec_cards(run) == {"native": errors, "double": errors}
    (run / runs.CODEC_CARD).write_text(json.dumps({"burgers1d": card}))
    assert list(summary.codec_cards(run)) == ["burgers1d/native", "burgers1d/double"]


def test_offline_metrics_come_with_the_command_that_sends_them(make):
    run = make({})
    assert summary.sync_command(run) is None
    (run / "wandb/offline-run-1").mkdir(parents=True)
    context = {"id": "x", "url": None, "unsynced": ["wandb/offline-run-1"]}
    (run / runs.TRACKING).write_text(json.dumps(context))
    command = summary.sync_command(run)
    assert command == f"wandb sync {run}/wandb/offline-run-*"
    assert len(list(Path(command.split()[-1]).parent.glob("offline-run-*"))) == 1
    (run / "wandb/offline-run-1").rmdir()
    assert summary.sync_command(run) is None


def test_what_is_printed_as_json_is_plain(make):
    found = summary.summarise(make({"codec": 40}))
    assert json.loads(json.dumps(found.to_dict()))["stages"][0]["name"] == "codec"
