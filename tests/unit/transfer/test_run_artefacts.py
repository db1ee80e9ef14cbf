"""Runs as artefacts: what belongs to one, whole while it trains, and nothing lost by a pull."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from ups import files, paths, runs
from ups.config.schema import Experiment
from ups.errors import CheckpointError, RemoteError
from ups.transfer import run_pull
from ups.transfer.remotes import find_remote
from ups.transfer.run_artefacts import files_of, push_run, snapshot
from ups.transfer.run_pull import list_remote_runs, pull_run


@pytest.fixture
def remote(tmp_path):
    return find_remote(str(tmp_path / "place"))


@pytest.fixture
def run(home):
    return made("pilot")


def made(name, **options):
    """A run with the files of one that was trained and judged, and some that are nobody's."""
    content = {"name": name, "data": {"dataset": "burgers1d", "version": "v"}}
    folder = runs.create_run(Experiment.model_validate(content), stages=["codec"], **options)
    for path, text in {
        "checkpoints/codec.pt": "best", "checkpoints/codec-last.pt": "last",
        "checkpoints/codec-100.pt": "another", "checkpoints/.codec.pt.7.partial": "cut",
        "report.json": '{"rows": [{"metrics": {"nrmse": {"mean": 0.5}}}], '
                       '"protocol": {"split": "test"}}',
        "report.html": "<p>", "report/burgers1d.own.npz": "arrays",
        "report/burgers1d/own/a.png": "", "curves.png": "",
        "wandb/offline-run-1/run.wandb": "numbers",
    }.items():  # fmt: skip
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    record(folder, 0)
    return folder


def record(folder, step, end="\n"):
    with (folder / runs.METRICS).open("a") as file:
        file.write(json.dumps({"stage": "codec", "step": step, "loss": 1.0}) + end)


def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("UPS_HOME", str(tmp_path / "elsewhere"))


def content_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def test_what_belongs_to_a_run(run):
    assert files_of(run) == [
        "checkpoints/codec-last.pt", "checkpoints/codec.pt", "report/burgers1d.own.npz",
        "config.yaml", "env.json", "report.html", "report.json", "metrics.jsonl",
    ]  # fmt: skip
    extra = set(files_of(run, every_checkpoint=True)) - set(files_of(run))
    assert extra == {"checkpoints/codec-100.pt"}


def test_a_snapshot_stays_as_it_is_while_the_run_goes_on(run):
    record(run, 1, end="")
    with snapshot(run) as folder:
        files.write_text(run / "checkpoints" / "codec-last.pt", "later")
        files.write_text(run / "report.json", "{}")
        record(run, 2)
        assert (folder / "checkpoints/codec-last.pt").read_text() == "last"
        assert "nrmse" in (folder / "report.json").read_text()
        assert [one["step"] for one in runs.read_metrics(folder / runs.METRICS)] == [0]
        assert (folder / runs.METRICS).read_text().endswith("\n")
    assert not list((paths.home() / "tmp").glob("run-*"))


def test_a_run_that_trains_is_pushed_whole_at_some_moment(run, remote, tmp_path, monkeypatch):
    stop, wrote = threading.Event(), threading.Event()

    def train():
        step = 0
        while not stop.is_set():
            step += 1
            record(run, step)
            for name in ("codec", "codec-last"):
                files.write_text(run / "checkpoints" / f"{name}.pt", f"{step} " * 2000)
            wrote.set()

    with files.exclusive(run, "training this run"):
        thread = threading.Thread(target=train)
        thread.start()
        try:
            assert wrote.wait(30)
            push_run(run, remote)
        finally:
            stop.set()
            thread.join()
    (known,) = list_remote_runs(remote)
    assert known.labels["state"] == "running"
    elsewhere(tmp_path, monkeypatch)
    folder = pull_run("pilot", remote).folder
    best, last = ((folder / "checkpoints" / f"{n}.pt").read_text() for n in ("codec", "codec-last"))
    assert best == best.split()[0].join(["", " "]) * 2000
    assert int(last.split()[0]) <= int(best.split()[0])
    steps = [one["step"] for one in runs.read_metrics(folder / runs.METRICS)]
    assert steps == list(range(steps[-1] + 1))
    assert steps[-1] >= int(best.split()[0]), "metrics are taken last"


def test_what_did_not_change_is_sent_once(run, remote):
    first = push_run(run, remote)
    assert first.present_bytes == 0
    assert push_run(run, remote).sent_bytes == 0
    record(run, 1)
    second = push_run(run, remote)
    assert 0 < second.sent_bytes < first.sent_bytes
    assert push_run(run, remote, dry_run=True).manifest_sha256 == ""
    (known,) = list_remote_runs(remote)
    assert len(known.snapshots) == 2
    assert (known.id, known.labels["score"]) == (runs.run_id(run), 0.5)
    assert known.to_dict()["datasets"] == ["burgers1d (v)"]


