"""A remote file as a seekable file object, and its byte ranges in big parallel requests."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from ups.data.download.http import BeyondEndError, Http, Identity, WireError
from ups.data.download.threads import each
from ups.errors import DataError, UpsError

_BLOCK = 32 * 2**10
_AHEAD = 64  # blocks read beyond what is asked, while reading goes forward
_CACHED = 512
_SEGMENT = 8 * 2**20

Sink = Callable[[int, bytes], object]


class RemoteFile(io.RawIOBase):
    """One state of a remote file, read-only; reads go through a small cache of blocks.

    Reading forward asks for more with every request. All requests are retried and go on where the
    last one broke off. A file that changes meanwhile is an error: pieces of two states never mix.

    Attributes:
        size: Bytes of the whole file.
        received: Bytes that came over the wire.
        failure: The error that a library in between may have turned into one of its own.

    Raises:
        DataError: The server cannot be had, tells no length or serves no byte ranges; later, the
            file changed.
    """

    def __init__(self, url: str, http: Http, connections: int = 4) -> None:
        super().__init__()
        self.url, self.received = url, 0
        self.failure: DataError | None = None
        self._http, self._connections = http, connections
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._place, self._next_block, self._ahead = 0, 0, 1
        self._identity = self._probe()
        self.size = self._identity.total or 0

    def _probe(self) -> Identity:
        attempts = self._http.attempts()
        while True:
            try:
                with self._http.get(self.url, 1, 2) as body:
                    if body.offset != 1:
                        raise self._failed("serves no byte ranges")
                    if body.identity.total is None:
                        raise self._failed("tells no length")
                    return body.identity
            except WireError as error:
                self._again(attempts.failed, error)

    def _again(self, failed: Callable[[WireError], None], error: WireError) -> None:
        try:
            failed(error)
        except WireError as last:
            raise self._failed(str(last)) from last

    def _failed(self, what: str) -> DataError:
        self.failure = DataError(
            f"{self.url}: {what}", hint="try again later, or fetch whole files (no --trajectories)"
        )
        return self.failure

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self.size - self._place))
        filled = 0
        while filled < length:
            block, inside = divmod(self._place, _BLOCK)
            last = (self._place + length - filled - 1) // _BLOCK
            piece = self._block(block, last)[inside : inside + length - filled]
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._place += len(piece)
        return filled

    def _block(self, index: int, last: int) -> bytes:
        """Block `index`; when it has to be fetched, so are those up to `last` and some more."""
        if index not in self._blocks:
            forward = index == self._next_block
            self._ahead = min(_AHEAD, self._ahead * 2) if forward else 1
            stop = min(max(last + 1, index + self._ahead), index + _CACHED // 2)
            taken = bytearray()
            self.stream(index * _BLOCK, min(stop * _BLOCK, self.size), lambda _, b: taken.extend(b))
            for number in range(index, stop):
                at = (number - index) * _BLOCK
                self._blocks[number] = bytes(taken[at : at + _BLOCK])
            self._next_block = stop
            while len(self._blocks) > _CACHED:
                self._blocks.popitem(last=False)
        return self._blocks[index]

    def stream(self, start: int, stop: int, sink: Sink) -> None:
        """Call `sink` with (place in the file, bytes) for bytes `start` to `stop`, in order."""
        attempts = self._http.attempts()
        while start < stop:
            self._http.go_on()
            if self.failure:  # of another thread
                raise self.failure
            try:
                with self._http.get(self.url, start, stop, self._identity) as body:
                    if body.offset != start or body.identity.differs(self._identity):
                        raise self._failed("the file changed at its source")
                    for chunk in body.chunks:
                        piece = chunk[: stop - start]
                        sink(start, piece)
                        start += len(piece)
                        self._count(len(chunk))
                        attempts.succeeded()
                if start < stop:
                    raise WireError(f"ended {stop - start} bytes early")
            except BeyondEndError as error:
                raise self._failed("the file became shorter at its source") from error
            except WireError as error:
                self._again(attempts.failed, error)

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self.received += num_bytes

    def fetch(self, ranges: Sequence[tuple[int, int]], sink: Sink) -> None:
        """Fetch byte ranges (start, stop) in parallel; `sink` is called from several threads."""
        segments = [
            (at, min(at + _SEGMENT, stop))
            for start, stop in ranges
            for at in range(start, stop, _SEGMENT)
        ]
        results = each(
            segments,
            lambda segment: self.stream(*segment, sink),
            self._connections,
            self._http.stop,
        )
        for result in results:
            if isinstance(result, UpsError):
                raise result
