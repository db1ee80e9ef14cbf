"""`ups remote` with a real sshd: the whole command, and clients killed while they use it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ssh_server import SshServer, ssh_server
from tiny_commands import ups

from ups.remote import launch, records
from ups.remote.drivers.ssh import SshDriver
from ups.remote.spec import JobSpec

CHILD = """
import sys
from pathlib import Path
from ups.cli.main import app
from ups.remote import launch

def build(spec, folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.sh").write_text("sleep 300\\n")

launch.build_bundle = build
sys.stdout.write("ready\\n")
sys.stdout.flush()
app(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("ssh") / "host") as running:
        yield running


@pytest.fixture
def remote(server: SshServer, home: Path, tmp_path: Path) -> Path:
    """A remote; ssh is the only engine that is set up."""
    home.mkdir()
    (home / "remote.yaml").write_text(yaml.safe_dump({"options": {"ssh": server.options}}))
    (tmp_path / "remote").mkdir()
    return tmp_path / "remote"


def script(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(spec: JobSpec, folder: Path) -> None:
        (folder / "run.sh").write_text(text + "\n")

    monkeypatch.setattr(launch, "build_bundle", build)


@pytest.mark.parametrize("code", [0, 7])
def test_launch_over_ssh_exits_as_the_job_does(
    remote: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    script(f"echo here; exit {code}", monkeypatch)
    text = ups("remote", "launch", "--remote", str(remote), code=code).output
    assert "\nhere\n" in text
    assert f"exit {code}: " in text
    assert "nothing is paid" in text


def test_a_detached_job_over_ssh_is_stopped(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script("sleep 60", monkeypatch)
    ups("remote", "launch", "--remote", str(remote), "--detach", "--max-hours", "1")
    assert "1 going on" in ups("remote", "list").output
    assert "healthy" in ups("remote", "doctor").output
    assert "exit 12: stopped by the user" in ups("remote", "stop").output
    assert "healthy" in ups("remote", "doctor").output


def test_an_ssh_host_without_the_gpu_is_refused_before_anything_is_sent(remote: Path) -> None:
    text = ups("remote", "launch", "--gpu", "B200:8", "--remote", str(remote), code=6).output
    assert "error: ssh: 127.0.0.1:" in text
    assert records.ids() == []


@pytest.mark.slow
def test_no_kill_of_an_ssh_client_leaves_an_orphan_or_loses_a_record(
    server: SshServer, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays = random.Random(2)
    driver = SshDriver([server.options])
    for _ in range(10):
        killed(delays.uniform(0.2, 2.5), "remote", "launch", "--detach", "--remote", str(remote))
    time.sleep(2)
    running = {machine.job for machine in driver.machines()}
    assert running
    assert running <= set(records.ids())
    ups("remote", "doctor")
    assert running <= {job.id for job in records.load_all() if job.handle is not None}
    for job in sorted(running):
        killed(delays.uniform(0.0, 1.0), "remote", "stop", job)
    monkeypatch.setattr(launch, "LOST_AFTER_S", 0.0)
    ups("remote", "doctor", "--remove", "--yes")
    for job in sorted(running):
        ups("remote", "stop", job)
    assert driver.machines() == []
    assert all(job.has_ended for job in records.load_all())


def killed(delay_s: float, *arguments: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env=dict(os.environ),
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(delay_s)
        child.kill()
