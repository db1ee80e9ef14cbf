"""Files that other processes may read: written whole or not at all, locked, hashed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ups.errors import DataError, UpsError, translated_os_errors

IN_USE = "in-use"
"""The file that `use` locks in a folder."""
_PARTIAL = ".partial"
_POLL_S = 0.05


@contextmanager
def atomic_path(path: Path, family: type[UpsError] = DataError) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` only if the block succeeds.

    The file is flushed to disk before the rename. After a failure nothing is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    with translated_os_errors(path, "writing", family):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            flush(temporary)
            os.replace(temporary, path)
            flush(path.parent)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()


def write_text(path: Path, text: str, family: type[UpsError] = DataError) -> None:
    """Write a small text file atomically."""
    with atomic_path(path, family) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, family: type[UpsError] = DataError) -> None:
    """Write a JSON file atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n", family)


def remove_leftovers(folder: Path, name: str) -> None:
    """Delete what a killed process left of `name`; call it only while holding the lock."""
    for leftover in folder.glob(f".{name}.*{_PARTIAL}"):
        leftover.unlink(missing_ok=True)


@contextmanager
def exclusive(
    target: Path, doing: str, family: type[UpsError] = DataError, *, wait_s: float = 0.0
) -> Iterator[None]:
    """Hold a lock on `target` for the block; a second process is told who holds it.

    The lock ends with the process, however it ends.

    Args:
        wait_s: How long to wait for the other process first.
    """
    lock = target.with_name(f".{target.name}.lock")
    with translated_os_errors(lock, "locking", family):
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            _lock(descriptor, wait_s)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise family(
                f"{target}: another process (pid {holder}) is {doing}",
                hint="wait for it to finish, or stop it, and run the same command again",
            ) from error
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, wait_s: float) -> None:
    """Lock an open file, or raise `BlockingIOError` after trying for so long."""
    end = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(_POLL_S)
        else:
            return


def is_locked(target: Path) -> bool:
    """Whether a process holds `exclusive(target)` now. Nothing is created or kept locked."""
    try:
        descriptor = os.open(target.with_name(f".{target.name}.lock"), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def use(folder: Path) -> int:
    """Keep a folder, which is made, from removal by `unused` until the returned file is closed.

    The time of `IN_USE` in it becomes that of the last use.
    """
    path = folder / IN_USE
    with translated_os_errors(path, "locking"):
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            with suppress(FileNotFoundError):  # removed while we waited: once more
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    os.utime(path)
                    return descriptor
            os.close(descriptor)


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Yield whether nobody uses a folder, and let nobody begin to for the block."""
    try:
        descriptor = os.open(folder / IN_USE, os.O_RDWR)
    except FileNotFoundError:
        yield True
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(content: Any) -> str:
    """SHA-256 of the canonical JSON of `content`, in hex."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def flush(path: Path) -> None:
    """Make sure that a file or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
