"""An engine of the tests: jobs are processes of this machine, started and ended for real.

Its folder is its server: a job's own process makes `<id>/pid` there, so that a client may be killed
at any moment and the engine still knows what runs. It stands in for ssh in a `JobSpec`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from ups.errors import RemoteError
from ups.remote.driver import Driver, Handle, Machine, Offer, Plan, Status
from ups.remote.spec import JobSpec

_START = """
mkdir "$1" 2>/dev/null || exit 0
echo $$ > "$1/pid.partial" && mv "$1/pid.partial" "$1/pid"
cd "$2" && bash run.sh > "$1/log" 2>&1
echo $? > "$1/code.partial" && mv "$1/code.partial" "$1/code"
"""


class LocalEngine(Driver):
    """One folder of processes.

    Args:
        price: Of every machine; with one the engine is a paid one.
        pause_s: Waited in launch and stop, before and after what they do.
    """

    name = "ssh"

    def __init__(
        self, folder: Path, *, price: float = 0.0, available: bool = True, pause_s: float = 0.0
    ) -> None:
        self.folder, self.price, self.available = folder, price, available
        self.is_paid = price > 0
        self._pause_s = pause_s
        self._reaped: list[subprocess.Popen[bytes]] = []

    def offers(self, spec: JobSpec) -> list[Offer]:
        gpu = "" if spec.gpu.is_any else str(spec.gpu.name)
        return [
            Offer("ssh", "local", f"place{number}", f"box{number}", gpu, spec.gpu.count,
                  None if not gpu else 80.0, 4, 16.0, self.price * (number + 1), spec.spot,
                  self.available)
            for number in range(2)
        ]  # fmt: skip

    def plan(self, spec: JobSpec) -> Plan:
        everything = self.offers(spec)
        limit = float("inf") if spec.max_price is None else spec.max_price
        return Plan(f"run: {spec.id}\nsecrets: {list(spec.secrets)}\n",
                    [one for one in everything if one.price <= limit], everything[0])  # fmt: skip

    def launch(self, spec: JobSpec, bundle: Path, secrets: Mapping[str, str]) -> Handle:
        if (handle := self.find(spec.id)) is not None:
            return handle
        time.sleep(self._pause_s)
        self.folder.mkdir(parents=True, exist_ok=True)
        copy = self.folder / f".{spec.id}"
        shutil.copytree(bundle, copy, dirs_exist_ok=True)
        job = self.folder / spec.id
        self._reaped.append(subprocess.Popen(
            ["bash", "-c", _START, "job", str(job), str(copy)], start_new_session=True,
            env={**os.environ, **secrets, **spec.environment},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ))  # fmt: skip
        time.sleep(self._pause_s)
        while not (job / "pid").is_file():
            time.sleep(0.01)
        return self._handle(spec.id)

    def find(self, job_id: str) -> Handle | None:
        return self._handle(job_id) if (self.folder / job_id / "pid").is_file() else None

    def status(self, handle: Handle) -> Status:
        job = self._job(handle)
        if not (job / "pid").is_file():
            return Status("unknown", reason="no such job")
        seconds = time.time() - (job / "pid").stat().st_mtime
        about = {"machine": "box0", "price": self.price, "running_s": seconds}
        if (job / "code").is_file():
            return Status("done", int((job / "code").read_text()), **about)
        if self._is_alive(job):
            return Status("running", **about)
        return Status("stopped", reason="its process was ended", **about)

    def logs(self, handle: Handle, *, follow: bool = False) -> Iterator[str]:
        log, done = self._job(handle) / "log", 0
        while True:
            ended = self.status(handle).has_ended
            text = log.read_text() if log.is_file() else ""
            lines = text.split("\n")[:-1]
            yield from lines[done:]
            done = len(lines)
            if ended or not follow:
                return
            time.sleep(0.02)

    def wait(self, handle: Handle, *, timeout_s: float | None = None) -> Status:
        end = time.monotonic() + (timeout_s or 1e9)
        while not (status := self.status(handle)).has_ended and time.monotonic() < end:
            time.sleep(0.02)
        return status

    def stop(self, handle: Handle) -> None:
        time.sleep(self._pause_s)
        self._end(self._job(handle))
        time.sleep(self._pause_s)

    def machines(self) -> list[Machine]:
        if not self.folder.is_dir():
            return []
        return [
            Machine("ssh", job.name, "running", job=job.name, price=self.price)
            for job in sorted(self.folder.iterdir())
            if not job.name.startswith(".") and self._is_alive(job)
        ]

    def remove(self, machine: Machine) -> None:
        self._end(self.folder / machine.name)

    def end_all(self) -> None:
        """For the end of a test."""
        for machine in LocalEngine.machines(self):
            LocalEngine.remove(self, machine)
        for process in self._reaped:
            process.wait()

    def _end(self, job: Path) -> None:
        if not self._is_alive(job):
            return
        pid = int((job / "pid").read_text())
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(pid, number)
            for _ in range(100):
                if not self._is_alive(job):
                    return
                time.sleep(0.01)
        raise RemoteError(f"{job.name}: does not end")

    def _is_alive(self, job: Path) -> bool:
        """Whether its process runs; one that was ended and waits for its parent does not."""
        if not (job / "pid").is_file() or (job / "code").is_file():
            return False
        pid = (job / "pid").read_text().strip()
        for process in self._reaped:
            process.poll()
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z"

    def _handle(self, job_id: str) -> Handle:
        return {"engine": "local", "job": job_id}

    def _job(self, handle: Handle) -> Path:
        return self.folder / str(handle["job"])
