"""`ups data bench`: measured figures of the user's own data."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from ups.cli import data_bench
from ups.cli._app import UpsGroup
from ups.data.convert import convert
from ups.data.generate import generate
from ups.registry import load_card

app = typer.Typer(cls=UpsGroup)
app.command("bench")(data_bench.bench)
app.command("other")(lambda: None)


@pytest.fixture
def converted(tmp_path):
    for key, parameters in (("advection1d", {"beta": 1.0}), ("burgers1d", {"nu": 1.0})):
        card = load_card(key)
        raw = generate(card, parameters=parameters, num_trajectories=20, seed=0, points=32,
                       frames=20, out_dir=tmp_path / "raw")  # fmt: skip
        convert(card, [raw], version="tiny")


def run(*arguments):
    return CliRunner().invoke(
        app, ["bench", *arguments, "--seconds", "0.05", "--batch-size", "8", "--workers", "2"]
    )


def test_both_tasks_are_measured_in_their_proportions(converted):
    result = run("advection1d", "burgers1d/tiny", "--json", "--weights",
                 "advection1d=3,burgers1d/tiny=1", "--augment", "shift,noise=0.01")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [task["weight"] for task in found["tasks"]] == [0.75, 0.25]
    for task in found["tasks"]:
        assert task["windows"] == 16 * 16
        assert task["window_bytes"] == 5 * 32 * 4
        assert 0 < task["memmap"]["low"] <= task["memmap"]["median"] <= task["memmap"]["high"]
    alone, together = found["loader"]
    assert (alone["workers"], together["workers"]) == (0, 2)
    batches = alone["batches"]
    total = sum(batches.values())
    assert batches["advection1d"] / total == pytest.approx(0.75, abs=0.5 / total + 4 / total)
    for speed in found["loader"]:
        assert speed["bytes_per_s"] == pytest.approx(speed["windows_per_s"] * 5 * 32 * 4)


def test_output_fits_80_columns(converted, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = run("advection1d", "burgers1d")
    assert result.exit_code == 0, result.output
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    for word in ("advection1d", "burgers1d", "x memmap", "windows/s", "2 workers", "no worker"):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["nothing1d"], 2, "nothing1d: unknown dataset"),
        (["advection1d/tinny"], 3, "did you mean 'tiny'"),
        (["advection1d", "--augment", "reflection"], 2, "pde.symmetries (shift)"),
        (["advection1d", "--augment", "shfit"], 2, "did you mean 'shift'"),
        (["advection1d", "--weights", "x"], 2, "expected uniform, size or KEY=WEIGHT"),
        (["advection1d", "--weights", "burgers1d=1"], 2, "unknown task 'burgers1d'"),
        (["advection1d", "--horizon", "20"], 3, "does not fit into 20 frames"),
        (["advection1d", "advection1d"], 2, "distinct names"),
    ],
)
def test_what_cannot_be_measured_is_one_line(converted, arguments, code, what):
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert what in result.stderr
    assert "Traceback" not in result.output
