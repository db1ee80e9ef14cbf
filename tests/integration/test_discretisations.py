"""Steady problems, meshes and particles by the commands a user types, to sane numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ups import load_card, runs
from ups.cli.main import app

SMALL = [
    "operator.width=16", "operator.depth=1", "threads=1", "evaluation.split=valid",
    "stages.codec.steps=2", "stages.codec.batch_size=4",
    "stages.operator.steps=3", "stages.operator.batch_size=4",
    "stages.operator.unroll=[{start: 0, steps: 1}]",
    "stages.steady_prior.steps=60", "stages.steady_prior.batch_size=4",
    *(f"stages.{stage}.optimizer.lr=1e-2" for stage in ("operator", "steady_prior")),
    *(f"stages.{stage}.schedule.warmup_steps=1" for stage in ("codec", "operator", "steady_prior")),
]  # fmt: skip
POINTS = ["codec.anchors=[6,6]", "codec.width=8", "codec.supernodes=16", "codec.gate=1"]


def ups(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (arguments, result.output, result.exception)
    return result


def train(config: str, *more: str, stage: str | None = None) -> Path:
    chosen = [] if stage is None else ["--stage", stage]
    pairs = [part for item in [*SMALL, *more] for part in ("--set", item)]
    ups("train", "--config", config, *chosen, *pairs)
    return runs.find_run(None)


@pytest.fixture
def made() -> Callable[..., None]:
    """made(key, count, points, frames): a few trajectories, converted."""

    def make(key: str, count: int, points: int, frames: int | None = None) -> None:
        length = [] if frames is None else ["--frames", str(frames)]
        ups("data", "generate", key, "--num-trajectories", str(count), "--points", str(points),
            *length)  # fmt: skip
        ups("data", "convert", key)

    return make


def errors_of(report: dict) -> dict[str, float]:
    """nRMSE mean of every row, all finite."""
    found = {row["name"]: row["metrics"]["nrmse"]["mean"] for row in report["rows"]}
    assert all(math.isfinite(value) for value in found.values())
    return found


def judged(run: Path) -> dict[str, float]:
    report = json.loads(ups("eval", "--json").stdout)[0]
    assert (run / "report.html").is_file()
    assert all(path.stat().st_size > 5000 for path in (run / "report").glob("*.png"))
    return errors_of(report)


def test_darcy_on_a_grid_by_its_prior_and_by_an_operator(home: Path, made: Callable) -> None:
    made("darcy2d", 40, 16)
    small = ["codec.patch_size=4", "codec.gate=1"]
    run = train("darcy2d", *small)
    assert runs.planned(run).stages == ("codec", "steady_prior")
    prior = judged(run)
    assert prior["model"] < 0.8 * prior["training mean"]
    assert {path.stem for path in (run / "report").glob("*.npz")} == {"darcy2d.own"}
    printed = ups("eval").stdout
    assert "steady" in printed
    assert "× mean" in printed

    run = train("darcy2d", *small, "stages.operator.steps=80", stage="operator")
    operator = judged(run)
    assert operator["model"] < operator["training mean"]


def test_darcy_on_meshes(home: Path, made: Callable) -> None:
    made("darcy2d_mesh", 12, 200)
    run = train("darcy2d_mesh", *POINTS)
    assert runs.planned(run).stages == ("codec", "steady_prior")
    found = judged(run)
    assert found["model"] < 1.1 * found["training mean"], "after some steps on ten problems"
    records = [r for r in runs.read_metrics(run / runs.METRICS) if r["stage"] == "steady_prior"]
    errors = [record["valid_nrmse"] for record in records if "valid_nrmse" in record]
    assert errors[-1] < 0.9 * errors[0]
    assert "at nodes" in (run / "report.html").read_text()


def test_particles_that_move(home: Path, made: Callable) -> None:
    made("particles_advect", 12, 60, 6)
    run = train("particles_advect", *POINTS)
    assert runs.planned(run).stages == ("codec", "operator")
    found = judged(run)
    assert found["model"] < 2 * found["persistence"], "three steps of training do no harm"
    page = (run / "report.html").read_text()
    assert all(name in page for name in load_card("particles_advect").field_names)
