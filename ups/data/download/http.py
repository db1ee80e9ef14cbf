"""HTTP that takes faults for granted: byte ranges, back-off, stalls, truncation, proxies.

Bytes come as stored (`Accept-Encoding: identity`), because a published checksum is one of stored
bytes. Redirects are followed; no request carries credentials of ours, so a redirect to another host
has nothing to leak. Proxies are those of HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.
"""

from __future__ import annotations

import email.utils
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import httpx

import ups
from ups.errors import UsageError

_PASSING = {408, 425, 429, 500, 502, 503, 504}


class WireError(Exception):
    """A request that failed.

    Args:
        what: The reason, in a few words.
        lasting: Asking again is no use.
        wait: Seconds the server asks to be left alone.
    """

    def __init__(self, what: str, *, lasting: bool = False, wait: float | None = None) -> None:
        super().__init__(what)
        self.lasting = lasting
        self.wait = wait


class BeyondEndError(WireError):
    """The range starts at or after the end of the file (416).

    Args:
        total: The file's length, where the server tells it.
    """

    def __init__(self, total: int | None) -> None:
        super().__init__("416 range not satisfiable")
        self.total = total


class StoppedError(Exception):
    """The caller wants no more bytes."""


@dataclass(frozen=True)
class Patience:
    """How long to bear with a server; all times in seconds.

    Attributes:
        attempts: Failures in a row, without a new byte in between, before giving up.
        first_attempts: The same while no server has answered at all: perhaps there is no network.
        first_wait: Before the second attempt; doubles with every further one.
        longest_wait: Where doubling ends.
        longest_asked: A server that asks for a longer pause (Retry-After) is given up.
        stall: A connection that sends nothing for so long is dropped.
        connect: Time for a connection to stand.
    """

    attempts: int = 8
    first_attempts: int = 3
    first_wait: float = 1.0
    longest_wait: float = 60.0
    longest_asked: float = 900.0
    stall: float = 30.0
    connect: float = 20.0

    def pause(self, failures: int, asked: float | None) -> float:
        """Seconds before the next attempt: exponential, jittered, never less than `asked`."""
        wait = min(self.longest_wait, self.first_wait * 2.0 ** (failures - 1))
        jittered = wait * random.uniform(0.5, 1.0)  # many clients must not come back together
        return jittered if asked is None else asked + 0.1 * jittered


@dataclass(frozen=True)
class Identity:
    """What tells one state of a remote file from another, as far as the server says."""

    total: int | None = None
    etag: str | None = None
    modified: str | None = None

    @property
    def if_range(self) -> str | None:
        """The validator for `If-Range`: a strong ETag, or else the date; weak ones may not be."""
        strong = self.etag and not self.etag.startswith("W/")
        return self.etag if strong else self.modified

    def differs(self, other: Identity) -> bool:
        """Whether the two cannot be the same file."""
        if self.total is not None and other.total is not None and self.total != other.total:
            return True
        if self.etag and other.etag:
            return self.etag != other.etag
        return bool(self.modified and other.modified and self.modified != other.modified)

    def contradicts(self, other: Identity) -> bool:
        """Whether the server calls the two the same file, but of another length."""
        same = bool(self.etag) and self.etag == other.etag
        return same and None not in (self.total, other.total) and self.total != other.total


@dataclass(frozen=True)
class Body:
    """An answer whose bytes are still to come; its first byte is the file's byte `offset`."""

    offset: int
    identity: Identity
    chunks: Iterator[bytes]


