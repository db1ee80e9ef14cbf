"""`ups sweep`: trials, pruning, processes, and workers that are killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import yaml
from tiny_commands import ups

from ups import paths, runs
from ups.pipeline import sweep as sweeps
from ups.pipeline.space import Space
from ups.pipeline.sweep import Sweep, Watcher, default_storage, open_study
from ups.pipeline.sweep_workers import Point, best, pareto, points_of, run_sweep

WIDTHS = {"parameters": {"operator.width": {"choice": [8, 16]}}, "pruner": {"kind": "none"}}


def job(config: str, content: dict = WIDTHS, **options) -> Sweep:
    return Sweep(
        name="s", config=config, overrides=(), space=Space.model_validate(content),
        storage=default_storage(), **options,
    )  # fmt: skip


def write_space(tmp_path: Path, content: dict) -> str:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_a_sweep_is_searched_continued_and_shown(config: str, tmp_path: Path):
    space = write_space(tmp_path, WIDTHS | {"objectives": ["valid_nrmse", "train_seconds"]})
    printed = ups("sweep", config, "--space", space, "--trials", "2", "--name", "mine").stdout
    assert "mine: 2 complete" in printed
    assert "Pareto front" in printed
    ups("sweep", config, "--space", space, "--trials", "1", "--name", "mine")
    shown = json.loads(ups("sweep", "show", "mine", "--json").stdout)
    assert len(shown["trials"]) == 3
    for trial in shown["trials"]:
        assert trial["objectives"] == [trial["valid_nrmse"], trial["train_seconds"]]
        width = runs.run_experiment_of(runs.find_run(trial["run"])).operator.width
        assert width == trial["values"]["operator.width"]
    assert not list(paths.caches_dir().glob("*"))
    other = write_space(tmp_path, WIDTHS)
    assert "another space" in ups(
        "sweep", config, "--space", other, "--trials", "1", "--name", "mine", code=2
    ).stderr  # fmt: skip
    assert "did you mean 'mine'" in ups("sweep", "show", "mime", code=2).stderr


def test_a_pruned_trial_leaves_its_record_and_no_checkpoint(config: str, monkeypatch):
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.number == 1)
    content = WIDTHS | {"pruner": {"kind": "median", "warmup_validations": 1}}
    study = run_sweep(job(config, content), 2)
    first, second = points_of(study)
    assert (first.state, second.state) == ("complete", "pruned")
    assert second.error.startswith("validation nRMSE")
    (run,) = runs.list_runs("s-1")
    assert not (run / "checkpoints").exists()
    steps = [r["step"] for r in runs.read_metrics(run / runs.METRICS) if r["stage"] == "operator"]
    assert max(steps) == 4, "the second validation of three ended it"
    assert study.get_trials()[0].intermediate_values.keys() == {33, 67, 100}


def test_a_point_that_cannot_be_trained_fails_and_the_next_one_follows(config: str):
    content = WIDTHS | {
        "parameters": {"operator.width": {"choice": [8, 9]}}, "sampler": {"kind": "grid"},
    }  # fmt: skip
    study = run_sweep(job(config, content), 5)
    found = {point.values["operator.width"]: point for point in points_of(study)}
    assert {width: point.state for width, point in found.items()} == {8: "complete", 9: "fail"}
    assert "width 9 must be a multiple" in found[9].error


@pytest.mark.slow
def test_workers_share_the_trials(config: str):
    told: list[int] = []
    study = run_sweep(job(config), 3, workers=2, told=lambda trial: told.append(trial.number))
    assert sorted(told) == [0, 1, 2]
    assert [point.state for point in points_of(study)] == ["complete"] * 3


@pytest.mark.slow
def test_the_trial_of_a_killed_worker_is_run_again(config: str):
    """A worker is killed in the middle of a trial; the next call finds it and does it again."""
    killed = replace(job(config), overrides=("stages.operator.steps=100000",), heartbeat_s=1,
                     grace_s=2)  # fmt: skip
    study = open_study(killed)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=run_sweep, args=(killed, 1))
    process.start()
    limit = time.monotonic() + 60
    while not runs.list_runs("s-0") and time.monotonic() < limit:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [point.state for point in points_of(study)] == ["running"]
    time.sleep(3.5)
    asked = study.get_trials()[0].params
    run_sweep(replace(job(config), heartbeat_s=1, grace_s=2), 1)
    first, second = study.get_trials()
    assert (first.state.name, second.state.name) == ("FAIL", "COMPLETE")
    assert second.params == asked
    assert second.system_attrs["failed_trial"] == 0


def test_a_storage_that_cannot_be_opened_is_named(config: str, tmp_path: Path):
    space = write_space(tmp_path, WIDTHS)
    said = ups("sweep", config, "--space", space, "--storage", "nowhere", code=2).stderr
    assert "--storage nowhere: cannot be opened" in said


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_two_workers_draw_points_of_their_own(home: Path):
    content = {"parameters": {"seed": {"integers": [0, 10**6]}}, "sampler": {"kind": "random"}}
    drawn = []
    for worker in (0, 1, 0):
        study = open_study(job("burgers1d", content), worker)
        trial = study.ask()
        drawn.append(sweeps.values_at(Space.model_validate(content), trial)["seed"])
        study.tell(trial, 1.0)
    assert len(set(drawn)) == 3


def test_errors_are_told_by_share_of_the_stage():
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=0))
    for error, is_pruned in ((1.0, False), (3.0, True)):
        trial = study.ask()
        watcher = Watcher(trial, "operator", 200, warm_up=1)
        watcher.log({"stage": "codec", "step": 50, "valid_nrmse": 9.0})
        watcher.log({"stage": "operator", "step": 0, "valid_nrmse": 9.0})
        watcher.log({"stage": "operator", "step": 50, "valid_nrmse": error})
        if is_pruned:
            with pytest.raises(optuna.TrialPruned):
                watcher.log({"stage": "operator", "step": 100, "valid_nrmse": error})
        else:
            watcher.log({"stage": "operator", "step": 100, "valid_nrmse": error})
            study.tell(trial, error)
    assert study.get_trials()[0].intermediate_values == {25: 1.0, 50: 1.0}


def point(number: int, error: float | None, flops: float, state: str = "complete") -> Point:
    values = (error,) if error is not None else ()
    return Point(number, state, values, {}, error, 1.0, flops, 10, "", "")


def test_the_front_has_what_no_other_beats():
    found = [point(0, 0.1, 9.0), point(1, 0.2, 5.0), point(2, 0.3, 6.0), point(3, 0.1, 10.0),
             point(4, 0.5, 1.0), point(5, None, 0.1, "fail")]  # fmt: skip
    assert [one.number for one in pareto(found)] == [0, 1, 4]
    assert [one.number for one in best(found, 2)] == [0, 3]
