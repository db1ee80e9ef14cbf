"""Protocols have ids, reports survive the disk, pages and pictures show what they were given."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from pydantic import TypeAdapter

from ups.errors import CheckpointError
from ups.evaluation.accumulator import MetricAccumulator
from ups.evaluation.protocol import Protocol
from ups.evaluation.report import Report, Row, load_report, write_report

PROTOCOL = Protocol(
    dataset="burgers1d",
    version="x4_t5",
    split="test",
    split_hash="5" * 64,
    data_sha256="d" * 64,
    resolution=(256,),
    domain=((0.0, 1.0),),
    stride_x=4,
    stride_t=5,
    dt=0.05,
    stride=1,
    history=10,
    horizon=31,
    num_trajectories=1000,
)

OTHER = {
    "dataset": "advection1d", "version": "x8_t5", "split": "valid", "split_hash": "6" * 64,
    "data_sha256": "e" * 64, "resolution": (128,), "domain": ((0.0, 2.0),), "stride_x": 8,
    "stride_t": 1, "dt": None, "stride": 2, "history": 1, "horizon": 40,
    "num_trajectories": 999, "mode": "one-step", "metric": "vrmse", "selected_on": "test",
}  # fmt: skip


def test_protocol_roundtrips_through_json():
    content = json.loads(json.dumps(PROTOCOL.to_dict()))
    assert TypeAdapter(Protocol).validate_python(content) == PROTOCOL


def test_every_field_is_part_of_the_id():
    assert {field.name for field in fields(Protocol)} == OTHER.keys()
    ids = {replace(PROTOCOL, **{name: value}).id for name, value in OTHER.items()}
    assert len(ids | {PROTOCOL.id}) == len(OTHER) + 1
    assert re.fullmatch("[0-9a-f]{12}", PROTOCOL.id)


def test_the_id_does_not_depend_on_how_a_number_is_spelt():
    other = {"resolution": [256], "domain": [[0, 1]], "dt": np.float64(0.05)}
    spelt = TypeAdapter(Protocol).validate_python(PROTOCOL.to_dict() | other)
    assert spelt == PROTOCOL
    assert spelt.id == PROTOCOL.id


def test_the_id_of_a_protocol_never_changes():
    assert PROTOCOL.id == "8d54152f4f93"


def test_protocol_refuses_what_makes_no_sense():
    with pytest.raises((ValueError, TypeCheckError), match="one-step"):
        replace(PROTOCOL, mode="two-step")
    with pytest.raises(ValueError, match="domain"):
        replace(PROTOCOL, resolution=(256, 256))


def row(name, kind, mean):
    nrmse = {"mean": mean, "median": 0.5 * mean, "p90": 1.7 * mean, "max": 9 * mean}
    metrics = {"nrmse": nrmse, "relative_l2": {"mean": 0.9 * mean}}
    return Row(name=name, kind=kind, metrics=metrics, per_step={"nrmse": [mean, 2 * mean]},
               seconds_per_step=0.00123)  # fmt: skip


@pytest.fixture
def report():
    return Report(
        run={"name": "small <b>", "id": "small/1", "seed": 3, "commit": "abc"},
        protocol=PROTOCOL,
        rows=(
            row("model", "model", 0.0137),
            row("persistence", "trivial", 0.42),
            row("spatial mean", "trivial", 0.91),
        ),
        environment={"python": "3.11", "packages": {"torch": "2.13"}, "command": ["ups", "eval"]},
    )


def test_report_roundtrips_through_its_file(tmp_path, report):
    path = write_report(report, tmp_path / "run")
    assert path.name == "report.json"
    assert load_report(path) == report
    assert json.loads(path.read_text())["protocol"]["id"] == PROTOCOL.id
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


def test_numbers_that_are_not_finite_become_null(tmp_path, report):
    blown = replace(report.rows[0], metrics={"nrmse": {"mean": math.nan, "max": math.inf}},
                    per_step={"nrmse": [0.1, math.inf]})  # fmt: skip
    path = write_report(replace(report, rows=(blown,)), tmp_path)
    text = path.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    loaded = load_report(path)
    assert loaded.headline is None
    assert loaded.rows[0].per_step["nrmse"] == [0.1, None]


def test_a_row_of_metrics_holds_their_numbers(tmp_path, report):
    generator = torch.Generator().manual_seed(0)
    prediction, reference = torch.randn(2, 5, 3, 8, 2, generator=generator)
    accumulator = MetricAccumulator(channels=["u", "v"])
    accumulator.update(prediction, reference)
    found = accumulator.result()
    made = Row.of("model", "model", found.to_dict(), seconds_per_step=0.1)
    loaded = load_report(write_report(replace(report, rows=(made,)), tmp_path)).rows[0]
    assert loaded.value("nrmse") == found.headline
    assert loaded.per_step["nrmse"] == found.per_step["nrmse"].tolist()
    assert loaded.per_channel["rmse"] == found.per_channel["rmse"]
    assert loaded.metrics["frmse_high"]["mean"] is None  # eight points have no high band


def damaged(content, damage):
    if damage == "format":
        content["format"] = 99
    elif damage == "number":
        content["rows"][0]["metrics"]["nrmse"]["mean"] = "0.1"
    elif damage == "unknown":
        content["rows"][0]["colour"] = "red"
    elif damage == "protocol":
        content["protocol"]["horizon"] = 5
    elif damage == "missing":
        del content["run"]
    elif damage == "empty":
        content["rows"] = []
    elif damage == "date":
        content["created"] = "yesterday"
    elif damage == "kind":
        content["rows"][1]["kind"] = "magic"
    elif damage == "shape":
        content["protocol"] = [1]
    return content


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("format", "report format 99"),
        ("number", r"rows\.0\.metrics\.nrmse\.mean"),
        ("unknown", r"rows\.0\.colour"),
        ("protocol", "edited"),
        ("missing", "run: Field required"),
        ("empty", "at least one row"),
        ("date", "yesterday"),
        ("kind", r"rows\.1\.kind"),
        ("shape", "protocol"),
    ],
)
def test_a_broken_report_says_where(tmp_path, report, damage, says):
    path = write_report(report, tmp_path)
    path.write_text(json.dumps(damaged(json.loads(path.read_text()), damage)))
    with pytest.raises(CheckpointError, match=says) as caught:
        load_report(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b"\xff\xfe", b"null"])
def test_what_is_no_report_is_a_clear_error(tmp_path, content):
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"report\.json"):
        load_report(path)
    with pytest.raises(CheckpointError, match="no such report"):
        load_report(tmp_path / "absent.json")


def test_a_failed_write_leaves_the_old_report(tmp_path, report, monkeypatch):
    path = write_report(report, tmp_path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ups.files.os.replace", full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        write_report(replace(report, created="2020-01-01T00:00:00Z"), tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