class Http:
    """A bounded pool of connections; use it from any thread.

    Args:
        patience: When to try again, and when no more.
        connections: Most connections at a time.
        sleep: Replaces waiting between attempts, for tests.
    """

    def __init__(
        self,
        patience: Patience | None = None,
        connections: int = 4,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.patience = patience or Patience()
        self.has_answered = False
        self._stop = threading.Event()
        self._sleep = sleep or self._stop.wait
        timeout = httpx.Timeout(self.patience.stall, connect=self.patience.connect, pool=None)
        agent = f"ups/{ups.__version__}"
        try:
            self._client = httpx.Client(
                headers={"Accept-Encoding": "identity", "User-Agent": agent},
                timeout=timeout,
                limits=httpx.Limits(max_connections=connections),
                follow_redirects=True,
                max_redirects=10,
            )
        except (ValueError, ImportError, httpx.InvalidURL) as error:  # an unusable proxy address
            names = [n for n in os.environ if n.lower().endswith("_proxy")]
            raise UsageError(
                f"{', '.join(sorted(names)) or 'proxy'}: {' '.join(str(error).split())}",
                hint="set it to http://host:port, or unset it",
            ) from error

    def __enter__(self) -> Http:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """Let every transfer end at its next chunk and every pause at once."""
        self._stop.set()

    def attempts(self) -> Attempts:
        return Attempts(self)

    def pause(self, seconds: float) -> None:
        self._sleep(seconds)
        self.go_on()

    def go_on(self) -> None:
        """Raise `StoppedError` after `stop`."""
        if self._stop.is_set():
            raise StoppedError

    def probe(self, url: str) -> Identity:
        """What the server says about a file, from a request for its first byte.

        Not a HEAD request: addresses that are signed for GET refuse those.

        Raises:
            WireError: The request failed.
        """
        try:
            with self.get(url, 0, 1) as body:
                return body.identity
        except BeyondEndError as fault:
            return Identity(total=fault.total)

    @contextmanager
    def get(
        self, url: str, start: int = 0, stop: int | None = None, known: Identity | None = None
    ) -> Iterator[Body]:
        """Ask for bytes `start` to `stop`; a server may answer with the whole file all the same.

        Args:
            known: The state of the file that the range belongs to; of another one the server
                sends everything.

        Raises:
            WireError: The request failed, now or while the chunks are read; never a shorter body
                than the server announced.
        """
        headers = {}
        if start > 0 or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
            if known is not None and known.if_range:
                headers["If-Range"] = known.if_range
        try:
            with self._client.stream("GET", url, headers=headers) as response:
                self.has_answered = True
                _check_status(response)
                yield _body(response, start, self._chunks(response))
        except httpx.InvalidURL as error:
            raise WireError(f"not an address: {error}", lasting=True) from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise _translated(error, self.patience) from error

    def _chunks(self, response: httpx.Response) -> Iterator[bytes]:
        for chunk in response.iter_raw():
            self.go_on()
            yield chunk


class Attempts:
    """Counts failures in a row and waits between them."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self.failures = 0

    def succeeded(self) -> None:
        self.failures = 0

    def failed(self, fault: WireError) -> None:
        """Wait for the next attempt, or raise `fault` when there is none."""
        patience = self._http.patience
        self.failures += 1
        few = min(patience.first_attempts, patience.attempts)
        most = patience.attempts if self._http.has_answered else few
        if fault.lasting or self.failures >= most:
            raise fault
        if fault.wait is not None and fault.wait > patience.longest_asked:
            raise WireError(f"{fault}; it asks for a pause of {fault.wait:.0f} s", lasting=True)
        self._http.pause(patience.pause(self.failures, fault.wait))


def _check_status(response: httpx.Response) -> None:
    status, headers = response.status_code, response.headers
    if status == 416:
        unsatisfied = re.fullmatch(r"bytes \*/(\d+)", headers.get("content-range", "").strip())
        raise BeyondEndError(int(unsatisfied[1]) if unsatisfied else None)
    if status not in (200, 206):
        reason = f"{status} {response.reason_phrase}".strip()
        wait = _retry_after(headers.get("retry-after"))
        raise WireError(reason, lasting=status not in _PASSING, wait=wait)
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise WireError(f"sends its files encoded ({encoding}), not as stored", lasting=True)


def _body(response: httpx.Response, start: int, chunks: Iterator[bytes]) -> Body:
    headers = response.headers
    etag, modified = headers.get("etag"), headers.get("last-modified")
    if response.status_code == 200:
        length = headers.get("content-length", "")
        total = int(length) if length.isdigit() else None
        return Body(0, Identity(total, etag, modified), chunks)
    told = headers.get("content-range", "")
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", told.strip())
    if not found or int(found[1]) != start:
        raise WireError(f"asked for bytes from {start}, the answer holds '{told}'")
    total = None if found[3] == "*" else int(found[3])
    return Body(start, Identity(total, etag, modified), chunks)


def _retry_after(text: str | None) -> float | None:
    """Seconds of a Retry-After header: a number or a date."""
    if not text:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())


def _translated(error: Exception, patience: Patience) -> WireError:
    text = " ".join(str(error).split())
    if isinstance(error, httpx.ConnectTimeout):
        return WireError(f"no connection within {patience.connect:g} s")
    if isinstance(error, httpx.TimeoutException):
        return WireError(f"nothing came for {patience.stall:g} s")
    if isinstance(error, httpx.TooManyRedirects | httpx.UnsupportedProtocol):
        return WireError(text, lasting=True)
    return WireError(text or type(error).__name__, lasting="CERTIFICATE_VERIFY_FAILED" in text)
