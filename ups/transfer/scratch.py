"""Folders for what is on its way out: removed in every case, after a kill by the next one."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ups import files, paths
from ups.errors import translated_os_errors


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """An empty folder below UPS_HOME/tmp for the block; what killed processes left goes first.

    Raises:
        DataError: It cannot be made: no permission, the disk is full.
    """
    above = paths.home() / "tmp"
    folder = above / f"{purpose}-{uuid.uuid4().hex[:12]}"
    _sweep(above, purpose)
    with files.exclusive(folder, "using it"):  # before the folder: a sweep spares what is locked
        try:
            with translated_os_errors(folder, "making it"):
                folder.mkdir(parents=True)
            yield folder
        finally:
            _remove(folder)


def _sweep(above: Path, purpose: str) -> None:
    for left in above.glob(f"{purpose}-*"):
        if not files.is_locked(left):
            _remove(left)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name(f".{folder.name}.lock").unlink(missing_ok=True)
