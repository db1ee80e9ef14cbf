"""One published file from its addresses to its place: parts, restarts, checksum, rejection."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ups import paths
from ups.data.download.http import BeyondEndError, Body, Http, Identity, WireError
from ups.data.download.originals import Place, md5_file
from ups.errors import DataError, translated_os_errors

_ROUNDS = 2  # a wrong checksum is tried again once


class FileFetch:
    """Fetch one file; call `run` while holding the lock on its place.

    Args:
        urls: Addresses in the order to try.
        told: What addresses said about the file before.
        progress: Called with (bytes there, bytes in all or None).
        checking: Called with the bytes whose checksum has been taken.
        notice: Called with one line about what a person should know.
    """

    def __init__(
        self,
        place: Place,
        urls: Sequence[str],
        http: Http,
        *,
        told: Mapping[str, Identity] | None = None,
        progress: Callable[[int, int | None], object] = lambda done, total: None,
        checking: Callable[[int], object] = lambda done: None,
        notice: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.place, self.http = place, http
        self.urls = list(urls)
        self.told = dict(told or {})
        self.progress, self.checking, self.notice = progress, checking, notice
        self.received = 0

    def run(self) -> int:
        """Fetch, verify and name the file.

        Returns:
            Bytes of payload that came over the wire.

        Raises:
            DataError: No address gave the file, or what came has another MD5 twice.
            StoppedError: The transport was stopped; the part stays.
        """
        self.place.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(_ROUNDS):
            source = self._from_any()
            found = md5_file(self.place.part, self.checking)
            if found == self.place.file.md5:
                self._accept()
                return self.received
            aside = self.place.reject(self.place.part, found)
            self.place.drop_part()
            what = rejection(self.place, found, str(paths.display(aside)))
            self.notice(f"{what}, from {source}")
            turn = self.urls.index(source) + 1
            self.urls = self.urls[turn:] + self.urls[:turn]
        raise DataError(
            f"{what}; twice wrong",
            hint="was the file replaced at its source? compare with the publisher's page",
        )

    def _accept(self) -> None:
        part, target = self.place.part, self.place.target
        with translated_os_errors(target, "writing"):
            with part.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(part, target)
            self.place.journal.unlink(missing_ok=True)
        self.place.remember()

    def _from_any(self) -> str:
        """Complete the part from the first address that can; returns that address."""
        problems = []
        for url in self.urls:
            try:
                self._complete(url)
            except WireError as error:
                problems.append(f"{url}: {error}")
            else:
                return url
        have = self.place.part_bytes()
        raise DataError(
            f"{self.place.file.name}: not fetched: {'; '.join(problems)}",
            hint=f"run the same command again: it goes on after {have} bytes" if have
            else "is the address right, and the network there? ups data info shows the source",
        )  # fmt: skip

    def _complete(self, url: str) -> None:
        attempts = self.http.attempts()
        farthest = self.place.part_bytes()
        while True:
            self.http.go_on()
            try:
                self._go_on(url)
                return
            except WireError as error:
                if (have := self.place.part_bytes()) > farthest:
                    farthest = have
                    attempts.succeeded()
                attempts.failed(error)

    def _go_on(self, url: str) -> None:
        """One request for what the part lacks; raises `WireError` unless it is whole then."""
        have, known, same_source = self._state(url)
        if have and known.total == have:
            return
        try:
            with self.http.get(url, have, known=known if same_source else None) as body:
                self._check(url, body, known, same_source)
                with translated_os_errors(self.place.part, "writing"):
                    self._write(url, body, known, have)
        except BeyondEndError as error:
            if have and error.total == have:
                return
            self.place.drop_part()
            raise WireError("the file became shorter at its source; starting again") from error

    def _state(self, url: str) -> tuple[int, Identity, bool]:
        """Bytes that may be kept, the file they are from, and whether `url` gave them."""
        journal = self.place.read_journal()
        if journal is None:
            self.place.drop_part()
            return 0, self.told.get(url, Identity()), True
        source, known = journal
        if source == url:
            return self.place.part_bytes(), known, True
        if known.total is None:  # nothing would show that the mirror's file is another one
            self.place.drop_part()
            return 0, self.told.get(url, Identity()), True
        return self.place.part_bytes(), Identity(total=known.total), False

    def _check(self, url: str, body: Body, known: Identity, same_source: bool) -> None:
        """Refuse an answer that cannot be the file, or that is the rest of another one."""
        told, expected = body.identity, self.place.file.size_bytes
        if expected and told.total not in (None, expected):
            raise WireError(f"announces {told.total} bytes, published are {expected}")
        if same_source and told.contradicts(known):
            raise WireError(f"announces {told.total} bytes, before it was {known.total}")
        if body.offset > 0 and told.differs(known):
            self.place.drop_part()
            raise WireError("the file changed at its source; starting again")

    def _write(self, url: str, body: Body, known: Identity, have: int) -> None:
        restart = body.offset != have  # it sends the whole file: knows no ranges, or it changed
        have = body.offset
        total = self._length(body.identity, known)
        with self.place.part.open("wb" if restart or not have else "r+b", buffering=0) as part:
            if not have:  # the part is empty by now: the journal never speaks of older bytes
                self.place.write_journal(url, replace(body.identity, total=total))
            part.seek(have)
            for chunk in body.chunks:
                _write_all(part.fileno(), chunk)
                have += len(chunk)
                self.received += len(chunk)
                self.progress(have, total)
        if total is not None and have != total:
            raise WireError(f"ended after {have} of {total} bytes")

    def _length(self, told: Identity, known: Identity) -> int | None:
        if told.total is not None:
            return told.total
        return self.place.file.size_bytes or (None if told.differs(known) else known.total)


def _write_all(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def rejection(place: Place, found: str, aside: str) -> str:
    """The line about a file whose checksum is wrong."""
    return f"{place.file.name}: rejected: MD5 {found}, published {place.file.md5}; kept as {aside}"
