"""`ups train`: what it refuses, what a dry run prints, what it says of tracking."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ups import runs
from ups.cli.main import app

SMALL = [
    "operator.width=16", "operator.depth=1", "threads=1", "stages.codec.steps=2",
    "stages.codec.batch_size=4", "stages.operator.steps=2", "stages.operator.batch_size=4",
]  # fmt: skip


def ups(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (arguments, result.output, result.exception)
    return result


def train(*arguments: str, code: int = 0, more: tuple[str, ...] = ()) -> Result:
    pairs = [part for item in [*SMALL, *more] for part in ("--set", item)]
    return ups("train", "--config", "advection1d", *arguments, *pairs, code=code)


@pytest.fixture
def data(home: Path) -> None:
    ups("data", "generate", "advection1d", "--num-trajectories", "20", "--points", "32",
        "--frames", "9")  # fmt: skip
    ups("data", "convert", "advection1d")


def test_a_missing_teacher_exits_with_4_and_names_its_command(data: None) -> None:
    for stage in ("operator", "diff_residual", "consistency_distill"):
        result = train("--stage", stage, code=4)
        assert result.stderr.startswith("error: no ")
        assert "hint: ups train --stage " in result.stderr
    assert runs.list_runs() == []
    train("--stage", "codec")
    result = train("--stage", "diff_residual", code=4)
    assert "no finished stage 'operator' of an experiment 'advection1d'" in result.stderr
    assert "hint: ups train --stage operator" in result.stderr


def test_stages_in_a_wrong_order_exit_with_2(data: None) -> None:
    result = train(code=2, more=("stages.order=[operator, codec]",))
    assert "operator must come once, and after codec" in result.stderr
    result = train("--stage", "steady_prior", code=2)
    assert "stage steady_prior: advection1d depends on time" in result.stderr
    assert "hint: ups train --stage operator" in result.stderr
    assert runs.list_runs() == []


@pytest.mark.parametrize("text", ["advection1d", "[advection1d]", "[{dataset: advection1d}]"])
def test_a_task_may_be_one_word_a_list_or_a_mapping(data: None, tmp_path: Path, text: str) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(f"name: mine\ndata: {{task: {text}}}\n")
    shown = ups("config", "show", "--config", str(config)).stdout
    assert "dataset: advection1d" in shown
    pairs = [part for item in SMALL for part in ("--set", item)]
    assert "pdet_stack" in ups("train", "--config", str(config), "--dry-run", *pairs).stdout


def test_a_dry_run_prints_sizes_and_costs_in_80_columns(
    data: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    printed = train("--stage", "all", "--dry-run").stdout
    plan = printed.partition("---\n")[2]
    table = plan[plan.index("From a probe") : plan.index("in all")]
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 80, table
    assert "…" not in table
    rows = {line.split()[0]: line for line in plan.splitlines() if line.strip()}
    for stage in ("codec", "operator", "diff_residual", "consistency_distill"):
        assert stage in rows, plan
    operator = rows["operator"]
    assert re.search(r"GFLOP .*[kM]B .*\d (ms|s|min)", operator), operator
    for label in ("data", "device", "in"):
        assert label in rows
    assert runs.list_runs() == []


def test_offline_tracking_ends_with_the_command_that_sends_it(
    data: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    untracked = train().stdout
    assert "wandb" not in untracked
    tracked = train(more=("tracking.wandb=offline",)).stdout
    assert re.search(r"tracked +offline; to send it:\s+wandb sync", tracked), tracked
