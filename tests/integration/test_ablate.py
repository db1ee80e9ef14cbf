"""`ups ablate`: parts are listed, taken away and tabulated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_commands import ups

from ups import runs
from ups.pipeline.ablation_parts import PARTS


def test_every_part_is_listed_with_what_it_is():
    listed = ups("ablate", "--list").stdout
    assert all(name in listed for name in PARTS)


def test_each_variant_is_trained_and_compared_with_the_whole(config: str, tmp_path: Path):
    out = tmp_path / "out"
    asked = ("ablate", config, "--off", "muon", "--budget", "6steps", "--out", str(out))
    printed = ups(*asked, "--seeds", "1,2").stdout
    table = printed[printed.index("Ablation of") :].split("note")[0]
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 80
    content = json.loads((out / "ablation.json").read_text())
    losses = {loss["part"]: loss for loss in content["losses"]}
    assert next(iter(losses)) == "full"
    assert set(losses) == {"full", "muon"}
    whole = [row["nrmse"] for row in losses["full"]["rows"]]
    pairs = zip(losses["muon"]["rows"], whole, strict=True)
    ratios = [row["nrmse"] / other for row, other in pairs]
    expected = (ratios[0] * ratios[1]) ** 0.5 - 1
    change = losses["muon"]["change"]
    assert change["mean"] == pytest.approx(expected, rel=1e-6)
    assert change["low"] < expected < change["high"]
    kinds = {
        runs.run_experiment_of(runs.find_run(row["run"])).stages.operator.optimizer.kind
        for row in losses["muon"]["rows"]
    }
    assert kinds == {"adamw"}
    assert len(runs.list_runs()) == 4


def test_a_part_that_the_config_does_not_have_says_so(config: str):
    said = ups("ablate", config, "--off", "local", code=2).stderr
    assert "config 'tiny' does not have it" in said
    assert "ups ablate CONFIG --off" in ups("ablate", config, code=2).stderr
    assert not runs.list_runs()
