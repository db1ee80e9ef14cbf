"""Snapshots of a run, sent while it trains: what a new machine goes on from."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ups.remote.agent.telling import Reporter

_LAST_LINE = "no output"


class Pusher:
    """Sends the run every so often, one push at a time, beside the training.

    A push that fails is told and tried again at the next time: the run goes on.

    Args:
        command: Arguments of `ups` that push.
        every_s: From the end of one push to the beginning of the next.
        limit_s: After which a push that does not end is killed.
    """

    def __init__(
        self,
        command: list[str],
        checkpoints: Path,
        reporter: Reporter,
        *,
        every_s: float,
        limit_s: float,
    ) -> None:
        self._command, self._checkpoints, self._reporter = command, checkpoints, reporter
        self._every_s, self._limit_s = every_s, limit_s
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: list[str] = []
        self._since = time.monotonic()

    def tick(self) -> None:
        """Begin a push where one is due and there is something to send; notice one that ended."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._since + self._every_s and any(self._checkpoints.glob("*.pt")):
                self._begin()
        elif self._process.poll() is not None:
            self._ended()
        elif now > self._since + self._limit_s:
            self._kill()
            self._ended()

    def close(self) -> None:
        """End a push that is under way: another one is about to be made of a later state."""
        if self._process is not None:
            self._kill()
            self._ended(tell=False)

    def _begin(self) -> None:
        self._since, self._lines = time.monotonic(), []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ups", *self._command], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            process_group=0,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            self._lines.extend(line.strip() for line in stream)

    def _kill(self) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _ended(self, *, tell: bool = True) -> None:
        assert self._process is not None
        assert self._reader is not None
        code = self._process.wait()
        self._reader.join(5.0)
        self._process, self._since = None, time.monotonic()
        if code == 0:
            self._reporter.event("pushed")
            self._reporter.note(pushed=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        elif tell:
            errors = [line for line in self._lines if line.startswith("error: ")]
            last = (errors or self._lines or [_LAST_LINE])[-1]
            self._reporter.event("push failed", exit_code=code, reason=last)
