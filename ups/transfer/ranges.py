"""Runs of bytes of objects on a remote, several at a time, without the rest of the objects.

S3 and folders are read through obstore, in this process; what obstore cannot reach (SFTP, remotes
of the user's rclone config) through `rclone cat`, one process for each run.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from ups.errors import RemoteError, UpsError
from ups.transfer.rclone_errors import explain
from ups.transfer.rclone_process import Outcome
from ups.transfer.remote import Remote

LARGEST_READ = 8 * 2**20
"""A longer run is read in parts, side by side."""
_PARALLEL = 8
_CONNECT_S, _REQUEST_S, _RETRIES, _RETRY_S = 5, 12, 2, 8
"""At worst a request starts just before retries end: a failure takes less than 30 s."""
_RCLONE = "RCLONE_CONFIG_UPS_"
_CREDENTIALS = ("access_key_id", "secret_access_key", "session_token")
# What obstore says -> what rclone says of the same.
_SAID = {"failed to lookup address": "no such host", "kind: Timeout": "i/o timeout",
         "ConnectionRefused": "connection refused", "ConnectionReset": "connection reset",
         "IncompleteMessage": "unexpected EOF"}  # fmt: skip


@dataclass(frozen=True, order=True)
class Span:
    """A run of bytes of an object, by its name below the reader's folder."""

    name: str
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


class ObjectReader(ABC):
    """Reads spans of the objects in one folder of a remote.

    Args:
        where: The folder in words, for messages.

    Attributes:
        requests: How many reads were made.
        bytes_read: How many bytes they brought.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.requests = self.bytes_read = 0
        self._counting = threading.Lock()

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes of an object.

        Raises:
            RemoteError: The object is missing or shorter, or the remote does not answer.
        """
        if not size:
            return b""
        content = self._read(name, offset, size)
        with self._counting:
            self.requests += 1
            self.bytes_read += len(content)
        if len(content) != size:
            raise RemoteError(
                f"{self.where}/{name}: truncated: {size} bytes at {offset} expected, "
                f"{len(content)} read"
            )
        return content

    def read_many(self, spans: Sequence[Span]) -> Iterator[tuple[Span, bytes]]:
        """Every span once, in order, several read at a time."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            waiting = [pool.submit(self.read, span.name, span.offset, span.size) for span in spans]
            try:
                for span, future in zip(spans, waiting, strict=True):
                    yield span, future.result()
            finally:
                for future in waiting:
                    future.cancel()

    @abstractmethod
    def _read(self, name: str, offset: int, size: int) -> bytes:
        """The bytes; fewer only where the object ends."""


def open_reader(remote: Remote, folder: str) -> ObjectReader:
    """A reader of the objects in one folder below the remote's root.

    Raises:
        RemoteError: A variable that holds a credential is not set.
    """
    store = _object_store(remote)
    return RcloneReader(remote, folder) if store is None else ObstoreReader(remote, folder, store)


class RcloneReader(ObjectReader):
    """Through `rclone cat`: any remote that rclone knows."""

    def __init__(self, remote: Remote, folder: str) -> None:
        super().__init__(f"remote {remote.name}: {folder}")
        self._rclone, self._path = remote.rclone(), remote.path(folder)

    def _read(self, name: str, offset: int, size: int) -> bytes:
        return self._rclone.read(f"{self._path}/{name}", offset, size)


class ObstoreReader(ObjectReader):
    """Through obstore.

    Some servers answer a range with 200 in place of 206 (`rclone serve s3` does). obstore refuses
    that, rclone does not, so from then on rclone reads.
    """

    def __init__(self, remote: Remote, folder: str, store: Any) -> None:
        super().__init__(f"remote {remote.name}: {folder}")
        self._remote, self._folder, self._store = remote, folder, store
        self._instead: RcloneReader | None = None

    def _read(self, name: str, offset: int, size: int) -> bytes:
        import obstore
        from obstore.exceptions import BaseError

        if self._instead is not None:
            return self._instead._read(name, offset, size)
        try:
            found = obstore.get_range(
                self._store, f"{self._folder}/{name}", start=offset, length=size
            )
            return bytes(found)
        except (BaseError, OSError, ValueError) as error:
            if "source: NotPartial" not in str(error):
                raise _explained(error, self._remote, name) from None
        self._instead = RcloneReader(self._remote, self._folder)
        return self._instead._read(name, offset, size)


def _object_store(remote: Remote) -> Any:
    """obstore's view of a remote; None where it has none, or is not installed."""
    if remote.kind not in ("b2", "s3", "local") or find_spec("obstore") is None:
        return None
    from obstore.store import LocalStore, S3Store

    if remote.kind == "local":
        return LocalStore(remote.root)
    about = {
        name.removeprefix(_RCLONE).lower(): value
        for name, value in remote.rclone().environment.items()
    }
    bucket, _, prefix = remote.root.partition("/")
    endpoint = about.get("endpoint", "")
    options: dict[str, Any] = {
        "region": about.get("region", "us-east-1"),
        "virtual_hosted_style_request": not endpoint,
        "endpoint": endpoint,
        "prefix": prefix,
        **{name: about.get(name) for name in _CREDENTIALS},
    }
    return S3Store(
        bucket,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": f"{_CONNECT_S}s",
            "timeout": f"{_REQUEST_S}s",
        },
        retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_S)},
        **{name: value for name, value in options.items() if value not in (None, "")},
    )


def _explained(error: Exception, remote: Remote, name: str) -> UpsError:
    """obstore's error in the words for rclone's."""
    text = str(error)
    if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in text:
        return RemoteError(
            f"remote {remote.name}: {name} is not there", hint="push it again with --repair"
        )
    said = [text.partition("\n\nDebug source")[0]]
    said += [ours for theirs, ours in _SAID.items() if theirs in text]
    outcome = Outcome(code=1, errors=said)
    return explain(
        outcome, remote.rclone().environment, remote=remote.name, doing=f"reading {name}"
    )
