"""Entries are never lost or changed; ranks never cross protocols."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from ups.errors import CheckpointError
from ups.evaluation.protocol import Protocol
from ups.evaluation.report import Report, Row, write_report
from ups.leaderboard import entries, table, text

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


def row(name, kind, mean, scale=1.0):
    nrmse = {"mean": mean, "median": 0.8 * mean, "p90": 1.7 * mean, "max": 9 * mean}
    return Row(
        name=name,
        kind=kind,
        metrics={"nrmse": nrmse, "relative_l2": {"mean": 0.9 * mean}, "vrmse": {"mean": mean}},
        per_step={"nrmse": [mean, mean]},
        seconds_per_step=0.0012,
    )


def report(name="small", mean=0.0123, *, seed=0, protocol=PROTOCOL, persistence=0.4) -> Report:
    return Report(
        run={"name": name, "id": f"{name}/20260101T000000Z-abcdef12", "seed": seed,
             "num_parameters": 1_234_567},
        protocol=protocol,
        rows=(
            row("model", "model", mean),
            row("persistence", "trivial", persistence),
            row("spatial mean", "trivial", 0.9),
        ),
        created="2026-01-02T03:04:05Z",
    )  # fmt: skip


def add(folder, given):
    path = write_report(given, folder / "run")
    return entries.add(path, folder / "board")


def ranked(folder, *reports, **filters):
    for one in reports:
        add(folder, one)
    return table.rank(entries.load_all(folder / "board"), **filters)


ADD_MANY = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_leaderboard import report
from ups.evaluation.report import write_report
from ups.leaderboard import entries
folder, worker = Path(sys.argv[2]), int(sys.argv[3])
entries.add(write_report(report("shared"), folder / f"run{worker}"), folder / "board")
for index in range(200):
    one = report(f"run{worker}", 0.01 + index / 1e4, seed=index)
    entry, new = entries.add(write_report(one, folder / f"run{worker}"), folder / "board")
    assert new
"""


def test_800_entries_written_by_4_processes_at_once_are_all_kept(tmp_path, request):
    here = str(request.path.parent)
    workers = [
        subprocess.Popen([sys.executable, "-c", ADD_MANY, here, str(tmp_path), str(worker)])
        for worker in range(4)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0] * 4
    kept = entries.load_all(tmp_path / "board")
    expected = {(f"run{w}", s) for w in range(4) for s in range(200)} | {("shared", 0)}
    assert {(entry.run["name"], entry.run["seed"]) for entry in kept} == expected
    assert len(kept) == 801
    assert len(list((tmp_path / "board").iterdir())) == 801  # no temporary file is left


def test_the_same_report_twice_is_one_entry_and_says_so(tmp_path):
    first, new = add(tmp_path, report())
    again, still_new = add(tmp_path, report())
    assert (new, still_new) == (True, False)
    assert first == again
    assert entries.load_all(tmp_path / "board") == [first]
    assert first.path(tmp_path / "board").is_file()


def test_an_entry_holds_run_protocol_and_all_rows(tmp_path):
    entry, _ = add(tmp_path, report(seed=3))
    assert entry.run["seed"] == 3
    assert entry.protocol == PROTOCOL
    assert [one.name for one in entry.rows] == ["model", "persistence", "spatial mean"]
    assert entry == entries.Entry.of(report(seed=3))


