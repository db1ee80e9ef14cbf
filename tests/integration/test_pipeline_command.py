"""`ups pipeline` and `ups promote` from nothing to a champion, on a problem of seconds."""

from __future__ import annotations

import json
import os
import signal

import pytest
import yaml
from typer.testing import CliRunner

from ups import paths, runs
from ups.cli.main import app
from ups.pipeline.chain import Chain
from ups.pipeline.champion import load_throne
from ups.pipeline.sources import DataSource
from ups.training.loop import InterruptedRunError

STAGE = {"batch_size": 8, "log_every": 30}
CONFIG = {
    "name": "tiny",
    "device": "cpu",
    "threads": 1,
    "data": {"dataset": "advection1d", "version": "tiny"},
    "codec": {"patch_size": 8, "width": 8, "depth": 1},
    "operator": {"mixer": "attention", "width": 16, "depth": 1, "heads": 2},
    "stages": {
        "codec": STAGE | {"steps": 2, "validate_every": 2, "checkpoint_every": 2},
        "operator": STAGE | {"steps": 60, "validate_every": 30, "checkpoint_every": 30},
    },
    "evaluation": {"protocols": []},
    "tracking": {"wandb": "disabled"},
}
BENCHMARK = {
    "tasks": [{"dataset": "advection1d"}],
    "protocols": ["ic"],
    "proxy": {"trajectories": 4, "margin": 0.0},
    "gates": {"if_measured": ["data"]},
}
SOURCE = ["--trajectories", "40", "--points", "32", "--frames", "6"]


def ups(*arguments, code=0):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (arguments, result.output, result.exception)
    return result


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    """Pages take most of the time, and are tested elsewhere."""
    monkeypatch.setattr("ups.pipeline.judge.publish", lambda run: run / "report.html")


@pytest.fixture
def configs(tmp_path):
    """A config and a benchmark, as files."""
    config, benchmark = tmp_path / "tiny.yaml", tmp_path / "contest.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    benchmark.write_text(yaml.safe_dump(BENCHMARK))
    return str(config), str(benchmark)


def test_from_nothing_to_a_champion_and_a_second_call_repeats_nothing(home, configs):
    config, benchmark = configs
    asked = ["pipeline", config, "--benchmark", benchmark, *SOURCE]
    plan = ups(*asked, "--dry-run").stdout
    assert "would generate advection1d" in plan
    assert "would be the first champion" in plan
    assert not paths.runs_dir().exists()

    ups(*asked, "--reason", "the first one")
    throne = load_throne("contest")
    (run,) = runs.list_runs("tiny")
    assert throne.champion.run == runs.run_id(run)
    assert throne.champion.reason == "the first one"
    assert (paths.leaderboard_dir() / f"{throne.champion.scores[0].entry}.json").is_file()

    written = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    again = ups(*asked).stdout
    assert "found: advection1d/tiny" in again
    assert "is the champion of contest" in again
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()} == written
    assert "done: tiny/" in ups(*asked, "--dry-run").stdout

    judged_again = ups(*asked, "--from", "full-eval").stdout
    assert "unchanged, reused: advection1d" not in judged_again
    assert "no such step" in ups(*asked, "--from", "evil", code=2).stderr

    worse = ups(*asked, "--set", "seed=1", "--set", "stages.operator.steps=1", code=5)
    assert "small evaluation: advection1d, ic" in worse.stderr
    assert load_throne("contest") == throne
    poor = runs.run_id(runs.list_runs("tiny")[0])
    before = sorted(paths.leaderboard_dir().rglob("*.json"))
    told = ups("promote", poor, "--benchmark", benchmark, "--dry-run", "--json", code=5)
    assert json.loads(told.stdout)["outcome"] == "refused"
    assert not (paths.runs_dir() / poor / runs.REPORT).exists(), "not evaluated in full"
    assert sorted(paths.leaderboard_dir().rglob("*.json")) == before

    wide = yaml.safe_dump({**BENCHMARK, "name": "contest", "proxy": {"margin": 99}})
    (home / "wide.yaml").write_text(wide)
    dry = ups("promote", poor, "--benchmark", str(home / "wide.yaml"), "--dry-run").stdout
    assert "the full evaluation is next: advection1d, ic" in dry
    refused = ups("promote", poor, "--benchmark", str(home / "wide.yaml"), code=5)
    assert "accuracy: advection1d, ic" in refused.stderr
    assert "better overall" in refused.stderr, "every failed gate is named"
    assert load_throne("contest") == throne
    history = ups("promote", "--benchmark", benchmark, "--history").stdout
    assert "the first one" in history


def test_a_pipeline_that_was_stopped_goes_on_where_it_was(configs):
    config, benchmark = configs
    source = DataSource(trajectories=40, points=32, frames=6)
    chain = Chain.of(config, benchmark=benchmark, source=source)

    def stop(what, done, total, note=""):
        if what == "operator" and done == 40:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        chain.run(progress=stop)
    assert set(chain.state.done) == {"data"}
    told = []
    outcome = chain.run(told=told.append)
    reused = {step.name: step.reused for step in told}
    assert reused["data"]
    assert reused["codec"]
    assert not reused["operator"]
    assert len(runs.list_runs("tiny")) == 1
    assert outcome.promotion.outcome == "promoted"
    assert chain.run().promotion.outcome == "champion already"

    (runs.list_runs("tiny")[0] / "checkpoints" / "operator.pt").unlink()
    assert chain.run(start="train").run != outcome.run, "trained again, in a new run"
    assert len(runs.list_runs("tiny")) == 2


def test_without_a_benchmark_the_gates_of_the_config_decide(configs):
    config, _ = configs
    limit = ["--set", "evaluation.gates.nrmse_mean=1e-6"]
    missed = ups("pipeline", config, *SOURCE, *limit, code=5)
    assert "the gate is 1e-06" in missed.stderr
    assert list(paths.leaderboard_dir().glob("*.json")), "a result is a result"
    other = ups("pipeline", config, "--benchmark", "quickstart", code=2)
    assert "is of burgers1d, the config trains on advection1d" in other.stderr
