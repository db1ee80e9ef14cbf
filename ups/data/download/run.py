"""Fetch the published originals: resumable, verified before they count, in parallel.

A file is written to a hidden part beside its place. A killed download goes on where the part ends.
Only a part with the published MD5 gets the file's name; any other is kept aside and fetched once
more, from the next mirror where there is one.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ups import files, paths
from ups.data.conversion.identity import is_generated
from ups.data.download.fetch import FileFetch, rejection
from ups.data.download.first_trajectories import copy_first
from ups.data.download.http import Http, Identity, Patience, WireError
from ups.data.download.originals import Place, State, checksum_state, md5_file, select
from ups.data.download.threads import each, raise_failures
from ups.errors import DataError, UsageError
from ups.registry import DatasetCard, Layout, RawFile

__all__ = ["Outcome", "Patience", "Plan", "checksum_state", "download", "make_plan", "select"]

Progress = Callable[[str, int, int | None], object]
Notice = Callable[[str], object]


@dataclass(frozen=True)
class Outcome:
    """One file that is there now.

    Attributes:
        received: Bytes of payload that came over the wire for it.
    """

    name: str
    path: Path
    state: Literal["fetched", "verified", "present"]
    size: int
    received: int = 0


@dataclass
class Item:
    """One file of a plan.

    Attributes:
        size: Bytes of the whole file; `exact` says whether anyone told, or it follows from the
            card's shapes.
        needed: Bytes still to come.
        told: What each address said about the file.
        problem: Why no address told.
    """

    place: Place
    urls: tuple[str, ...]
    layout: Layout
    num_dims: int
    state: State
    size: int
    exact: bool
    needed: int = 0
    told: dict[str, Identity] = field(default_factory=dict)
    problem: str = ""

    @property
    def name(self) -> str:
        return self.place.file.name


@dataclass(frozen=True)
class Plan:
    """What a download would fetch.

    Attributes:
        needed: Bytes still to come.
        free: Bytes the disk has.
    """

    folder: Path
    items: tuple[Item, ...]
    needed: int
    free: int

    @property
    def fits(self) -> bool:
        return self.needed <= self.free

    def require_room(self) -> None:
        """Raise `DataError` if the disk cannot hold what is to come."""
        if not self.fits:
            raise DataError(
                f"{self.folder}: {_gb(self.needed)} are to come, the disk has {_gb(self.free)}",
                hint="take less (--files, --variant, --trajectories), or set UPS_HOME to a "
                "larger disk",
            )


def download(
    card: DatasetCard,
    *,
    variant: Sequence[str] = (),
    limit: int | None = None,
    trajectories: int | None = None,
    connections: int = 4,
    progress: Progress | None = None,
    notice: Notice | None = None,
    http: Http | None = None,
) -> list[Outcome]:
    """Fetch published originals of a dataset into its raw folder.

    Args:
        variant: NAME=VALUE pairs that the files must match, see `select`.
        limit: The first so many of the matching files.
        trajectories: Only the byte ranges of the first so many trajectories of each file.
        connections: Most connections at a time.
        progress: Called with (file name or 'total', bytes done, bytes in all or None), from
            several threads.
        notice: Called with one line about what a person should know.
        http: Replaces the transport.

    Returns:
        One outcome for each file, in the card's order.

    Raises:
        UsageError: Nothing matches.
        DataError: No room, or a file could not be had; all others are complete by then.
    """
    chosen = select(card, variant, limit)
    tell = notice or (lambda line: None)
    with ExitStack() as stack:
        http = http or stack.enter_context(Http(connections=connections))
        folder = paths.raw_dir(card.key)
        if trajectories is not None:
            _check_count(chosen, trajectories)
        _verify_present([Place(f, folder) for f in chosen], http, connections, progress, tell)
        plan = make_plan(card, chosen, http, trajectories=trajectories, connections=connections)
        for item in plan.items:
            if not item.exact and item.state != "verified":
                tell(f"{item.name}: {item.problem or 'the server tells no size'}; "
                     f"from its shape about {_gb(item.size)}")  # fmt: skip
        plan.require_room()
        return _fetch_all(plan, http, trajectories, connections, progress, tell)


def make_plan(
    card: DatasetCard,
    chosen: Sequence[RawFile],
    http: Http,
    *,
    trajectories: int | None = None,
    connections: int = 4,
) -> Plan:
    """Look at what is here, ask for the sizes of what is not, and count the bytes to come."""
    folder = paths.raw_dir(card.key)
    items = [_item(card, Place(file, folder), trajectories) for file in chosen]

    def ask(item: Item) -> None:
        if item.state != "verified" and not item.exact:
            _ask_size(item, http)
        if item.state != "verified":
            item.needed = _needed(item, trajectories)

    raise_failures(each(items, ask, connections, http.stop), f"{card.key}: sizes")
    needed = sum(item.needed for item in items)
    return Plan(folder, tuple(items), needed, shutil.disk_usage(_existing(folder)).free)


def _item(card: DatasetCard, place: Place, trajectories: int | None) -> Item:
    file = place.file
    urls = (file.url, *(f"{m.rstrip('/')}/{file.folder}{file.name}" for m in card.source.mirrors))
    state = place.state()
    if trajectories is not None and state != "verified":
        state = "verified" if place.first(trajectories).is_file() else "absent"
    return Item(
        place,
        tuple(dict.fromkeys(urls)),
        card.source.layout,
        card.num_dims,
        state,
        file.size_bytes or card.payload_bytes(file) or 0,
        file.size_bytes is not None,
    )


def _ask_size(item: Item, http: Http) -> None:
    """Ask each address in turn until one tells how long the file is."""
    for url in item.urls:
        attempts = http.attempts()
        while url not in item.told:
            try:
                item.told[url] = http.probe(url)
            except WireError as error:
                try:
                    attempts.failed(error)
                except WireError as last:
                    item.problem = f"{url}: {last}"
                    break
        if url in item.told and (total := item.told[url].total) is not None:
            item.size, item.exact, item.problem = total, True, ""
            return


def _needed(item: Item, trajectories: int | None) -> int:
    held = item.place.file.trajectories
    if trajectories is not None and held:
        return item.size * trajectories // held
    return max(0, item.size - item.place.part_bytes())


def _check_count(chosen: Sequence[RawFile], trajectories: int) -> None:
    for file in chosen:
        if file.trajectories and trajectories >= file.trajectories:
            raise UsageError(
                f"--trajectories {trajectories}: {file.name} holds {file.trajectories}",
                hint="leave the option out to fetch whole files, which are also MD5-verified",
            )


def _verify_present(
    places: Sequence[Place],
    http: Http,
    connections: int,
    progress: Progress | None,
    tell: Notice,
) -> None:
    """Check files that are here and were not verified yet; set aside those that are wrong."""

    def verify(place: Place) -> None:
        with files.exclusive(place.target, "downloading or checking it"):
            if place.state() == "unverified":
                _verify(place, progress, tell)

    unknown = [place for place in places if place.state() == "unverified"]
    raise_failures(each(unknown, verify, connections, http.stop), "checking")


def _verify(place: Place, progress: Progress | None, tell: Notice) -> None:
    found = md5_file(place.target, _reporter(progress, f"check {place.file.name}", place.target))
    if found == place.file.md5:
        place.remember()
        return
    if is_generated(place.target):
        raise DataError(
            f"{place.target}: made by `ups data generate`, in the place of the published file",
            hint="move it to another folder first (conversion takes --raw)",
        )
    aside = place.reject(place.target, found)
    tell(rejection(place, found, paths.display(aside)))


def _reporter(progress: Progress | None, what: str, path: Path) -> Callable[[int], object] | None:
    if progress is None:
        return None
    size = path.stat().st_size
    return lambda done: progress(what, done, size)


def _fetch_all(
    plan: Plan,
    http: Http,
    trajectories: int | None,
    connections: int,
    progress: Progress | None,
    tell: Notice,
) -> list[Outcome]:
    meter = _Meter(plan, progress)

    def fetch(item: Item) -> Outcome:
        if item.state == "verified":
            return _already_here(item.place, trajectories)
        if trajectories is None:
            return _fetch_whole(item, http, meter, tell)
        return _fetch_first(item, http, meter, trajectories, connections)

    # Pieces of one file come over all connections already.
    threads = connections if trajectories is None else 1
    results = each(plan.items, fetch, threads, http.stop)
    raise_failures(results, str(plan.folder))
    return [result for result in results if isinstance(result, Outcome)]


def _already_here(place: Place, trajectories: int | None) -> Outcome:
    if place.target.is_file() or trajectories is None:
        return Outcome(place.file.name, place.target, "verified", place.target.stat().st_size)
    path = place.first(trajectories)
    return Outcome(path.name, path, "present", path.stat().st_size)


def _fetch_whole(item: Item, http: Http, meter: _Meter, tell: Notice) -> Outcome:
    place = item.place
    with files.exclusive(place.target, "downloading or checking it"):
        if place.state() == "verified":  # another process was faster
            return _already_here(place, None)
        fetch = FileFetch(
            place,
            item.urls,
            http,
            told=item.told,
            progress=lambda done, total: meter(item.name, done, total),
            checking=lambda done: meter.other(f"check {item.name}", done, place.part_bytes()),
            notice=tell,
        )
        received = fetch.run()
        for first in place.firsts():
            tell(f"{first.name}: the whole file is here now, and conversion takes both: remove it")
        return Outcome(item.name, place.target, "fetched", place.target.stat().st_size, received)


def _fetch_first(
    item: Item, http: Http, meter: _Meter, trajectories: int, connections: int
) -> Outcome:
    path = item.place.first(trajectories)
    with files.exclusive(path, "downloading it"):
        files.remove_leftovers(path.parent, path.name)
        received = copy_first(
            item.urls,
            path,
            item.place.file,
            trajectories,
            layout=item.layout,
            num_dims=item.num_dims,
            http=http,
            connections=connections,
            progress=lambda done, total: meter(item.name, done, total),
        )
    return Outcome(path.name, path, "fetched", path.stat().st_size, received)


class _Meter:
    """Adds up the progress of all files."""

    def __init__(self, plan: Plan, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._done = {i.name: i.size - i.needed for i in plan.items if i.state != "verified"}
        self._sizes = {i.name: i.size for i in plan.items if i.state != "verified"}

    def __call__(self, name: str, done: int, total: int | None) -> None:
        if self._progress is None:
            return
        with self._lock:
            self._done[name] = done
            self._sizes[name] = total or max(done, self._sizes[name])
            all_done, in_all = sum(self._done.values()), sum(self._sizes.values())
        self._progress(name, done, total)
        self._progress("total", all_done, in_all)

    def other(self, what: str, done: int, total: int) -> None:
        """Progress of something that is no part of the total."""
        if self._progress is not None:
            self._progress(what, done, total)


def _existing(folder: Path) -> Path:
    """The nearest folder above that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e7 else f"{num_bytes / 1e6:.2f} MB"
