"""Clients killed at random moments of a launch and of a stop: nothing is lost, nothing is left."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_engine import LocalEngine
from tiny_commands import ups

from ups.remote import drivers, launch, records

CHILD = Path(__file__).parent.parent / "remote_child.py"
PAUSE_S = 0.15


@pytest.fixture
def engine(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalEngine]:
    made = LocalEngine(tmp_path / "engine")
    monkeypatch.setattr(drivers, "driver_of", lambda name, options: made)
    monkeypatch.setattr(launch, "_POLL_S", 0.02)
    home.mkdir()
    (home / "remote.yaml").write_text("engine: ssh\n")
    (tmp_path / "remote").mkdir()
    yield made
    made.end_all()


def killed_after(delay_s: float, engine: LocalEngine, *arguments: str) -> None:
    """Run a command in a process of its own, and kill it so long after its start-up."""
    path = os.pathsep.join([str(CHILD.parent), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, str(CHILD), str(engine.folder), str(PAUSE_S), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path},
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(delay_s)
        child.kill()


@pytest.mark.parametrize(("kills", "seed"), [(3, 0), pytest.param(20, 1, marks=pytest.mark.slow)])
def test_no_kill_of_a_client_leaves_an_orphan_or_loses_a_record(
    engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, seed: int
) -> None:
    delays = random.Random(seed)
    for _ in range(kills):
        killed_after(delays.uniform(0.0, 1.2), engine, "remote", "launch", "--detach",
                     "--remote", str(tmp_path / "remote"))  # fmt: skip
    time.sleep(0.3)  # processes that were just started make their folders
    running = {machine.job for machine in engine.machines()}
    assert running <= set(records.ids())
    ups("remote", "doctor")
    found = {job.id for job in records.load_all() if job.handle is not None}
    assert running <= found
    for job in sorted(running):
        killed_after(delays.uniform(0.0, 0.6), engine, "remote", "stop", job)
    monkeypatch.setattr(launch, "LOST_AFTER_S", 0.0)
    ups("remote", "doctor", "--remove", "--yes")
    for job in sorted(running):
        ups("remote", "stop", job)
    assert engine.machines() == []
    assert all(job.has_ended for job in records.load_all())
    assert {job.id for job in records.load_all()} >= running
