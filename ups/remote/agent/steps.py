"""One step of a job as a child process, watched until it ends or has to be ended.

A step of its own process survives nothing of another's crash, and its exit code is the step's. It
is ended when the job is asked to stop, when its time is up, and when it hangs: no line of output
and no progress for so long. Then it prints where all its threads are before it is killed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ups.errors import EXIT_PREEMPTED
from ups.remote.agent.telling import Reporter
from ups.remote.spec import EXIT_HANG, EXIT_TIME_LIMIT

Cause = Literal["", "stopped", "time", "hang"]
_TICK_S = 0.2
_KEPT_LINES = 40
_TRACE_S = 3.0
_STOP_S = 110.0
_GRACE_PART = 0.6
"""Of the time that is left, for a checkpoint; the rest is for its push."""
_ERROR = re.compile(r"(?:error|Error|ERROR|[\w.]+Error|[\w.]+Exception): ?(.+)")
_SIGNAL_BASE = 128


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
        code: What the job exits with, if this is what ended it.
        cause: Why it was ended; empty where it ended by itself.
        reason: One line; empty after success.
        output: Its last lines; all of them where they were captured.
    """

    code: int
    cause: Cause = ""
    reason: str = ""
    output: str = ""

    @property
    def ok(self) -> bool:
        return self.code == 0 and not self.cause


@dataclass
class Limits:
    """What ends a step before its time.

    Attributes:
        deadline: Unix time at which the machine goes.
        margin_s: Before the deadline, for the last checkpoint and push.
        hang_s: Without any sign of progress.
        is_asked: The job was asked to stop.
    """

    deadline: float = float("inf")
    margin_s: float = 120.0
    hang_s: float = 1800.0
    is_asked: bool = False

    def ask(self) -> None:
        """Stop the job; who asks waits two minutes before they kill."""
        if not self.is_asked:
            self.is_asked = True
            self.deadline = min(self.deadline, time.time() + _STOP_S)

    def reached(self) -> Cause:
        if self.is_asked:
            return "stopped"
        return "time" if time.time() >= self.deadline - self.margin_s else ""

    def left_s(self) -> float:
        return max(self.deadline - time.time(), 0.0)


class Steps:
    """Runs steps one after the other.

    Args:
        folder: For the file that children tell their progress to.
    """

    def __init__(self, folder: Path, limits: Limits, reporter: Reporter) -> None:
        self._beat = folder / "heartbeat.json"
        self._limits, self._reporter = limits, reporter
        self._num_lines = 0

    def ups(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        launcher: Sequence[str] = (),
        captured: bool = False,
        limit_s: float | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Run `ups <arguments>`.

        Args:
            launcher: Command before it, `srun` for example.
            captured: Keep the output, do not print it.
            limit_s: After which it is ended, whatever else ends it or not; for what must still be
                done when the job has been asked to stop or its time is nearly up.
            meanwhile: Called a few times a second.
        """
        command = [*launcher, sys.executable, "-m", "ups", *arguments]
        self._beat.unlink(missing_ok=True)
        lines: deque[str] = deque(maxlen=None if captured else _KEPT_LINES)
        # Its own group: a signal for ours reaches it once, from us.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1",
                 "UPS_HEARTBEAT": str(self._beat)},
            process_group=0, text=True, errors="replace",
        )  # fmt: skip
        reader = threading.Thread(target=self._read, args=(process, lines, captured), daemon=True)
        reader.start()
        try:
            cause = self._watch(process, lines, limit_s, meanwhile)
        finally:
            _end_group(process)
        reader.join(_TRACE_S)
        return _outcome(name, process.returncode, cause, lines)

    def _read(self, process: subprocess.Popen[str], lines: deque[str], captured: bool) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for line in stream:
                lines.append(line.rstrip("\n"))
                self._num_lines += 1
                if not captured:
                    self._reporter.line(lines[-1])

    def _watch(
        self,
        process: subprocess.Popen[str],
        lines: deque[str],
        limit_s: float | None,
        meanwhile: Callable[[], None],
    ) -> Cause:
        """Wait until the process has ended; say why, if it had to be."""
        began = moved = time.monotonic()
        seen: Any = None
        while process.poll() is None:
            told, now = self._told(), time.monotonic()
            sign = (told, self._num_lines)
            if sign != seen:
                seen, moved = sign, now
                self._reporter.progress(told)
            cause = self._limits.reached() if limit_s is None else ""
            if limit_s is not None and now > began + limit_s:
                cause = "time"
            if not cause and now > moved + self._limits.hang_s:
                cause = "hang"
            if cause:
                self._end(process, cause, is_last=limit_s is not None)
                return cause
            meanwhile()
            time.sleep(_TICK_S)
        return ""

    def _end(self, process: subprocess.Popen[str], cause: Cause, *, is_last: bool) -> None:
        if cause == "hang":
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGABRT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TRACE_S)
            return
        grace = min(_GRACE_PART * self._limits.left_s(), _STOP_S)
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_TRACE_S if is_last else grace)

    def _told(self) -> dict[str, Any]:
        """What the child has told of its progress; nothing while it writes."""
        try:
            told = json.loads(self._beat.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}


def _end_group(process: subprocess.Popen[str]) -> None:
    """Kill what is left of a step, its own children too."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _outcome(name: str, returned: int, cause: Cause, lines: deque[str]) -> Outcome:
    output = "\n".join(lines)
    match cause:
        case "hang":
            return Outcome(EXIT_HANG, cause, f"{name} hung: no progress, and was killed", output)
        case "time":
            return Outcome(EXIT_TIME_LIMIT, cause, f"the time limit ended {name}", output)
        case "stopped":
            return Outcome(EXIT_PREEMPTED, cause, f"asked to stop during {name}", output)
    if returned < 0:
        number = -returned
        why = f"{name} was killed by {signal.Signals(number).name}"
        if number == signal.SIGKILL:
            why += ", by the system if memory ran out"
        return Outcome(_SIGNAL_BASE + number, "", why, output)
    found = _error_in(lines)
    return Outcome(returned, "", f"{name}: {found}" if returned else "", output)


def _error_in(lines: deque[str]) -> str:
    """The last line that looks like an error's, else the last line."""
    for line in reversed(lines):
        if found := _ERROR.match(line):
            return found[1] if line.lower().startswith("error") else line
    return next((line for line in reversed(lines) if line.strip()), "no output")
