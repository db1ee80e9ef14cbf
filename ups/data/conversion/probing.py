"""Open raw files in a process of its own first: a damaged one can hang or crash the HDF5 library.

A loop inside HDF5 cannot be interrupted from Python, and a crash takes the process with it. What
opens there opens here too; what raises there raises here, with its own message. Imports nothing
heavy, so that the process starts while this one still imports what conversion needs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ups.errors import DataError
from ups.registry import DatasetCard

_LIMIT_S = 120.0
"""For each file; opening the largest published one takes less than a second."""


class Probe:
    """Starts opening the files; `wait` says how it went."""

    def __init__(
        self, paths: Sequence[Path], card: DatasetCard, *, limit_s: float = _LIMIT_S
    ) -> None:
        self._paths, self._limit_s = paths, limit_s * len(paths)
        request = {"paths": [str(path) for path in paths], "card": card.model_dump(mode="json")}
        self._process: subprocess.Popen[str] | None = None
        with suppress(OSError):  # no process may be started here: opening the files will tell
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ups.data.layouts.probe"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self._request = json.dumps(request)

    def wait(self) -> None:
        """Raise DataError if opening a file hangs or crashes."""
        if self._process is None:
            return
        try:
            reached, what = self._end_of(self._process)
        finally:
            self._process.kill()
            self._process.wait()
        if what:
            path = self._paths[max(0, len(reached.split()) - 1)]
            raise DataError(
                f"{path}: damaged: the HDF5 library {what}",
                hint="fetch or generate the file again",
            )

    def _end_of(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """Numbers of the files that were reached, and what went wrong with the last of them."""
        try:
            reached, _ = process.communicate(self._request, timeout=self._limit_s)
            return reached, "crashes" if process.returncode < 0 else ""
        except subprocess.TimeoutExpired:
            process.kill()
            return process.communicate()[0], "does not come back from opening it"