def test_a_pulled_run_is_the_same_and_is_not_fetched_twice(run, remote, tmp_path, monkeypatch):
    push_run(run, remote)
    elsewhere(tmp_path, monkeypatch)
    assert pull_run("pilot", remote, dry_run=True).fetched_bytes > 0
    assert runs.list_runs() == []
    pulled = pull_run("pilot", remote)
    assert (pulled.state, runs.list_runs()) == ("new", [pulled.folder])
    assert content_of(pulled.folder) == {n: (run / n).read_bytes() for n in files_of(run)}
    again = pull_run(runs.run_id(pulled.folder), remote)
    assert (again.state, again.fetched_bytes) == ("present", 0)


def test_a_run_as_a_snapshot_says_is_brought_up_to_date(run, remote, tmp_path, monkeypatch):
    push_run(run, remote)
    elsewhere(tmp_path, monkeypatch)
    here = pull_run("pilot", remote).folder
    (here / "curves.png").write_text("mine")
    first = list_remote_runs(remote)[0].snapshots[0]
    record(run, 1)
    monkeypatch.setenv("UPS_HOME", str(tmp_path / "home"))
    push_run(run, remote)
    elsewhere(tmp_path, monkeypatch)
    pulled = pull_run("pilot", remote)
    assert pulled.state == "updated"
    assert pulled.kept is None
    assert 0 < pulled.fetched_bytes < 15_000 + (here / runs.CONFIG).stat().st_size
    assert (here / runs.METRICS).read_text() == (run / runs.METRICS).read_text()
    assert (here / "curves.png").read_text() == "mine"
    back = pull_run("pilot", remote, snapshot=first)
    assert (back.snapshot, len(runs.read_metrics(here / runs.METRICS))) == (first, 1)


def test_a_run_that_differs_is_left_alone_and_kept_even_by_force(run, remote):
    push_run(run, remote)
    (run / "checkpoints" / "codec.pt").write_text("mine")
    before = content_of(run)
    with pytest.raises(CheckpointError, match=r"none of the snapshots there \(checkpoints/codec.p"):
        pull_run("pilot", remote)
    assert content_of(run) == before
    pulled = pull_run("pilot", remote, force=True)
    assert pulled.state == "replaced"
    assert content_of(pulled.kept) == before
    assert (run / "checkpoints" / "codec.pt").read_text() == "best"
    assert (run / "wandb/offline-run-1/run.wandb").is_file()
    assert runs.list_runs() == [run]


def test_a_run_in_use_is_not_replaced(run, remote):
    push_run(run, remote)
    with (
        files.exclusive(run, "training this run"),
        pytest.raises(CheckpointError, match="another process"),
    ):
        pull_run("pilot", remote, force=True)


@pytest.mark.parametrize("moment", ["link_or_copy", "rename"])
def test_a_pull_cut_off_while_it_puts_the_run_in_place_loses_nothing(
    run, remote, monkeypatch, moment
):
    push_run(run, remote)
    (run / "checkpoints" / "codec.pt").write_text("mine")
    before = content_of(run)

    rename = Path.rename

    def killed(source, target):
        if moment == "rename" and target != run:
            return rename(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr(
            *((Path, "rename") if moment == "rename" else (run_pull, "link_or_copy")), killed
        )
        with pytest.raises(KeyboardInterrupt):
            pull_run("pilot", remote, force=True)
    replaced = list((paths.runs_dir() / ".replaced").glob("*/*"))
    assert len(replaced) == (moment == "rename")
    assert content_of(replaced[0] if replaced else run) == before
    pull_run("pilot", remote, force=True)
    assert (run / "checkpoints" / "codec.pt").read_text() == "best"
    kept = list((paths.runs_dir() / ".replaced").glob("*/*"))
    assert [content_of(one) for one in kept] == [before]


def test_earlier_stages_of_other_runs_come_along(run, remote, tmp_path, monkeypatch):
    codec = runs.checkpoint_path(run, "codec")
    other = made("above", stands_on={"codec": codec})
    push_run(other, remote)
    elsewhere(tmp_path, monkeypatch)
    there = pull_run("above", remote).folder
    assert runs.planned(other).stands_on == {"codec": str(codec)}
    below = runs.planned(there).stands_on["codec"]
    assert below == str(there / "stands_on" / "codec.pt")
    assert (there / "stands_on" / "codec.pt").read_text() == "best"
    assert push_run(there, remote).sent_bytes == 0


def test_names_that_are_not_there_are_refused_with_near_ones(run, remote):
    push_run(run, remote)
    for wanted in ("pilto", "pilto/x"):
        with pytest.raises(RemoteError, match=r"no run .* there \(did you mean 'pilot"):
            pull_run(wanted, remote)
    with pytest.raises(RemoteError, match="no snapshot begins with '1999'") as caught:
        pull_run("pilot", remote, snapshot="1999")
    assert list_remote_runs(remote)[0].snapshots[0] in caught.value.hint
    with pytest.raises(CheckpointError, match="not a run"):
        push_run(paths.home(), remote)


def test_a_damaged_manifest_is_listed_as_such(run, remote, tmp_path):
    push_run(run, remote)
    (path,) = (tmp_path / "place").rglob("manifest-*.json")
    path.write_text(path.read_text().replace("best", "worst").replace("codec", "cedoc"))
    (known,) = list_remote_runs(remote)
    assert "may not be used" in known.problem
    with pytest.raises(RemoteError, match="may not be used"):
        pull_run("pilot", remote)
