"""A run is judged under several protocols side by side, and each has a report of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ups import convert, generate, load_card, load_experiment, runs, train
from ups.errors import UsageError
from ups.evaluation.report import load_report, report_files
from ups.pipeline.judge import Request, judge, own_reports


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("judging")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPS_HOME", str(home))
        card = load_card("burgers1d")
        raw = generate(card, parameters={"nu": 0.1}, num_trajectories=60, seed=0,
                       out_dir=home / "raw", points=32, frames=15, workers=1)  # fmt: skip
        convert(card, [raw], version="small", workers=1)
        torch.manual_seed(0)
        run = train(load_experiment("base", [
            "data.version=small", "threads=1", "device=cpu", "codec.patch_size=4",
            "operator.width=16", "operator.depth=1", "stages.codec.steps=2",
            "stages.operator.steps=30", "evaluation.gates.nrmse_mean=1.0e-6",
        ]))  # fmt: skip
    return home, run


@pytest.fixture
def run(trained, home, monkeypatch):
    monkeypatch.setenv("UPS_HOME", str(trained[0]))
    return trained[1]


def test_both_protocols_stand_side_by_side_and_the_configs_own_comes_first(run):
    found = judge(run)
    assert [one.report.protocol_name for one in found] == ["own", "pdebench"], "own is ic here"
    assert [path.name for path in report_files(run)] == ["report.json", "report.pdebench.json"]
    own, ten = (load_report(path) for path in report_files(run))
    assert (own.protocol.history, own.protocol.horizon) == (1, 14)
    assert (ten.protocol.history, ten.protocol.horizon) == (10, 5)
    assert own.protocol.id != ten.protocol.id
    assert own == found[0].report
    assert own_reports(found) == [own]

    model = own.rows[0]
    values = np.array(model.per_trajectory["nrmse"])
    assert len(own.trajectories) == len(values) == own.protocol.num_trajectories
    assert values.mean() == pytest.approx(model.value("nrmse"))
    low, high = model.intervals["nrmse"]["mean"]
    assert low < values.mean() < high
    assert {"one_step", "long_rollout", "cost"} <= own.sections.keys()
    assert own.sections["cost"]["train_seconds"]["operator"] > 0
    assert own.sections["cost"]["train_device"] == "cpu"
    assert own.sections["one_step"]["metrics"]["nrmse"]["mean"] < model.value("nrmse")

    missed = [gate for gate in own.gates if gate.name == "nrmse_mean"]
    assert [gate.passed for gate in missed] == [False]
    assert not [gate for gate in ten.gates if gate.kind == "accuracy"], (
        "limits are for one protocol"
    )
    assert found[0].page is not None
    assert found[0].page.is_file()


def test_other_settings_do_not_touch_the_reports_of_the_config(run):
    judge(run, Request(brief=True))
    before = (run / "report.json").read_bytes()
    settings = runs.run_experiment_of(run).evaluation.model_copy(update={"horizon": 3})
    (custom,) = judge(run, Request(settings=settings, brief=True))
    assert custom.report.protocol_name == "custom"
    assert (run / "report.json").read_bytes() == before
    assert json.loads((run / "report.custom.json").read_text())["protocol"]["horizon"] == 3


def test_the_last_stage_may_be_named_without_another_report(run):
    (own, *_) = judge(run, Request(stage="operator", brief=True))
    assert own.report.protocol_name == "own"


def test_a_protocol_that_was_asked_for_and_does_not_fit_is_an_error(run, tmp_path):
    path = tmp_path / "long.yaml"
    path.write_text("{history: 14, horizon: 9}")
    with pytest.raises(UsageError, match="do not fit into 15 frames"):
        judge(run, Request(protocols=(str(path),), brief=True))
    found = judge(run, Request(protocols=("ic", "well"), brief=True))
    assert [one.report.protocol.history for one in found] == [1, 4]
