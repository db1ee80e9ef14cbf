"""`verify` confirms what is true, refutes what was tampered with, and says what it cannot check."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from ups import files, paths, runs
from ups.cli.main import app
from ups.config.loading import merged
from ups.config.schema import Experiment
from ups.evaluation.context import open_context
from ups.evaluation.evaluate import evaluate
from ups.leaderboard import entries
from ups.pipeline.verify import verify
from ups.training import run as training

STAGE = {
    "batch_size": 8, "log_every": 1, "validate_every": 3, "checkpoint_every": 4,
    "schedule": {"warmup_steps": 2},
}  # fmt: skip
TINY = {
    "name": "tiny",
    "device": "cpu",
    "threads": 1,
    "data": {"dataset": "advection1d", "version": "tiny"},
    "codec": {"patch_size": 8, "width": 8, "depth": 1},
    "operator": {"width": 16, "depth": 1},
    "stages": {
        "codec": STAGE | {"steps": 4},
        "operator": STAGE | {"steps": 6},
    },
}
HISTORIES = (1, 2, 3, 4, 5)


@pytest.fixture
def board(store):
    """Ten fresh entries: two seeds under five protocols."""
    folder = paths.leaderboard_dir()
    for seed in (0, 1):
        training.train(Experiment.model_validate(merged(TINY, {"seed": seed})))
        (run,) = [one for one in runs.list_runs(with_stage=runs.MODEL)
                  if runs.run_experiment_of(one).seed == seed]  # fmt: skip
        settings = runs.run_experiment_of(run).evaluation
        for history in HISTORIES:
            context = open_context(
                run, settings=settings.model_copy(update={"history": history}),
                protocol_name=f"h{history}",
            )  # fmt: skip
            entries.add(evaluate(context).path, folder)
    return entries.load_all(folder)


def ups(*arguments, code=0):
    result = CliRunner().invoke(app, ["leaderboard", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def tampered(entry, change):
    """A copy that says something else, under the name that fits it; the original goes."""
    path = entry.path(paths.leaderboard_dir())
    content = json.loads(path.read_text())
    change(content)
    path.unlink()
    forged = path.with_name(f"{files.sha256_json(content)[:16]}.json")
    forged.write_text(json.dumps(content))
    return entries.load(forged)


def scaled(content):
    """Half the error in every place where it is stated."""
    row = content["rows"][0]
    row["metrics"]["nrmse"] = {key: value / 2 for key, value in row["metrics"]["nrmse"].items()}
    row["per_trajectory"]["nrmse"] = [value / 2 for value in row["per_trajectory"]["nrmse"]]


def test_ten_fresh_entries_are_confirmed_and_a_tampered_one_is_refuted(board):
    assert len(board) == 10
    assert ups("verify", "--all").stdout.count("confirmed") == 10
    reports = {run: sorted(run.glob("report*.json")) for run in runs.list_runs()}
    forged = tampered(board[3], scaled)
    result = ups("verify", forged.id[:8], code=5)
    assert f"refuted: {forged.id[:8]}" in result.stderr
    assert "nrmse" in result.stdout
    (found,) = json.loads(ups("verify", forged.id[:10], "--json", code=5).stdout)
    wrong = [check for check in found["checks"] if not check["agrees"]]
    assert {(check["row"], check["metric"]) for check in wrong} == {("model", "nrmse")}
    assert {check["what"] for check in wrong} >= {"mean", "each trajectory"}
    assert wrong[0]["deviation"] == pytest.approx(0.5, rel=1e-3)
    assert {run: sorted(run.glob("report*.json")) for run in runs.list_runs()} == reports

    assert verify(forged, tolerance=0.6).state == "confirmed", "all within 60 %"
    small = verify(tampered(board[4], lambda content: content["rows"][0]["metrics"]["vrmse"].update(
        mean=content["rows"][0]["metrics"]["vrmse"]["mean"] * 1.01)))  # fmt: skip
    assert small.state == "refuted"

    facts = verify(tampered(board[5], lambda content: content["run"].update(
        num_parameters=7, seed=5)))  # fmt: skip
    assert facts.state == "refuted"
    assert not facts.refuted
    assert any("num_parameters is '7'" in line for line in facts.wrong)

    less = verify(tampered(board[6], lambda content: content["rows"].pop(0)))
    assert "it has no row 'model'" in less.wrong
    _what_is_missing_is_named(board)


def _what_is_missing_is_named(board):
    """Without the data, then without the checkpoint."""
    data = paths.data_dir("advection1d")
    moved = data.rename(data.with_name("elsewhere"))
    result = ups("verify", board[0].id, code=4)
    assert "advection1d" in result.stdout
    assert "ups reproduce" in result.stderr
    moved.rename(data)
    shutil.rmtree(paths.runs_dir())
    result = ups("verify", board[0].id, code=4)
    assert "no run in" in result.stdout
    ups("verify", code=2)
    ups("verify", board[0].id, "--all", code=2)
