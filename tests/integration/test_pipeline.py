"""The whole path through the command line, on problems small enough for a minute."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from ups import runs
from ups.cli.main import app
from ups.cli.quickstart import describe
from ups.config.loading import load_experiment
from ups.pipeline import quickstart as pipeline
from ups.training.loop import InterruptedRunError

SMALL = [
    "operator.width=32",
    "operator.depth=2",
    "stages.codec.steps=40",
    "stages.codec.validate_every=20",
    "stages.operator.steps=160",
    "stages.operator.batch_size=32",
    "stages.operator.validate_every=80",
    "stages.operator.checkpoint_every=80",
]


def ups(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (arguments, result.output, result.exception)
    return result


def settings(*more: str) -> list[str]:
    return [part for item in [*SMALL, *more] for part in ("--set", item)]


def test_each_command_leads_to_the_next_and_the_model_beats_persistence(home: Path) -> None:
    assert "burgers1d" in ups("data", "list").stdout
    ups("data", "generate", "burgers1d", "--num-trajectories", "160", "--points", "64",
        "--frames", "21", "--param", "nu=0.1")  # fmt: skip
    ups("data", "convert", "burgers1d")
    assert json.loads(ups("data", "info", "burgers1d", "--json").stdout)["versions"] == ["nu0.1"]
    findings = json.loads(ups("data", "audit", "burgers1d", "--json").stdout)
    assert {finding["verdict"] for finding in findings} <= {"ok", "note", "warn"}

    missing = ups("train", "--stage", "operator", *settings(), code=4)
    assert "no codec trained on burgers1d/nu0.1" in missing.stderr
    assert "ups train --stage codec" in missing.stderr
    ups("train", "--stage", "codec", *settings())

    ups("cache", "build", "burgers1d")
    assert "complete" in ups("cache", "list").stdout
    ups("cache", "verify")
    assert "found here" in ups("train", "--stage", "operator", *settings()).stdout

    report = json.loads(ups("eval", "--json").stdout)[0]
    rows = {row["name"]: row["metrics"]["nrmse"]["mean"] for row in report["rows"]}
    assert rows["persistence"] > 5 * rows["model"]
    assert report["protocol"]["history"] == 1
    assert report["protocol"]["horizon"] == 20

    ups("leaderboard", "add")
    assert "already entered" in ups("leaderboard", "add").stdout
    shorter = json.loads(ups("eval", "--horizon", "5", "--history", "3", "--json").stdout)[0]
    assert shorter["protocol"]["horizon"] == 5
    ups("leaderboard", "add")
    rankings = json.loads(ups("leaderboard", "show", "--json").stdout)
    protocols = [one["protocol"]["history"] for one in rankings]
    assert sorted(protocols) == [1, 3, 10], "protocols are never ranked together"
    assert rankings[0]["lines"][0]["kind"] == "model"


def test_resolved_config_trains_again_to_the_same_result(home: Path) -> None:
    ups("data", "generate", "advection1d", "--num-trajectories", "40", "--points", "32",
        "--frames", "11")  # fmt: skip
    ups("data", "convert", "advection1d")
    short = settings("stages.operator.steps=20", "stages.operator.validate_every=20")
    ups("train", "--config", "advection1d", *short)
    first = runs.find_run(None)
    ups("train", "--config", str(first / runs.CONFIG))
    second = runs.find_run(None)
    assert first != second
    assert (first / runs.CONFIG).read_text() == (second / runs.CONFIG).read_text()
    assert runs.read_metrics(first / runs.METRICS) == runs.read_metrics(second / runs.METRICS)


def test_quickstart_reaches_its_gates_and_a_second_call_reuses_everything(
    home: Path, tmp_path: Path
) -> None:
    config = tmp_path / "small.yaml"
    content = load_experiment("quickstart", SMALL).model_dump(mode="json")
    content["evaluation"]["gates"] = {"nrmse_mean": 0.3, "persistence_ratio": 3}
    config.write_text(yaml.safe_dump(content))
    recipe = pipeline.DataRecipe(num_trajectories=120, points=64, frames=21)

    result = pipeline.quickstart(str(config), recipe)
    assert result.failed_gates == []
    assert [step.name for step in result.steps] == [
        "generate", "convert", "audit", "codec", "cache", "operator", "eval", "entry"
    ]  # fmt: skip
    page = result.page.read_text()
    assert page.count("data:image/") >= 3
    assert "http://" not in page

    again = pipeline.quickstart(str(config), recipe)
    assert again.run == result.run
    assert all(step.reused for step in again.steps if step.name != "audit")

    raw = str(home / "unseen")
    ups("data", "generate", "burgers1d", "--num-trajectories", "20", "--points", "64",
        "--frames", "21", "--seed", "7", "--out", raw)  # fmt: skip
    ups("data", "convert", "burgers1d", "--raw", raw, "--version", "unseen")
    ups("eval", "quickstart", "--version", "unseen")
    judged = pipeline.quickstart(str(config), recipe).report.protocol
    assert judged.version == "quickstart", "a report on other data is not reused"

    other = pipeline.quickstart(str(config), pipeline.DataRecipe(120, 64, 21, seed=1))
    assert other.run != result.run, "other data needs another run"


def test_a_missed_gate_exits_with_5(home: Path) -> None:
    ups("data", "generate", "advection1d", "--num-trajectories", "40", "--points", "32",
        "--frames", "11")  # fmt: skip
    ups("data", "convert", "advection1d")
    gates = settings("stages.operator.steps=2", "evaluation.gates.nrmse_mean=1e-6")
    ups("train", "--config", "advection1d", *gates)
    failed = ups("eval", code=5)
    assert "error: nRMSE mean is" in failed.stderr
    assert "the gate is 1e-06" in failed.stderr


def test_pdebench_made_file_goes_all_the_way(home: Path, shared_pdebench: Path) -> None:
    raw = shared_pdebench / "1D_Burgers_Sols_Nu0.001.hdf5"
    ups("data", "convert", "burgers1d", "--raw", str(raw), "--stride-x", "8", "--stride-t", "10")
    ups("data", "audit", "burgers1d")
    ups("train", *settings())
    report = json.loads(ups("eval", "--json").stdout)[0]
    assert report["protocol"]["version"] == "nu0.001-x8-t10"
    rows = {row["name"]: row["metrics"]["nrmse"]["mean"] for row in report["rows"]}
    assert rows["model"] < rows["persistence"]


@pytest.mark.parametrize("mixer", [pytest.param("conv", marks=pytest.mark.slow), "attention"])
def test_every_mixer_trains_below_persistence(home: Path, mixer: str) -> None:
    ups("data", "generate", "burgers1d", "--num-trajectories", "80", "--points", "64",
        "--frames", "11", "--param", "nu=0.1")  # fmt: skip
    ups("data", "convert", "burgers1d")
    ups("train", *settings(f"operator.mixer={mixer}", "stages.operator.steps=80"))
    report = json.loads(ups("eval", "--json").stdout)[0]
    rows = {row["name"]: row["metrics"]["nrmse"]["mean"] for row in report["rows"]}
    assert rows["model"] < rows["persistence"]


def test_a_run_is_judged_on_another_version_only_if_that_is_unseen(home: Path) -> None:
    def made(version: str, seed: int, points: int = 32) -> None:
        out = home / f"raw{seed}-{points}"
        ups("data", "generate", "advection1d", "--num-trajectories", "40", "--seed", str(seed),
            "--points", str(points), "--frames", "11", "--out", str(out))  # fmt: skip
        ups("data", "convert", "advection1d", "--raw", str(out), "--version", version)

    made("unseen", seed=1)
    made("finer", seed=1, points=64)
    made("trained", seed=0)
    ups("train", "--config", "advection1d", *settings("stages.operator.steps=5"))
    report = json.loads(ups("eval", "--version", "unseen", "--split", "all", "--json").stdout)[0]
    assert report["protocol"]["version"] == "unseen"
    assert report["protocol"]["num_trajectories"] == 40
    finer = json.loads(ups("eval", "--version", "finer", "--json").stdout)[0]
    assert finer["protocol"]["resolution"] == [64], "another grid of unseen data may be judged on"
    assert "training trajectories" in ups("eval", "--split", "all", code=2).stderr
    ups("data", "convert", "advection1d", "--raw", str(home / "raw0-32"), "--version", "same")
    assert "starts as one that" in ups("eval", "--version", "same", code=3).stderr


def test_a_quickstart_that_was_stopped_goes_on_where_it_was(home: Path, tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(load_experiment("quickstart", SMALL).model_dump(mode="json")))
    recipe = pipeline.DataRecipe(num_trajectories=80, points=32, frames=11)

    def stop(what: str, done: int, total: int, note: str = "") -> None:
        if what == "operator" and done == 90:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        pipeline.quickstart(str(config), recipe, progress=stop)
    told: list[str] = []
    result = pipeline.quickstart(str(config), recipe, told=lambda step: told.append(describe(step)))
    assert len(runs.list_runs("quickstart")) == 1
    text = "\n".join(told)
    assert "unchanged, reused: 40 steps" in text, "the codec was finished"
    assert "160 steps, continued from 91" in text
    assert result.report.headline is not None
