"""What a rented container is to dstack: a real sshd on loopback, and behind it a runner.

The runner stands in for dstack's own (a Go program that pip does not bring). It speaks its HTTP
protocol on port 10999, unpacks the uploads, runs the job's command for real, and reports states,
output and exit code. The container's `/root` is a folder of the test.
"""

from __future__ import annotations

import base64
import email.policy
import io
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from servers import free_port
from vast_api import VastApi

RUNNER_PORT = 10999
INSTALL = "apt-get install -y openssh-server"


class Runner:
    """One job: `submit`, uploads, `run`, `pull` until it has ended, `stop`.

    Attributes:
        environment: That the job was given, secrets filled in.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment: dict[str, str] = {}
        self.stopped = 0
        self._job: dict[str, Any] = {}
        self._events: list[dict[str, Any]] = []
        self._logs: list[dict[str, Any]] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []

    def answer(self, method: str, path: str, content_type: str, body: bytes) -> tuple[int, Any]:
        name = path.partition("?")[0].removeprefix("/api/")
        if name == "healthcheck":
            return 200, {"service": "dstack-runner", "version": "0.22.5"}
        if name == "submit":
            self._job = json.loads(body)["job_spec"]
            return 200, {}
        if name == "upload_archive":
            self._unpack(content_type, body)
            return 200, {}
        if name == "run":
            self._start()
            return 200, {"working_dir": str(self.root), "username": "root"}
        if name == "pull":
            return 200, self._pulled()
        if name == "stop":
            self.stopped += 1
            self.kill(signal.SIGTERM)
            return 200, {}
        return 404, {}

    def kill(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def close(self) -> None:
        self.kill(signal.SIGKILL)
        for thread in self._threads:
            thread.join(10)

    def _unpack(self, content_type: str, body: bytes) -> None:
        head = f"Content-Type: {content_type}\r\n\r\n".encode()
        message = BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        (part,) = message.iter_parts()
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        wanted = next(each["path"] for each in self._job["file_archives"]
                      if each["id"] == part.get_filename())  # fmt: skip
        folder = Path(wanted.replace("/root", str(self.root), 1))
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for entry in archive.getmembers():
                entry.name = entry.name.replace("bundle", folder.name, 1)
                archive.extract(entry, folder.parent, filter="data")

    def _start(self) -> None:
        self.environment = dict(self._job["env"])
        command = [part.replace("/root", str(self.root)) for part in self._job["commands"]]
        command = [part for part in command if part != "-i"]
        self._process = subprocess.Popen(
            command, env=os.environ | self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._event("running")
        thread = threading.Thread(target=self._watch, args=(self._process,))
        thread.start()
        self._threads.append(thread)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                message = base64.b64encode(line).decode()
                self._logs.append({"timestamp": _now(), "message": message})
        code = process.wait()
        if self.stopped:
            self._event("terminated", "terminated_by_user", code)
        elif code:
            self._event("failed", "container_exited_with_error", code)
        else:
            self._event("done", "done_by_runner", 0)

    def _event(self, state: str, reason: str | None = None, code: int | None = None) -> None:
        self._events.append({"timestamp": _now(), "state": state, "termination_reason": reason,
                             "exit_status": code})  # fmt: skip

    def _pulled(self) -> dict[str, Any]:
        events, self._events = self._events, []
        logs, self._logs = self._logs, []
        return {"job_states": events, "job_logs": logs, "runner_logs": [], "last_updated": _now(),
                "has_more": any(thread.is_alive() for thread in self._threads)}  # fmt: skip


@contextmanager
def container(folder: Path, vast: VastApi) -> Iterator[Runner]:
    """The next machine that `vast` rents out is this one."""
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(sshd).is_file():
        pytest.skip(f"sshd is not installed: {INSTALL}")
    root = folder / "root"
    root.mkdir(parents=True)
    runner = Runner(root)
    try:
        server = ThreadingHTTPServer(("127.0.0.1", RUNNER_PORT), _handler(runner))
    except OSError:
        pytest.skip(f"port {RUNNER_PORT}, which dstack's runner has, is taken")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with _sshd(sshd, folder, vast):
            yield runner
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        runner.close()


@contextmanager
def _sshd(program: str, folder: Path, vast: VastApi) -> Iterator[None]:
    """sshd that lets in the keys that the machine was rented with."""
    key, keys, port = folder / "host_key", folder / "authorized_keys", free_port()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    Path("/run/sshd").mkdir(parents=True, exist_ok=True)
    config = folder / "sshd_config"
    config.write_text(
        f"HostKey {key}\nPort {port}\nListenAddress 127.0.0.1\nAuthorizedKeysFile {keys}\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        "PidFile none\nAllowTcpForwarding yes\nAllowStreamLocalForwarding yes\n"
    )
    keys.touch()
    vast.host, vast.port = "127.0.0.1", port
    vast.on_rent = lambda body: keys.write_text("\n".join(_authorized(body["args"][1])) + "\n")
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([program, "-D", "-e", "-f", config], stderr=log, stdout=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def _authorized(command: str) -> list[str]:
    """Keys in the start command that dstack gave the machine."""
    words = shlex.split(command.rpartition("&&")[2])
    return [after for word, after in itertools.pairwise(words)
            if word == "--ssh-authorized-key"]  # fmt: skip


def _handler(runner: Runner) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = self.headers.get("Content-Type", "")
            status, content = runner.answer(self.command, self.path, kind, body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _serve  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler


def _now() -> int:
    return int(time.time() * 1000)
