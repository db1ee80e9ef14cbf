"""Metrics as records, curves, blocks and tables."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest

from ups.errors import UsageError
from ups.runs import history, read_metrics

RECORDS = [
    {"stage": "codec", "step": 0, "valid_nrmse": 0.5, "valid_nrmse_native": 0.4},
    {"stage": "codec", "step": 20, "loss": 0.1, "time": 10.0},
    {"stage": "operator", "step": 20, "loss": 0.2, "grad_norm": 1.0, "time": 20.0},
    {"stage": "operator", "step": 40, "loss": None, "time": 21.5},
    {"stage": "operator", "step": 40, "burgers1d/nrmse": 0.3, "nrmse": 0.35},
    {"stage": "operator", "step": 60, "loss": 0.05, "time": 23.0},
    {"stage": "operator", "step": 60, "finished": True},
]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_times_are_read_only_where_they_are_asked_for(tmp_path):
    path = write(tmp_path / "m", RECORDS)
    assert read_metrics(path, timed=True) == RECORDS
    assert all("time" not in record for record in read_metrics(path))
    assert len(read_metrics(path)) == len(RECORDS)


def test_metrics_are_named_by_stage_and_key():
    assert history.metric_names(RECORDS) == [
        "codec/valid_nrmse", "codec/valid_nrmse_native", "codec/loss", "operator/loss",
        "operator/grad_norm", "operator/burgers1d/nrmse", "operator/nrmse",
    ]  # fmt: skip
    assert history.stages_of(RECORDS) == ["codec", "operator"]


def test_a_curve_has_steps_values_times_and_its_smallest_finite_value():
    curve = history.curve(RECORDS, "operator/loss")
    assert curve.steps == (20, 40, 60)
    assert curve.values[::2] == (0.2, 0.05)
    assert math.isnan(curve.values[1])
    assert curve.times == (20.0, 21.5, 23.0)
    assert curve.best == (60, 0.05)
    assert curve.is_timed
    assert not history.curve(RECORDS, "operator/nrmse").is_timed


def test_a_curve_that_is_never_finite_has_no_best():
    assert history.curve(RECORDS[3:4], "operator/loss").best is None


@pytest.mark.parametrize("name", ["operator/los", "operator/step", "operator", "codec/time"])
def test_an_unknown_metric_lists_those_that_are_there(name):
    with pytest.raises(UsageError, match="no such metric") as caught:
        history.curve(RECORDS, name)
    assert "operator/loss" in caught.value.hint


def test_the_headline_is_a_validation_error_and_else_the_loss():
    assert history.headline(RECORDS, "codec") == "codec/valid_nrmse"
    assert history.headline(RECORDS, "operator") == "operator/nrmse"
    assert history.headline(RECORDS[1:2], "codec") == "codec/loss"
    assert history.headline(RECORDS[2:3], "operator") == "operator/loss"
    assert history.headline(RECORDS, "steady_prior") is None
    assert history.default_metrics(RECORDS) == [
        "codec/loss", "codec/valid_nrmse", "operator/loss", "operator/nrmse",
    ]  # fmt: skip


def test_blocks_rise_with_the_logarithm_of_positive_values():
    assert history.sparkline([10.0**i for i in range(8)]) == "▁▂▃▄▅▆▇█"
    assert history.sparkline([-1.0, 0.0, 1.0]) == "▁▅█"
    assert history.sparkline([1.0, math.nan, 2.0]) == "▁ █"
    assert history.sparkline([3.0, 3.0]) == "▁▁"
    assert history.sparkline([]) == ""
    assert history.sparkline([math.nan]) == " "


def test_a_long_series_is_averaged_into_the_width():
    blocks = history.sparkline([2.0 ** -(i // 100) for i in range(800)], width=8)
    assert blocks == "█▇▆▅▄▃▂▁"


def test_the_table_has_one_row_for_each_number_and_reads_back():
    table = list(history.rows("mine/1", RECORDS))
    assert len(table) == 8 + 1  # with the loss that was not finite
    assert table[2] == ("mine/1", "codec", 20, 10.0, "loss", 0.1)
    found = list(csv.DictReader(io.StringIO(history.to_csv(table))))
    assert tuple(found[0]) == history.COLUMNS
    assert [row["metric"] for row in found] == [row[4] for row in table]
    assert [row["value"] for row in found if row["step"] == "40"] == ["", "0.3", "0.35"]
    assert [tuple(row.values()) for row in json.loads(history.to_json(table))] == table
