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
from matplotlib.image import imread
from pydantic import TypeAdapter

from ups.errors import CheckpointError
from ups.evaluation.accumulator import MetricAccumulator
from ups.evaluation.page import Picture, summary, write_page
from ups.evaluation.plots import (
    Example,
    Grid,
    plot_error_over_time,
    plot_examples,
    plot_losses,
)
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
    assert "blew up" in summary(loaded)


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


def test_the_page_holds_the_numbers_and_needs_nothing_else(tmp_path, report):
    picture = plot_error_over_time(tmp_path / "e.png", [0.1, 0.2], {"model": np.array([0.1, 0.3])})
    path = write_page(report, tmp_path, [Picture(picture, "Error over time", "a < b")])
    page = path.read_text(encoding="utf-8")
    for text in ("0.0137", "0.00685", "0.0233", "0.123", "0.420", "0.910", "0.0326", "0.00123",
                 "small &lt;b&gt;", "a &lt; b", "10 -&gt; 31 frames", PROTOCOL.id, PROTOCOL.metric,
                 "packages.torch", "2.13", "spatial mean", "data:image/png;base64,"):  # fmt: skip
        assert text in page, text
    assert "<b>" not in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("<table>") == page.count("</table>") == 5


def test_the_summary_compares_to_persistence(report):
    assert summary(report) == (
        "small <b>: nRMSE 0.0137 (median 0.00685, worst 0.123), 0.0326 of persistence (0.420)."
    )
    assert "persistence" not in summary(replace(report, rows=report.rows[:1]))


def test_fields_are_listed_where_there_are_several(tmp_path, report):
    channels = {"nrmse": {"density": 0.011, "pressure": 0.022}}
    model = replace(report.rows[0], per_channel=channels)
    page = write_page(replace(report, rows=(model,)), tmp_path).read_text(encoding="utf-8")
    assert "density" in page
    assert "0.0220" in page


def test_a_missing_picture_is_an_error_and_writes_no_page(tmp_path, report):
    with pytest.raises(CheckpointError, match=r"gone\.png"):
        write_page(report, tmp_path, [Picture(tmp_path / "gone.png", "gone")])
    assert list(tmp_path.iterdir()) == []


SPACES = [(32,), (12, 8), (6, 8, 4)]


def example(space, seed, *, time=4):
    random = np.random.default_rng(seed)
    reference = random.standard_normal((time, *space))
    prediction = reference + 0.1 * random.standard_normal((time, *space))
    return Example(f"trajectory {seed}", prediction, reference)


def grid(space, time=4):
    return Grid(times=[0.1 * (i + 1) for i in range(time)], bounds=[(0.0, 1.0)] * len(space))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_pictures_of_fields_show_the_fields(tmp_path, space):
    one = plot_examples(tmp_path / "a.png", [example(space, 0)], grid(space))
    other = plot_examples(tmp_path / "b.png", [example(space, 2)], grid(space))
    first, second = imread(one), imread(other)
    assert min(first.shape[:2]) > 300
    assert len(np.unique(first[..., 0])) > 100  # shades of red
    assert np.abs(first - second).mean() > 0.01
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}


def test_the_same_fields_give_the_same_picture(tmp_path):
    both = [example((32,), 0), example((32,), 1)]
    one, same = (plot_examples(tmp_path / name, both, grid((32,))) for name in ("a.png", "b.png"))
    assert one.read_bytes() == same.read_bytes()


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_pictures_survive_what_goes_wrong(tmp_path, space):
    good = example(space, 0)
    flat = Example("flat", np.ones((4, *space)), np.ones((4, *space)))
    blown = Example("blown up", good.prediction * np.inf, good.reference)
    assert plot_examples(tmp_path / "a.png", [flat, blown], grid(space)).stat().st_size > 5000
    single = example(space, 3, time=1)
    assert plot_examples(tmp_path / "b.png", [single], grid(space, 1)).stat().st_size > 5000
    with pytest.raises(ValueError, match="no trajectory"):
        plot_examples(tmp_path / "c.png", [], grid(space))


def test_the_colour_scale_is_that_of_the_truth():
    good = example((32,), 0)
    blown = Example("", good.prediction * 1e9, good.reference)
    assert blown.limits == (good.reference.min(), good.reference.max())
    assert blown.error_limit == pytest.approx(np.ptp(good.reference))
    assert good.error_limit == pytest.approx(np.quantile(np.abs(good.error), 0.998))


def test_error_over_time_takes_curves_with_and_without_trajectories(tmp_path):
    times = np.arange(1, 11) * 0.1
    random = np.random.default_rng(0)
    model = 0.01 * np.exp(times + random.standard_normal((50, 1)))
    model[3, 5:] = np.inf
    floor = np.minimum(times, 0.5)
    band = plot_error_over_time(tmp_path / "a.png", times, {"model": model, "persistence": floor})
    line = plot_error_over_time(
        tmp_path / "b.png", times, {"model": np.median(model, 0), "persistence": floor}
    )
    assert imread(band).shape == imread(line).shape
    assert np.abs(imread(band) - imread(line)).mean() > 0.01
    nothing = {"model": np.zeros(10), "other": np.full(10, np.nan)}
    assert plot_error_over_time(tmp_path / "c.png", times, nothing).stat().st_size > 5000


def test_losses_have_one_column_per_stage(tmp_path):
    codec = [{"stage": "codec", "step": s, "loss": 1.0 / s} for s in range(1, 200)]
    checks = [{"stage": "codec", "step": s, "valid_nrmse": 0.5 / s} for s in (50, 100)]
    negative = [{"stage": "operator", "step": s, "loss": 1.0 - s, "lr": 1} for s in range(1, 5)]
    one = imread(plot_losses(tmp_path / "a.png", codec))
    two = imread(plot_losses(tmp_path / "b.png", codec + checks + negative))
    assert two.shape[1] > 1.5 * one.shape[1]
    nan = [{"stage": "codec", "step": 1, "loss": 1.0, "valid_nrmse": math.nan}]
    assert plot_losses(tmp_path / "c.png", nan).stat().st_size > 5000
    with pytest.raises(ValueError, match="no records"):
        plot_losses(tmp_path / "d.png", [])


def test_a_failed_picture_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        plot_losses(tmp_path / "a.png", [{"stage": "codec", "step": 1, "loss": 1.0}])
    assert list(tmp_path.iterdir()) == []
