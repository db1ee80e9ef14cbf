"""What the agent tells: status.json for who asks, UPS-EVENT lines in the log for who reads."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ups import files
from ups.errors import RemoteError

EVENT = "UPS-EVENT "
STATUS = "status.json"
_PROGRESS_EVERY_S = 60.0


class Reporter:
    """One job's log and status.

    Args:
        folder: Where status.json is written.
        secrets: Values that are blotted out of whatever is printed.
    """

    def __init__(self, folder: Path, job: str, run: str, secrets: dict[str, str]) -> None:
        self._path = folder / STATUS
        self._secrets = {value: name for name, value in secrets.items() if len(value) >= 6}
        self._lock = threading.Lock()
        self._told = float("-inf")
        self._progress: dict[str, Any] = {}
        self.status: dict[str, Any] = {
            "job": job, "run": run, "state": "running", "step": "", "progress": {},
            "began": _now(), "pushed": None, "exit_code": None, "reason": "",
        }  # fmt: skip

    def event(self, name: str, **facts: Any) -> None:
        """One line in the log."""
        self.line(EVENT + json.dumps({"event": name, "at": _now(), **facts}))

    def line(self, text: str) -> None:
        """Print a line, without any secret."""
        for value, name in self._secrets.items():
            text = text.replace(value, f"[{name}]")
        with self._lock:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def note(self, **changes: Any) -> None:
        """Change the status on the disk; a full disk does not end the job here."""
        self.status |= changes
        content = {**self.status, "updated": _now()}
        with suppress(RemoteError):
            files.write_json(self._path, content, RemoteError)

    def step(self, name: str) -> None:
        self.event("step", step=name)
        self.note(step=name, progress={})

    def progress(self, told: dict[str, Any]) -> None:
        """How far the step is; in the log once a minute."""
        if not told or told == self._progress:
            return
        self._progress = told
        self.note(progress=told)
        if time.monotonic() >= self._told + _PROGRESS_EVERY_S:
            self._told = time.monotonic()
            self.event("progress", **told)

    def ended(self, code: int, reason: str) -> None:
        for value, name in self._secrets.items():
            reason = reason.replace(value, f"[{name}]")
        self.event("ended", exit_code=code, reason=reason, step=self.status["step"])
        self.note(state="ended", exit_code=code, reason=reason)

    @property
    def has_ended(self) -> bool:
        return bool(self.status["state"] == "ended")


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
