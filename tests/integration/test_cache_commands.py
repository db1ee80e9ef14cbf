"""`ups cache build`, `list` and `prune`, and builds that are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from tiny_commands import ups

from ups import paths, runs
from ups.cache.format import DEPRECATED, MANIFEST, PROGRESS, list_caches

REPEATS = ("--set", "cache.dtype=bfloat16", "--set", "cache.repeats=2")


@pytest.fixture
def trained(config: str) -> str:
    ups("train", "--config", config, "--stage", "codec")
    return config


def listed():
    return json.loads(ups("cache", "list", "--json").stdout)


def age(folder, days):
    then = time.time() - days * 86400
    for path in folder.iterdir():
        os.utime(path, (then, then))


def test_a_cache_with_repeats_is_built_listed_and_trained_from(trained):
    said = ups("cache", "build", "advection1d", "--dtype", "bfloat16", "--repeats", "2").stdout
    assert " tokens x " in said
    rows = [line.split() for line in said.splitlines() if line.startswith(("float", "bfloat"))]
    assert [row[0] for row in rows] == ["float16", "bfloat16", "float32"]
    assert rows[1][1] == "*"
    errors = {row[0]: float(row[-1]) for row in rows}
    assert errors["float32"] == 0 < errors["float16"] < errors["bfloat16"]
    assert max(map(len, said.splitlines()[1:])) <= 80

    (row,) = listed()
    assert row["dtype"] == "bfloat16"
    assert (row["repeats"], row["state"], row["splits"]) == (2, "complete", ["train", "valid"])
    assert row["runs"] == [runs.run_id(run) for run in runs.list_runs()]
    assert 0 <= row["age_s"] < 600
    table = ups("cache", "list").stdout
    assert max(map(len, table.splitlines())) <= 80
    for word in ("advection1d/", "bfloat16", "train x2,valid", "complete", row["codec"]):
        assert word in table

    said = ups("train", "--config", trained, "--stage", "operator", *REPEATS).stdout
    assert "cache     " in said
    assert " in memory\n" in said
    said = ups("train", "--config", trained, "--stage", "operator", *REPEATS,
               "--set", "cache.residence=stream").stdout  # fmt: skip
    assert "streamed from 3 shards\n" in said
    one, other = (runs.read_metrics(run / runs.METRICS) for run in runs.list_runs("tiny")[:2])
    losses = [
        [record["loss"] for record in records if "loss" in record] for records in (one, other)
    ]
    assert losses[0] == losses[1] != []


def test_prune_removes_what_nobody_needs_and_says_why_the_rest_stays(trained):
    ups("cache", "build", "advection1d")
    ups("cache", "build", "advection1d", "--dtype", "float32")
    plain, wide = list_caches()
    said = ups("cache", "prune").stdout
    (run,) = runs.list_runs()
    assert said.count(f"run {runs.run_id(run)} refers to it") == 2
    assert "removed 0 caches" in said

    (wide / DEPRECATED).write_text(json.dumps({"reason": "half is enough", "when": "today"}))
    assert listed()[1]["state"] == "deprecated"
    assert listed()[1]["reason"] == "half is enough"
    assert "would remove 1 caches" in ups("cache", "prune", "--dry-run").stdout
    assert wide.is_dir()
    assert "removed 0" in ups("cache", "prune", "--older-than", "1h").stdout
    assert f"removed {paths.display(wide)}" in ups("cache", "prune").stdout
    assert list_caches() == [plain]

    shutil.rmtree(run)
    assert listed()[0]["runs"] == []
    assert "younger than --older-than" in ups("cache", "prune", "--older-than", "1h").stdout
    ups("cache", "prune")
    assert not list_caches()
    assert "none in" in ups("cache", "list").stdout


def test_force_removes_what_runs_refer_to(trained):
    ups("cache", "build", "advection1d")
    ups("cache", "prune", "--force", "nothing_of_this_name")
    assert len(list_caches()) == 1
    ups("cache", "prune", "--force")
    assert not list_caches()


def test_unfinished_caches_go_after_a_day_but_never_while_they_are_built(trained, monkeypatch):
    ups("cache", "build", "advection1d")
    (folder,) = list_caches()
    (folder / MANIFEST).rename(folder / PROGRESS)
    assert listed()[0]["state"] == "unfinished"
    said = ups("cache", "prune").stdout
    assert "younger than a day and unfinished: ups cache build continues it" in said
    age(folder, days=2)
    program = (
        "import sys; from ups import files; from pathlib import Path\n"
        f"with files.exclusive(Path({str(folder)!r}), 'building'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        holder.stdout.readline()
        assert listed()[0]["state"] == "building"
        assert "in use by another process" in ups("cache", "prune", "--force").stdout
        holder.stdin.close()
        holder.wait()
    assert "removed 1 caches" in ups("cache", "prune").stdout
    assert not list_caches()


def test_a_run_of_which_nothing_can_be_told_stops_prune_and_not_list(trained):
    ups("cache", "build", "advection1d")
    (run,) = runs.list_runs()
    (run / "checkpoints" / "codec.pt").write_bytes(b"nothing")
    assert len(listed()) == 1
    failed = ups("cache", "prune", code=4)
    assert "cannot tell which caches a run refers to" in failed.stderr
    assert list_caches()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_build_that_is_killed_is_continued_to_the_same_bytes(trained, workers):
    options = ("--repeats", "2", "--set", "cache.shard_bytes=1")
    command = [sys.executable, "-m", "ups", "cache", "build", "advection1d", *options]
    command += ["--workers", str(workers)]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        while len(list(paths.caches_dir().rglob("train-*.npy"))) < 5 and process.poll() is None:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
    (folder,) = list_caches()
    assert not (folder / MANIFEST).exists(), "it was finished before it was killed"
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    assert len(kept) >= 5

    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    continued = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    assert sum(again[name] == written for name, written in kept.items()) >= len(kept) - workers
    shutil.rmtree(folder)
    ups("cache", "build", "advection1d", *options)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == continued
    assert len(continued) == 2 * 16 + 2 + 1
