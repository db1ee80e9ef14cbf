"""`ups benchmark` from configs to a table, and again."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_commands import ups

from ups import paths, runs


def test_a_benchmark_is_one_table_and_goes_on_where_it_stopped(config: str, tmp_path: Path):
    out = tmp_path / "out"
    asked = ("benchmark", config, "--model", "fno", "--budget", "12steps", "--brief",
             "--out", str(out))  # fmt: skip
    first = ups(*asked, "--seeds", "1")
    table = first.stdout[first.stdout.index("advection1d/beta0.4") :].split("note")[0]
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 80
    assert "tiny-fno" in table
    assert "±" not in table
    content = json.loads((out / "comparison.json").read_text())
    (one,) = content["comparisons"]
    assert {line["label"] for line in one["lines"]} == {"tiny", "tiny-fno"}
    rows = [row for line in one["lines"] for row in line["rows"]]
    assert {row["steps"]["operator"] for row in rows} == {12}
    assert all(row["train_seconds"] > 0 and row["train_flops"] > 0 for row in rows)
    assert one["solver_seconds"] > 0
    assert (out / "comparison.png").is_file()
    for row in rows:
        assert (paths.runs_dir() / row["run"] / runs.REPORT).is_file()
    assert not list(paths.caches_dir().glob("*")), "each training had a cache of its own"

    assert "hint: --resume" in ups(*asked, "--seeds", "1", code=2).stderr
    before = len(runs.list_runs())
    again = ups(*asked, "--seeds", "1", "--resume")
    assert again.stdout.count("unchanged, reused") == 2
    assert len(runs.list_runs()) == before


def test_wrong_options_are_refused_before_anything_is_trained(config: str):
    assert "expected a positive number" in ups("benchmark", config, "--budget", "3", code=2).stderr
    assert "--seeds 1,1" in ups("benchmark", config, "--seeds", "1,1", code=2).stderr
    assert "no such config" in ups("benchmark", "nothing", code=2).stderr
    assert not runs.list_runs()
