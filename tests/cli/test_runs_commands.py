"""`ups runs`: readable at 80 columns, quick to start, clear when something is not there."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ups import runs
from ups.cli._runs_text import age
from ups.cli.main import app
from ups.config.schema import Experiment

LONG = "reaction_diffusion2d_with_attention"


@pytest.fixture
def trained(home, monkeypatch) -> list[Path]:
    """A finished run and a longer-named one that was stopped."""
    monkeypatch.setenv("COLUMNS", "80")
    made = []
    for name, last in (("mine", 100), (LONG, 60)):
        data = {"dataset": "burgers1d", "version": "nu0.01-x4-t5"}
        if name == LONG:
            data = {"task": ["burgers1d", "advection1d", "darcy2d_mesh", "particles_advect"]}
        stages = {"codec": {"steps": 40}, "operator": {"steps": 100}}
        content = {"name": name, "data": data, "stages": stages}
        run = runs.create_run(Experiment.model_validate(content), stages=["codec", "operator"])
        with (run / runs.METRICS).open("w") as file:
            for stage, steps in (("codec", 40), ("operator", last)):
                for step in range(0, steps + 1, 10):
                    values = {"loss": math.exp(-step / 50), "valid_nrmse": math.exp(-step / 30)}
                    record = {"stage": stage, "step": step, "time": 1e9 + step, **values}
                    file.write(json.dumps(record) + "\n")
                runs.checkpoint_path(run, stage).write_bytes(b"weights")
        made.append(run)
    rows = [{"name": "model", "metrics": {"nrmse": {"mean": 0.0055, "median": 0.0044}}}]
    report = {"protocol": {"split": "test"}, "rows": rows}
    (made[0] / runs.REPORT).write_text(json.dumps(report))
    card = {"native": {"nrmse": 1e-7, "low": 1e-8}}
    (made[0] / runs.CODEC_CARD).write_text(json.dumps(card))
    return made


def call(*arguments, code=0):
    result = CliRunner().invoke(app, ["runs", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_the_list_says_how_far_and_how_good_each_run_is(trained):
    text = call("list").stdout
    assert all(len(line) <= 80 for line in text.splitlines())
    short, long = (runs.run_id(run) for run in trained)
    assert short in text
    assert long in text
    flat = " ".join(text.split())
    assert "burgers1d (nu0.01-x4-t5) | codec ✓ 40, operator ✓ 100 | nRMSE 0.0055 (test)" in flat
    assert "stopped | burgers1d (latest), advection1d (latest)" in flat
    assert "codec ✓ 40, operator 60/100 | operator/valid_nrmse 0.1353" in flat


def test_the_list_is_newest_first_and_can_be_narrowed(trained):
    found = json.loads(call("list", "--json").stdout)
    assert [item["id"] for item in found] == [runs.run_id(run) for run in runs.list_runs()]
    assert len(found) == 2
    (only,) = json.loads(call("list", "--name", "mi*", "--json").stdout)
    assert only["stages"][1]["best"] == pytest.approx(math.exp(-100 / 30))
    assert call("list", "--name", "none").stdout.startswith("empty")


def test_one_run_is_shown_with_its_parts(trained):
    text = call("show", "mine").stdout
    for part in ("finished", "operator.pt", "0.0055", "1.0e-07", "valid_nrmse", "nu0.01-x4-t5"):
        assert part in text
    found = json.loads(call("show", "mine", "--json").stdout)
    assert found["config"]
    assert [item["name"] for item in found["checkpoints"]] == ["codec.pt", "operator.pt"]
    assert len(found["checkpoints"][0]["sha256"]) == 64


def test_curves_are_drawn_and_printed(trained, tmp_path):
    picture = tmp_path / "x.png"
    text = call("plot", "mine", LONG, "--out", picture).stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    lines = [line for line in text.splitlines() if not line.startswith("plot")]
    assert all(len(line) <= 80 for line in lines)
    assert sum("operator/loss" in line for line in lines) == 2
    assert any("█" in line and "min 0.135 at 100" in line for line in lines)


def test_a_single_run_keeps_its_curves(trained):
    call("plot", "mine", "--metric", "operator/loss", "--over", "time", "--log-x")
    assert (trained[0] / "curves.png").is_file()


def test_a_metric_that_one_of_two_runs_has_is_drawn(trained, tmp_path):
    with (trained[0] / runs.METRICS).open("a") as file:
        file.write('{"stage": "operator", "step": 100, "only": 1.0}\n')
    arguments = ("--metric", "operator/only", "--out", tmp_path / "x.png")
    assert "operator/only" in call("plot", "mine", LONG, *arguments).stdout
    error = call("plot", LONG, *arguments, code=2).stderr
    assert "operator/only: no such metric" in error
    assert "recorded are codec/loss" in error


def test_metrics_are_exported_as_one_row_a_number(trained, tmp_path):
    out = tmp_path / "m.csv"
    call("export", "mine", LONG, "--out", out)
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (5 + 11) + 2 * (5 + 7)
    assert {row["run"] for row in rows} == {runs.run_id(run) for run in trained}
    assert float(rows[0]["value"]) == 1.0
    call("export", "mine", "--out", tmp_path / "m.json")
    assert len(json.loads((tmp_path / "m.json").read_text())) == 32
    assert call("export", "mine").stdout.count("\n") == 33


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show", "mnie"), 4, "did you mean 'mine'?"),
        (("plot", "mine", "--out", "x.gif"), 2, "ends in .png"),
        (("export", "mine", "--out", "x.parquet"), 2, ".csv or .json"),
        (("fetch", "a/b"), 2, "ENTITY/PROJECT/RUNID"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(trained, arguments, code, message):
    assert message in call(*arguments, code=code).stderr


def test_a_run_without_metrics_cannot_be_plotted(trained):
    (trained[0] / runs.METRICS).write_text("")
    assert "no metrics recorded yet" in call("plot", "mine", code=2).stderr


def test_runs_without_times_cannot_be_plotted_over_time(trained):
    (trained[0] / runs.METRICS).write_text('{"stage": "codec", "step": 1, "loss": 1.0}\n')
    assert "no times recorded" in call("plot", "mine", "--over", "time", code=2).stderr


def test_listing_showing_and_exporting_import_nothing_slow(trained):
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom ups.cli.main import app\n"
        "for words in (['list'], ['show', 'mine'], ['export', 'mine']):\n"
        "    assert CliRunner().invoke(app, ['runs', *words]).exit_code == 0, words\n"
        "slow = ('torch', 'h5py', 'zarr', 'wandb', 'matplotlib', 'scipy', 'numpy')\n"
        "print([name for name in slow if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


@pytest.mark.parametrize(
    ("began", "text"),
    [
        ("2026-03-01T11:59:30Z", "30 s ago"),
        ("2026-03-01T11:00:00Z", "1 h ago"),
        ("2026-02-27T12:00:00Z", "2 d ago"),
        ("2025-03-01T12:00:00Z", "2025-03-01"),
        ("2026-03-01T12:00:01Z", "2026-03-01"),
    ],
)
def test_ages_are_short(began, text):
    assert age(began, datetime(2026, 3, 1, 12, tzinfo=UTC)) == text


def test_runs_are_compared_by_settings_and_outcomes(trained, tmp_path):
    picture = tmp_path / "both.png"
    (trained[0] / runs.REPORT).unlink()  # a fragment, which is no report
    text = call("compare", *trained, "--out", picture).stdout
    assert picture.stat().st_size > 5000
    lines = text.splitlines()
    assert lines[-1].startswith("plot ")
    assert all(len(line) <= 80 for line in lines[:-1])
    flat = " ".join(text.split())
    assert f"A {runs.run_id(trained[0])} B {runs.run_id(trained[1])}" in flat
    assert "name mine reaction_diff" in flat
    assert "operator valid_nrmse 0.03567 0.1353" in flat
    assert "stages.codec.steps" not in flat, "the same in both"
    found = json.loads(call("compare", *trained, "--json").stdout)
    assert found["settings"]["name"] == ["mine", LONG]
    assert found["outcomes"]["operator seconds"] == [100, 60]


def test_a_comparison_needs_two_runs_that_are_there(trained):
    assert "two runs or more" in call("compare", "mine", code=2).stderr
    assert "two runs or more" in call("compare", "mine", str(trained[0]), code=2).stderr
    call("compare", "mine", "nowhere", code=4)