@pytest.mark.parametrize("damage", ["edit", "cut", "rename", "binary", "foreign"])
def test_a_damaged_entry_is_an_error_that_names_its_file(tmp_path, damage):
    add(tmp_path, report("whole"))
    entry, _ = add(tmp_path, report("broken"))
    path = entry.path(tmp_path / "board")
    text = path.read_text()
    if damage == "edit":
        path.write_text(text.replace("0.0123", "0.0023"))
    elif damage == "cut":
        path.write_text(text[: len(text) // 2])
    elif damage == "rename":
        path = path.rename(path.with_name("0123456789abcdef.json"))
    elif damage == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    else:
        path.write_text("[NaN]")
    with pytest.raises(CheckpointError, match=path.name) as caught:
        entries.load_all(tmp_path / "board")
    assert caught.value.hint
    with pytest.raises(CheckpointError, match=path.name):
        entries.load(path)


def test_a_file_that_is_no_entry_is_refused_even_with_a_matching_name(tmp_path):
    path = tmp_path / f"{entries._name({'a': 1})}.json"
    path.write_text('{"a": 1}')
    with pytest.raises(CheckpointError, match="not a leaderboard entry"):
        entries.load_all(tmp_path)


def test_adding_again_over_a_damaged_entry_is_refused(tmp_path):
    entry, _ = add(tmp_path, report())
    entry.path(tmp_path / "board").write_text("{}")
    with pytest.raises(CheckpointError, match="does not match"):
        add(tmp_path, report())


def test_a_broken_report_is_not_added(tmp_path):
    path = tmp_path / "report.json"
    path.write_text('{"format": 1}')
    with pytest.raises(CheckpointError, match="not a report"):
        entries.add(path, tmp_path / "board")
    assert entries.load_all(tmp_path / "board") == []


def test_ranks_are_given_within_one_protocol_only(tmp_path):
    other = replace(PROTOCOL, history=1, horizon=40)
    rankings = ranked(
        tmp_path,
        report("good", 0.01),
        report("bad", 0.03),
        report("good", 0.02, protocol=other),
        report("bad", 0.05, protocol=other),
    )
    assert {one.protocol.id for one in rankings} == {PROTOCOL.id, other.id}
    for one in rankings:
        found = [(line.rank, line.label) for line in one.lines if line.kind == "model"]
        assert found == [(1, "good"), (2, "bad")]


def test_trivial_rows_appear_once_and_have_no_rank(tmp_path):
    reports = [report(f"run{i}", 0.5 if i == 0 else 0.01 * i) for i in range(4)]
    reports.append(report("other device", 0.02, persistence=0.4 * (1 + 1e-9)))
    [ranking] = ranked(tmp_path, *reports)
    trivial = [line for line in ranking.lines if line.kind == "trivial"]
    assert [(line.rank, line.label) for line in trivial] == [
        (None, "persistence"),
        (None, "spatial mean"),
    ]
    assert [line.label for line in ranking.lines][-3:] == ["persistence", "run0", "spatial mean"]
    assert [line.rank for line in ranking.lines] == [1, 2, 3, 4, None, 5, None]


def test_a_trivial_row_that_differs_is_shown_twice(tmp_path):
    [ranking] = ranked(tmp_path, report("a", 0.1), report("b", 0.2, persistence=0.5))
    found = [line.label for line in ranking.lines if line.row == "persistence"]
    assert len(found) == 2
    assert len(set(found)) == 2


def test_a_rollout_that_blew_up_is_last_and_unranked(tmp_path):
    [ranking] = ranked(tmp_path, report("blown", math.nan), report("fine", 0.5))
    assert [(line.rank, line.label) for line in ranking.lines] == [
        (None, "persistence"), (1, "fine"), (None, "spatial mean"), (None, "blown"),
    ]  # fmt: skip
    assert ranking.lines[-1].vs_persistence is None
    assert "NaN" not in text.to_json([ranking])


def test_ratio_is_to_persistence_of_the_same_report(tmp_path):
    [ranking] = ranked(tmp_path, report(mean=0.1, persistence=0.4))
    assert ranking.lines[0].vs_persistence == pytest.approx(0.25)


def test_seeds_of_one_run_name_are_told_apart(tmp_path):
    later = replace(report("same", 0.3, seed=1), created="2026-02-02T00:00:00Z")
    [ranking] = ranked(tmp_path, report("same", 0.1, seed=0), report("same", 0.2, seed=1), later)
    labels = [line.label for line in ranking.lines if line.kind == "model"]
    assert labels[0] == "same (seed 0)"
    assert labels[1].startswith("same (seed 1) [")
    assert len(set(labels)) == 3


@pytest.mark.parametrize(
    ("filters", "runs"),
    [
        ({"dataset": "burgers1d"}, {"alpha", "beta"}),
        ({"dataset": "burgers"}, set()),
        ({"split": "valid"}, {"gamma"}),
        ({"protocol": PROTOCOL.id[:5]}, {"alpha", "beta"}),
        ({"run": "lph"}, {"alpha"}),
        ({}, {"alpha", "beta", "gamma"}),
    ],
)
def test_filters(tmp_path, filters, runs):
    valid = replace(PROTOCOL, dataset="advection1d", split="valid")
    rankings = ranked(
        tmp_path, report("alpha"), report("beta"), report("gamma", protocol=valid), **filters
    )
    assert {line.run for one in rankings for line in one.lines} == runs


@pytest.fixture
def rankings(tmp_path):
    other = replace(PROTOCOL, split="valid")
    return ranked(
        tmp_path,
        report("burgers1d-large-with-a-rather-long-name|[red]x", 0.0000123, seed=1),
        report("small", 0.0234, seed=2),
        report("small", 0.0345, seed=3),
        report("small", 12.345, protocol=other),
    )


def rendered(rankings, width=80):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(text.render(rankings))
    return console.file.getvalue()


def test_terminal_table_fits_80_columns_and_cuts_no_number(rankings):
    shown = rendered(rankings)
    assert max(len(line) for line in shown.splitlines()) <= 80
    for number in ("1.230e-05", "0.02340", "0.0187", "0.0585", "12.35", "0.9000"):
        assert number in shown
    assert "…" not in shown
    assert "10 -> 31 frames" in shown
    assert "no entries" in rendered([])


def test_json_and_csv_hold_every_number(rankings):
    content = json.loads(text.to_json(rankings))
    first = content[0]["lines"][0]
    assert first["nrmse_mean"] == 0.0000123
    assert first["num_parameters"] == 1_234_567
    assert {one["protocol"]["id"] for one in content} == {one.protocol.id for one in rankings}
    rows = list(csv.DictReader(io.StringIO(text.to_csv(rankings))))
    assert len(rows) == sum(len(one.lines) for one in rankings) == 8
    assert rows[0]["label"] == first["label"]
    assert float(rows[0]["nrmse_mean"]) == 0.0000123
    assert {row["protocol"] for row in rows} == {one.protocol.id for one in rankings}


def test_markdown_escapes_bars_and_has_one_table_per_protocol(rankings):
    shown = text.to_markdown(rankings)
    assert shown.count("### burgers1d") == 2
    assert "\\|[red]x" in shown
    lengths = {line.replace("\\|", "").count("|") for line in shown.splitlines() if "|" in line}
    assert len(lengths) == 1


def test_leaderboard_imports_nothing_heavy():
    code = (
        "import sys, ups.leaderboard.entries, ups.leaderboard.table, ups.leaderboard.text;"
        "print([m for m in ('torch', 'h5py', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
