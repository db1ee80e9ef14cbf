"""Whether a remote does what transfers need: list, write, read back, delete; and its clock."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ups.errors import RemoteError
from ups.transfer.remotes import Remote

_SIZE = 1 << 16
# Where the server says when it got a file; elsewhere the time that a listing shows is ours.
_TELLS_TIME = ("b2", "s3", "sftp")


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        remote: Its name.
        place: Where it is.
        seconds: How long each step took, by name.
        clock_s: Server's clock minus this machine's, to about a second; None where unknown.
    """

    remote: str
    place: str
    seconds: dict[str, float]
    clock_s: float | None


def check(remote: Remote) -> Checked:
    """List, write, read back and delete a file of 64 KiB; W&B is only listed.

    Raises:
        RemoteError: A step fails, or what is read is not what was written.
    """
    seconds: dict[str, float] = {}
    if remote.is_wandb:
        from ups.transfer.wandb_artifacts import service_of

        with _timed("list", seconds):
            service_of(remote).versions("dataset")
        return Checked(remote.name, remote.describe(), seconds, None)
    clock = _write_and_read(remote, seconds)
    return Checked(remote.name, remote.describe(), seconds, clock)


def _write_and_read(remote: Remote, seconds: dict[str, float]) -> float | None:
    """The clock's difference, with the file gone again."""
    rclone = remote.rclone()
    name = f"ups-check-{uuid.uuid4().hex}"
    content = uuid.uuid4().bytes * (_SIZE // 16)
    with _timed("list", seconds):
        rclone.list(remote.path())
    before = time.time()
    with _timed("write", seconds):
        rclone.write(remote.path(name), content)
    written = (before + time.time()) / 2
    try:
        with _timed("read", seconds):
            found = rclone.read(remote.path(name))
        if found != content:
            raise RemoteError(
                f"remote {remote.name}: what is read is not what was written",
                hint=f"look at {name} there",
            )
        entries = {entry.name: entry for entry in rclone.list(remote.path())}
    finally:
        with _timed("delete", seconds):
            rclone.delete(remote.path(), [name])
    if remote.kind not in _TELLS_TIME or name not in entries:
        return None
    return entries[name].modified - written


@contextmanager
def _timed(what: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - start
