"""What is submitted to dstack, and what its answers become; no server."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tarfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dstack_jobs import bundle, job

from ups.errors import RemoteError, UsageError
from ups.remote.drivers import dstack_server, dstack_task
from ups.remote.spec import GpuRequest

dstack_answers = pytest.importorskip("ups.remote.drivers.dstack_answers")


def test_both_fences_of_time_and_the_price_are_always_there() -> None:
    content = dstack_task.configuration(job("fences", max_hours=2), deadline=1_800_000_000)
    assert content["max_price"] == 1.0
    assert content["max_duration"] == 2 * 3600 + 300
    assert content["idle_duration"] == 0
    assert content["env"]["UPS_REMOTE_DEADLINE"] == "1800000000"
    assert content["retry"] == {"on_events": ["no-capacity", "interruption"], "duration": 7200}
    assert dstack_task.configuration(job("fences", retries=0))["retry"] is False


def test_resources_and_options_are_translated() -> None:
    spec = job(
        "resources", gpu=GpuRequest(name="RTX4090", count=2), cpus=8, disk_gb=200, nodes=2,
        spot=True, options={"backend": "vastai, vultr", "region": "ewr"},
    )  # fmt: skip
    content = dstack_task.configuration(spec)
    assert content["resources"] == {
        "cpu": "x86:8..", "gpu": {"count": 2, "name": ["RTX4090"]}, "disk": "200GB..",
    }  # fmt: skip
    assert content["fleets"] == ["ups-cluster"]
    assert (content["backends"], content["regions"]) == (["vastai", "vultr"], ["ewr"])
    assert content["spot_policy"] == "spot"
    assert dstack_task.configuration(job("cpu", gpu=GpuRequest()))["resources"]["gpu"] == 0


def test_secrets_are_names_and_dollars_are_kept() -> None:
    spec = job("with-hyphens-1a2b", environment={"PRICE": "$5 and $$"})
    environment = dstack_task.configuration(spec)["env"]
    assert environment == {
        "PRICE": "$$5 and $$$$",
        "WANDB_API_KEY": "${{ secrets.with_hyphens_1a2b__WANDB_API_KEY }}",
    }


def test_an_image_and_a_python_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="an image brings its own Python"):
        dstack_task.configuration(job("both", options={"image": "a", "python": "3.12"}))


@pytest.mark.parametrize(
    ("script", "seconds", "code"),
    [
        ("exit 0", 60, 0), ("exit 7", 60, 7), ("exit 8", 60, 8), ("kill -9 $$", 60, 137),
        ("sleep 30", 1, 11), ("trap 'exit 8' TERM; sleep 30 & wait", 1, 11), ("exit 0", -5, 11),
    ],
)  # fmt: skip
def test_the_command_ends_with_the_jobs_code_or_that_of_the_time_limit(
    tmp_path: Path, script: str, seconds: int, code: int
) -> None:
    (tmp_path / "run.sh").write_text(script + "\n")
    (command,) = dstack_task.commands()
    deadline = str(int(time.time()) + seconds)
    ended = subprocess.run(
        ["bash", "-c", command.replace(dstack_task.FOLDER, str(tmp_path))],
        env=os.environ | {"UPS_REMOTE_DEADLINE": deadline}, timeout=30, check=False,
    )  # fmt: skip
    assert ended.returncode == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_shell_reaches_the_job(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "run.sh").write_text("trap 'sleep 0.3; exit 8' TERM; touch up; sleep 30 & wait\n")
    (command,) = dstack_task.commands()
    environment = os.environ | {"UPS_REMOTE_DEADLINE": str(int(time.time()) + 60)}
    process = subprocess.Popen(
        ["bash", "-c", command.replace(dstack_task.FOLDER, str(tmp_path))], env=environment
    )
    end = time.monotonic() + 20
    while not (tmp_path / "up").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(20) == 8


def test_without_its_bundle_a_job_fails_as_preflight_does(tmp_path: Path) -> None:
    (command,) = dstack_task.commands()
    command = command.replace(dstack_task.FOLDER, str(tmp_path / "missing"))
    ended = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert ended.returncode == 14


def test_the_archive_has_every_file_whatever_is_ignored_and_is_the_same_again(
    tmp_path: Path,
) -> None:
    from ups.remote.drivers.dstack_client import bundle_archive

    digest, content = bundle_archive(bundle(tmp_path))
    again, _ = bundle_archive(bundle(tmp_path))
    assert digest == again == hashlib.sha256(content.getvalue()).hexdigest()
    with tarfile.open(fileobj=content) as archive:
        assert archive.getnames() == [
            "bundle/config.yaml", "bundle/job.json", "bundle/requirements.lock", "bundle/run.sh",
            "bundle/ups-0.1.0-py3-none-any.whl",
        ]  # fmt: skip


def _submission(reason: str | None, code: int | None = None, message: str | None = None) -> Any:
    start = datetime.now(UTC) - timedelta(hours=1)
    machine = SimpleNamespace(
        backend=SimpleNamespace(value="vastai"), region="is", hostname="1.2.3.4", price=0.5,
        instance_type=SimpleNamespace(name="101"), instance_id="9001",
    )  # fmt: skip
    return SimpleNamespace(
        job_provisioning_data=machine, submitted_at=start, exit_status=code,
        finished_at=start + timedelta(minutes=30), termination_reason=reason,
        termination_reason_message=message,
        status=SimpleNamespace(is_finished=lambda: True),
    )  # fmt: skip


def _run(status: str, reason: str | None, *submissions: Any) -> Any:
    return SimpleNamespace(
        status=SimpleNamespace(value=status), termination_reason=reason, error=None,
        jobs=[SimpleNamespace(job_submissions=list(submissions))],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("run", "state", "code", "reason"),
    [
        (_run("done", "all_jobs_done", _submission("done_by_runner", 0)), "done", 0, ""),
        (_run("failed", "job_failed", _submission("container_exited_with_error", 5)),
         "done", 5, ""),
        (_run("terminated", "stopped_by_user", _submission("terminated_by_user", 143)),
         "stopped", 143, ""),
        (_run("terminated", "aborted_by_user", _submission("aborted_by_user")),
         "stopped", None, ""),
        (_run("failed", "job_failed", _submission("max_duration_exceeded")),
         "timed_out", None, "ended by the time limit"),
        (_run("failed", "retry_limit_exceeded",
              _submission("failed_to_start_due_to_no_capacity", message="no  offers")),
         "failed", None, "no machine could be had: no offers"),
        (_run("failed", "job_failed", _submission("instance_unreachable")),
         "failed", None, "the machine could not be reached for two minutes"),
        (_run("failed", "server_error"), "failed", None, "server error"),
        (_run("pending", None, _submission("interrupted_by_no_capacity")), "queued", None, ""),
        (_run("running", None, _submission(None)), "running", None, ""),
        (_run("terminating", None, _submission(None)), "stopping", None, ""),
    ],
)  # fmt: skip
def test_every_end_has_its_state_and_line(
    run: Any, state: str, code: int | None, reason: str
) -> None:
    status = dstack_answers.status_of(run)
    assert (status.state, status.exit_code, status.reason) == (state, code, reason)


def test_time_and_attempts_count_all_machines() -> None:
    interrupted = _submission("interrupted_by_no_capacity")
    status = dstack_answers.status_of(_run("pending", None, interrupted, _submission(None)))
    assert status.attempts == 2
    assert status.running_s == pytest.approx(3600)
    assert status.machine == "101 in vastai is (1.2.3.4)"


def test_without_the_extra_the_engine_says_what_to_install() -> None:
    script = "import sys; sys.modules['dstack'] = None\nimport ups.remote.drivers.dstack"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "ups.errors.MissingExtraError: the dstack engine needs the package dstack"
    )


def test_a_named_server_needs_its_token_and_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPS_DSTACK_URL", "http://127.0.0.1:9/")
    monkeypatch.delenv("UPS_DSTACK_TOKEN", raising=False)
    with pytest.raises(RemoteError, match="UPS_DSTACK_TOKEN is not"):
        dstack_server.ensure_server()
    monkeypatch.setenv("UPS_DSTACK_TOKEN", "t-0123")
    with pytest.raises(RemoteError, match=r"no server answers at http://127\.0\.0\.1:9"):
        dstack_server.ensure_server()


def test_a_server_that_ends_at_once_is_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "dstack"
    program.write_text("#!/bin/sh\necho some trace\necho the last line >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(dstack_server, "_program", lambda: str(program))
    with pytest.raises(RemoteError, match="the server ended while starting: the last line"):
        dstack_server.ensure_server()
    assert dstack_server.server_pid() is None
    assert dstack_server.stop_server() is False


def test_a_process_that_got_the_servers_number_is_left_alone(home: Path) -> None:
    folder = dstack_server.folder()
    folder.mkdir(parents=True)
    (folder / "server.json").write_text(f'{{"pid": {os.getpid()}, "port": 9}}')
    assert dstack_server.server_pid() is None
    assert dstack_server.stop_server() is False
