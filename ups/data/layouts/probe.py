"""Open raw files in a process of its own first: a damaged one can hang or crash the HDF5 library.

A loop inside HDF5 cannot be interrupted from Python, and a crash takes the process with it. What
opens here opens in the caller too; what raises here raises there, with its own message.

    python -m ups.data.layouts.probe < request.json
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from ups.data.layouts import open_raw, open_raw_points
from ups.errors import DataError, UpsError
from ups.registry import DatasetCard

_LIMIT_S = 120.0
"""For each file; opening the largest published one takes less than a second."""


def check_openable(paths: Sequence[Path], card: DatasetCard, *, limit_s: float = _LIMIT_S) -> None:
    """Raise DataError if opening a file hangs or crashes."""
    request = {"paths": [str(path) for path in paths], "card": card.model_dump(mode="json")}
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "ups.data.layouts.probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError:
        return  # no process may be started here; opening the file will tell
    try:
        reached, what = _wait(process, json.dumps(request), limit_s * len(paths))
    finally:
        process.kill()
        process.wait()
    if what:
        path = paths[max(0, len(reached.split()) - 1)]
        raise DataError(
            f"{path}: damaged: the HDF5 library {what}", hint="fetch or generate the file again"
        )


def _wait(process: subprocess.Popen[str], request: str, limit_s: float) -> tuple[str, str]:
    """Numbers of the files that were reached, and what went wrong with the last of them."""
    try:
        reached, _ = process.communicate(request, timeout=limit_s)
        return reached, "crashes" if process.returncode < 0 else ""
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0], "does not come back from opening it"


def main() -> None:
    """Open each file of the request on standard input; print its number before."""
    request = json.load(sys.stdin)
    card = DatasetCard.model_validate(request["card"])
    opened = open_raw if card.discretisation.kind == "grid" else open_raw_points
    for number, path in enumerate(request["paths"]):
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        with suppress(UpsError), closing(opened(Path(path), card)):
            pass


if __name__ == "__main__":
    main()
