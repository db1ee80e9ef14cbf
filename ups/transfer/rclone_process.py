"""One rclone process: found, started, watched, stopped. Nothing here knows what it transfers."""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ups.errors import MissingExtraError, RemoteError

OLDEST = (1, 65)
"""The oldest rclone that knows every flag and option used here."""

INSTALL = "pip install 'universal-physics-stack[rclone]'"
STALL_S = 25.0
_LONG = 0.4
_WORTH_BYTES = 8 * 10**6
_TICK_S = 0.5
_GRACE_S = 3.0
_KEPT_ERRORS = 50

# What the child may see of our environment; secrets come in by name, through `environment`.
_PASSED_ON = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "SSH_AUTH_SOCK",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy",
    "https_proxy", "no_proxy", "RCLONE_BWLIMIT", "RCLONE_TPSLIMIT", "RCLONE_CA_CERT",
)  # fmt: skip

# Runs between fork and rclone: the kernel ends rclone when the thread that started it ends.
# A `preexec_fn` would do the same, but Python forbids it to programs with threads.
_DIES_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

Event = dict[str, Any]


@dataclass
class Outcome:
    """How a process ended.

    Attributes:
        code: rclone's exit code; negative after a signal.
        stdout: What it printed.
        errors: Messages of its log at level error and above, in order.
        stalled: It was stopped because nothing moved for `STALL_S` seconds: `_Stillness`.
    """

    code: int = 0
    stdout: bytes = b""
    errors: list[str] = field(default_factory=list)
    stalled: bool = False


def find_binary() -> Path:
    """UPS_RCLONE, rclone on PATH, or the one of the `rclone` extra beside this Python.

    Raises:
        MissingExtraError: There is none.
        RemoteError: It does not run, or is older than `OLDEST`.
    """
    named = os.environ.get("UPS_RCLONE")
    beside = Path(sys.executable).parent / "rclone"
    found = named or shutil.which("rclone") or (str(beside) if beside.is_file() else None)
    if found is None:
        raise MissingExtraError("rclone is not installed", hint=INSTALL)
    binary = Path(found).absolute()
    if not os.access(binary, os.X_OK) or not binary.is_file():
        raise MissingExtraError(
            f"UPS_RCLONE: {binary} is no program", hint=f"unset UPS_RCLONE, or {INSTALL}"
        )
    version = _version(binary)
    if version < OLDEST:
        raise RemoteError(
            f"{binary}: rclone {_dotted(version)} is too old, {_dotted(OLDEST)} is needed",
            hint=INSTALL,
        )
    return binary


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


@cache
def _version(binary: Path) -> tuple[int, ...]:
    try:
        result = subprocess.run(
            [str(binary), "version", "--config="], capture_output=True, timeout=STALL_S,
            check=False, env=child_environment({}),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RemoteError(f"{binary}: does not run: {error}", hint=INSTALL) from error
    match = re.match(rb"rclone v(\d+)\.(\d+)", result.stdout)
    if match is None:
        raise RemoteError(f"{binary}: says no version; is it rclone?", hint=INSTALL)
    return int(match[1]), int(match[2])


def child_environment(secrets: Mapping[str, str]) -> dict[str, str]:
    """What rclone gets: nothing of ours but what the system needs, and the given variables."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | dict(secrets)


def run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: bytes = b"",
    on_event: Callable[[Event], None] = lambda event: None,
) -> Outcome:
    """Run rclone to its end, or until it has stood still for `STALL_S` seconds: `_Stillness`.

    The child ends whenever this function or this process does, however they end.

    Args:
        arguments: After the program's name; they never meet a shell.
        environment: RCLONE_... variables, with the secrets; all else is filtered.
        stdin: What the child reads.
        on_event: Called with every line of the JSON log.
    """
    with tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        process = subprocess.Popen(
            _command(find_binary(), arguments),
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(environment),
        )
    with process:
        try:
            return _watch(process, on_event)
        finally:
            _stop(process)


def _command(binary: Path, arguments: Sequence[str]) -> list[str]:
    command = [str(binary), *arguments]
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", "-c", _DIES_WITH_PARENT, str(os.getpid()), *command]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to clean up behind itself; after a few seconds end it."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _watch(process: subprocess.Popen[bytes], on_event: Callable[[Event], None]) -> Outcome:
    assert process.stdout is not None
    assert process.stderr is not None
    outcome = Outcome()
    log = _Log(outcome, on_event)
    printed = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, printed.extend)
        selector.register(process.stderr, selectors.EVENT_READ, log.feed)
        while selector.get_map():
            for key, _ in selector.select(_TICK_S):
                if chunk := os.read(key.fd, 1 << 16):
                    key.data(chunk)
                else:
                    selector.unregister(key.fileobj)
            log.noticed(len(printed))
            if log.stillness.seconds() > STALL_S:
                outcome.stalled = True
                return outcome
    outcome.code = process.wait()
    outcome.stdout = bytes(printed)
    return outcome


class _Stillness:
    """How long nothing has moved.

    A server may send a little over every new connection and then fall silent. Such silences, of
    at least `_LONG` of `STALL_S`, add up until a file is finished or `_WORTH_BYTES` have moved.
    A slow link that sends all the time has none.
    """

    def __init__(self) -> None:
        self._moved_at = time.monotonic()
        self._before = 0.0
        self._forgiven_at = 0

    def seconds(self) -> float:
        """This silence, and those before it that count."""
        now = time.monotonic() - self._moved_at
        return max(now, self._before + (now if now >= _LONG * STALL_S else 0.0))

    def moved(self, count: int, *, finished: bool) -> None:
        """Note that something moved.

        Args:
            count: Bytes since the start.
            finished: A file, a check or a listing is done.
        """
        if finished or count - self._forgiven_at >= _WORTH_BYTES:
            self._forgiven_at, self._before = count, 0.0
        elif (silent := self.seconds()) >= _LONG * STALL_S:
            self._before = silent
        self._moved_at = time.monotonic()


class _Log:
    """Reads the JSON log line by line and notes when something moved last."""

    def __init__(self, outcome: Outcome, on_event: Callable[[Event], None]) -> None:
        self.stillness = _Stillness()
        self._outcome = outcome
        self._on_event = on_event
        self._rest = b""
        self._finished: list[Any] = []
        self._bytes = self._printed = 0

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._line(line)

    def noticed(self, printed: int) -> None:
        if printed != self._printed:
            self._printed = printed
            self.stillness.moved(self._bytes, finished=False)

    def _line(self, line: bytes) -> None:
        text = line.decode(errors="replace").strip()
        event = _parsed(text)
        if event is None:
            if text:
                self._error(text)
            return
        if event.get("level") in ("error", "critical", "fatal"):
            self._error(str(event.get("msg", "")))
        if event.get("level") == "notice" and str(event.get("msg", "")).startswith("Failed to"):
            self._error(str(event["msg"]))
        stats = event.get("stats")
        if isinstance(stats, dict):
            self._count(stats)
        self._on_event(event)

    def _count(self, stats: Event) -> None:
        finished = [stats.get(name) for name in ("checks", "listed", "deletes", "transfers")]
        moved = int(stats.get("bytes", 0))
        if finished != self._finished or moved != self._bytes:
            self.stillness.moved(moved, finished=finished != self._finished)
            self._finished, self._bytes = finished, moved

    def _error(self, message: str) -> None:
        if len(self._outcome.errors) < _KEPT_ERRORS:
            self._outcome.errors.append(message)


def _parsed(text: str) -> Event | None:
    try:
        event = json.loads(text)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
