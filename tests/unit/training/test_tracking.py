"""metrics.jsonl: every record once, also after a kill."""

from __future__ import annotations

from ups.runs import read_metrics
from ups.training.tracking import JsonLines, forget_after


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
    forget_after(path, "operator", 2)
    assert read_metrics(path) == records(1, 9, stage="codec") + records(1, 2)
    forget_after(path, "codec", 0)
    assert read_metrics(path) == records(1, 2)


def test_no_file_is_no_records(tmp_path):
    assert read_metrics(tmp_path / "none") == []
