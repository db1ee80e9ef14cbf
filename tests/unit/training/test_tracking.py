"""metrics.jsonl: every record once, also after a kill. Boards: never in the way."""

from __future__ import annotations

import json
import logging
import time

import pytest

from ups import runs
from ups.config.schema import Experiment
from ups.errors import CheckpointError
from ups.runs import read_metrics
from ups.training.tracking import Board, JsonLines, Table, Tracking, forget_after, log_report
from ups.training.tracking.base import Droppable


def records(*steps, stage="operator"):
    return [{"stage": stage, "step": step, "loss": 1 / (step + 1)} for step in steps]


def write(path, content):
    tracker = JsonLines(path)
    for record in content:
        tracker.log(record)
    tracker.close()


def test_what_is_logged_is_read_in_order_and_appended_to(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, records(1, 2))
    write(path, records(3))
    assert read_metrics(path) == records(1, 2, 3)


def test_each_record_has_the_time_it_was_written_at(tmp_path):
    before = time.time()
    write(tmp_path / "x", records(1))
    (record,) = read_metrics(tmp_path / "x", timed=True)
    assert before - 0.01 <= record["time"] <= time.time() + 0.01


def test_a_number_that_is_not_finite_is_written_as_none(tmp_path):
    write(tmp_path / "x", [{"stage": "codec", "step": 1, "loss": float("nan")}])
    assert read_metrics(tmp_path / "x")[0]["loss"] is None


def test_a_record_can_be_read_before_the_file_is_closed(tmp_path):
    tracker = JsonLines(tmp_path / "x")
    tracker.log(records(1)[0])
    assert read_metrics(tmp_path / "x") == records(1)
    tracker.close()


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, records(1, 2))
    path.write_text(path.read_text()[:-9])
    assert read_metrics(path) == records(1)


def test_records_that_will_be_made_again_are_dropped_and_others_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, records(1, 9, stage="codec") + records(1, 2, 3))
    times = [record["time"] for record in read_metrics(path, timed=True)]
    forget_after(path, "operator", 2)
    assert read_metrics(path) == records(1, 9, stage="codec") + records(1, 2)
    assert [record["time"] for record in read_metrics(path, timed=True)] == times[:4]
    forget_after(path, "codec", 0)
    assert read_metrics(path) == records(1, 2)


def test_a_board_is_told_which_records_it_has_already(tmp_path):
    path = tmp_path / runs.METRICS
    write(path, records(1, 2, 3))
    (tmp_path / runs.TRACKING).write_text('{"id": "x", "sent": {"codec": 7}}')
    forget_after(path, "operator", 3)
    assert runs.read_tracking(tmp_path)["sent"] == {"codec": 7}
    forget_after(path, "operator", 1)
    assert runs.read_tracking(tmp_path)["sent"] == {"codec": 7, "operator": 3}


def test_no_file_is_no_records(tmp_path):
    assert read_metrics(tmp_path / "none") == []


class Remembers:
    """A board that keeps what it is given, and fails on demand."""

    def __init__(self, failing=()):
        self.calls = []
        self.failing = failing

    def _note(self, name, *values):
        if name in self.failing:
            raise ConnectionError("no route\nto host")
        self.calls.append((name, *values))

    def log(self, record):
        self._note("log", record["step"])

    def media(self, stage, step, name, medium):
        self._note("media", stage, step, name, medium)

    def summary(self, values):
        self._note("summary", dict(values))

    def close(self):
        self._note("close")


@pytest.mark.parametrize("failing", ["log", "media", "summary", "close"])
def test_a_board_that_fails_is_dropped_with_one_warning(tmp_path, caplog, failing):
    board = Remembers([failing])
    lines = JsonLines(tmp_path / runs.METRICS)
    with (
        caplog.at_level(logging.WARNING),
        Tracking(tmp_path, [Droppable(lambda: board, (OSError,)), lines]) as tracking,
    ):
        for record in records(1, 2):
            tracking.log(record)
            tracking.media("operator", 1, "card", Table(("a",), ((1,),)))
            tracking.summary({"a": 1})
    assert read_metrics(tmp_path / runs.METRICS) == records(1, 2)
    (warning,) = caplog.records
    assert "the run goes on without it: no route to host" in warning.getMessage()
    assert [call[0] for call in board.calls].count("log") == {"log": 0, "close": 2}.get(failing, 1)


def test_a_board_that_does_not_open_is_dropped_too(caplog):
    def refuse():
        raise ConnectionError("offline")

    board = Droppable(refuse, (OSError,))
    board.log(records(1)[0])
    board.close()
    assert len(caplog.records) == 1


def test_a_bug_of_our_own_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        Droppable(lambda: 1 / 0, (OSError,))


def test_media_and_summary_go_to_boards_only(tmp_path):
    board, lines = Remembers(), JsonLines(tmp_path / runs.METRICS)
    assert isinstance(board, Board)
    with Tracking(tmp_path, [board, lines]) as tracking:
        tracking.media("codec", 5, "fields", tmp_path / "x.png")
        tracking.summary({"a": 1})
    assert [call[0] for call in board.calls] == ["media", "summary", "close"]
    assert read_metrics(tmp_path / runs.METRICS) == []


def test_a_finished_stage_is_noted_once(tmp_path):
    board = Remembers()
    for _ in range(2):
        with Tracking(tmp_path, [board, JsonLines(tmp_path / runs.METRICS)]) as tracking:
            tracking.finished("operator", 60, {"valid_nrmse": 0.1})
    assert read_metrics(tmp_path / runs.METRICS) == [
        {"stage": "operator", "step": 60, "finished": True}
    ]
    assert board.calls[-2] == ("summary", {"operator/best/valid_nrmse": 0.1})


def test_a_report_becomes_summary_table_and_pictures(tmp_path):
    board = Remembers()
    nrmse = {"mean": 0.1, "median": 0.05}
    rows = [{"name": "model", "metrics": {"nrmse": nrmse}},
            {"name": "persistence", "metrics": {"nrmse": {"mean": 1.0}}}]  # fmt: skip
    report = {"protocol": {"split": "test"}, "rows": rows}
    log_report(Tracking(tmp_path, [board]), report, [tmp_path / "fields_u.png"])
    assert board.calls[0] == ("summary", {"test/nrmse_mean": 0.1, "test/nrmse_median": 0.05})
    (_, stage, _, name, table) = board.calls[1]
    assert (stage, name) == ("test", "report")
    assert table.columns == ("predictor", "nrmse mean", "nrmse median")
    assert table.rows == (("model", 0.1, 0.05), ("persistence", 1.0, None))
    assert board.calls[2][1:4] == ("test", 0, "fields_u")


@pytest.mark.parametrize("text", ["", "[]", '{"project": "ups"}'])
def test_a_damaged_tracking_file_says_what_to_do(tmp_path, text):
    (tmp_path / runs.TRACKING).write_text(text)
    with pytest.raises(CheckpointError, match="not the record of a W&B run") as caught:
        runs.read_tracking(tmp_path)
    assert caught.value.hint.startswith("delete it")


def test_the_config_of_tracking_survives_a_round_trip():
    content = {"name": "x", "data": {"dataset": "burgers1d"}, "tracking": {"project": "p"}}
    experiment = Experiment.model_validate(content)
    assert experiment.tracking.wandb == "auto"
    assert Experiment.model_validate(json.loads(experiment.model_dump_json())) == experiment
