"""A real training over ssh: data from a bucket, code from here, results back in the bucket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from agent_jobs import agent_command, is_alive, job, prepared_environment, status
from ssh_server import ssh_server
from tiny_commands import ups
from tiny_runs import SMALL, STAGE, losses_of

from ups import paths, runs
from ups.config.loading import load_experiment
from ups.remote.bundle import build_bundle
from ups.remote.drivers.ssh import SshDriver
from ups.remote.spec import JobSpec
from ups.training.run import train

pytestmark = pytest.mark.slow
NAMES = ("B2_KEY_ID", "B2_APP_KEY")
PLACES = ("B2_BUCKET", "B2_S3_ENDPOINT", "B2_S3_REGION")


def test_a_training_over_ssh_ends_with_its_entry_on_the_remote(config, s3, tmp_path, monkeypatch):
    ups("data", "push", "advection1d")
    with ssh_server(tmp_path / "host") as server:
        plain = {"UPS_HOME": str(server.home / "ups"), "OMP_NUM_THREADS": "1"}
        spec = JobSpec.model_validate_json(job(
            tmp_path / "spec", remote="b2", options=server.options, max_hours=1,
            task={"stages": ("codec", "operator")}, secrets=NAMES, push_minutes=0.02,
            environment=plain | {name: os.environ[name] for name in PLACES},
        ).read_text())  # fmt: skip
        built = build_bundle(spec, tmp_path / "bundle")
        lock = (built.folder / "requirements.lock").read_text()
        found = prepared_environment(server.folder / "environments", lock)
        spec = spec.model_copy(update={"environment": spec.environment | found})
        built = build_bundle(spec, tmp_path / "bundle")
        driver = SshDriver(poll_s=0.5)
        handle = driver.launch(spec, built.folder, {name: os.environ[name] for name in NAMES})
        lines = list(driver.logs(handle, follow=True))
        ended = driver.wait(handle, timeout_s=30)
        assert (ended.state, ended.exit_code, ended.reason) == ("done", 0, ""), lines
        events = [json.loads(line.partition(" ")[2]) for line in lines if "UPS-EVENT" in line]
        steps = [event["step"] for event in events if event["event"] == "step"]
        assert steps == ["preflight", "fetch", "train", "evaluate", "push"]
        written = [path for path in server.folder.rglob("*") if path.is_file()]
        assert all(s3.secret.encode() not in path.read_bytes() for path in written)

    ups("runs", "pull", "tiny/run-1")
    ups("leaderboard", "pull", "--from", "b2")
    assert "tiny" in ups("leaderboard", "show", "--json").stdout
    environment = json.loads((runs.find_run("tiny/run-1") / "env.json").read_text())
    assert environment["commit"] == built.commit


def test_a_job_that_is_preempted_goes_on_elsewhere_to_the_same_loss(config, tmp_path, monkeypatch):
    stages = {"codec": STAGE | {"steps": 2}, "operator": SMALL["stages"]["operator"] | {
        "steps": 150, "validate_every": 50, "checkpoint_every": 20}}  # fmt: skip
    content = SMALL | {"name": "tiny", "stages": stages, "data": {"dataset": "advection1d"}}
    ups("data", "push", "advection1d", "--to", str(tmp_path / "remote"))
    path = job(tmp_path / "job", remote=str(tmp_path / "remote"), task={
        "config": yaml.safe_dump(content), "stages": ("codec", "operator")
    })  # fmt: skip
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/tiny/run-1")

    first = start(path, tmp_path / "first")
    metrics = tmp_path / "first" / folder / runs.METRICS
    until(lambda: metrics.is_file() and '"step": 30' in metrics.read_text(), first)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(120) == 8
    assert status(path)["reason"] == "asked to stop during training"
    assert 30 <= len(losses_of(tmp_path / "first" / folder, "operator")) < 150

    second = start(path, tmp_path / "second")
    assert second.wait(300) == 0
    there = tmp_path / "second" / folder
    assert (there / "report.json").is_file()
    whole = train(load_experiment(str(path.parent / "config.yaml")), ["codec", "operator"])
    assert losses_of(there, "operator") == losses_of(whole, "operator")


def test_a_full_disk_under_a_training_is_its_own_exit_code(config, tmp_path, monkeypatch):
    path = job(tmp_path / "job", remote=None, task={"stages": ("codec", "operator")})
    monkeypatch.chdir(tmp_path)
    limited = {"UPS_REMOTE_LAUNCHER": "bash -c 'ulimit -f 4; exec \"$@\"' limited"}
    process = start(path, paths.home(), **limited)
    assert process.wait(300) == 4
    assert "the file-size limit is reached" in status(path)["reason"]


def test_a_killed_training_leaves_no_process_and_its_checkpoints_are_pushed(
    config, tmp_path, monkeypatch
):
    path = job(tmp_path / "job", task={"stages": ("codec", "operator"), "evaluate": False})
    monkeypatch.chdir(tmp_path)
    kills = {"UPS_REMOTE_LAUNCHER": f"bash -c 'echo $$ >{tmp_path}/pid; exec \"$@\"' noted"}
    process = start(path, paths.home(), **kills)
    saved = paths.runs_dir() / "tiny" / "run-1" / "checkpoints" / "codec-last.pt"
    until(saved.is_file, process)
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, signal.SIGKILL)
    assert process.wait(120) == 137
    assert "killed by SIGKILL" in status(path)["reason"]
    assert not is_alive(pid)
    assert list((path.parent / "remote" / "run" / "tiny" / "run-1").rglob("manifest-*.json"))


def start(path: Path, home: Path, **environment: str) -> subprocess.Popen[bytes]:
    """The agent on a machine with this UPS_HOME."""
    values = os.environ | {"UPS_HOME": str(home), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(
        agent_command(path), env=values, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def until(is_true, process: subprocess.Popen[bytes]) -> None:
    """Wait while the process runs."""
    end = time.monotonic() + 180
    while not is_true():
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < end
        time.sleep(0.05)
