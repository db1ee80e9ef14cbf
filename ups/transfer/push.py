"""From files here to an artefact on a remote: objects first, the manifest last.

Large files are hashed, and small ones packed, while earlier ones are on their way. What is there
already with the right size is not sent again, so that a push that was cut off goes on.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ups import __version__
from ups.errors import DataError, RemoteError, UpsError, translated_os_errors
from ups.transfer.artefacts import Listing, look, missing_from, read_manifest
from ups.transfer.manifest import (
    STAMP,
    Manifest,
    Object,
    folder,
    identity16,
    push_command,
)
from ups.transfer.packing import (
    LARGE_BYTES,
    SHARD_BYTES,
    LocalPiece,
    Shard,
    hash_whole,
    pack,
    write_tar,
)
from ups.transfer.remotes import Remote
from ups.transfer.scratch import scratch_folder
from ups.transfer.verify import wrong_objects

Progress = Callable[[int, int], object]

_STAGED = 4
"""Tars on the disk at a time."""
_READY = 2
"""Objects that are waited for before an upload starts: one alone leaves the line half used."""
_HASHING = 2


@dataclass(frozen=True)
class Source:
    """What is to become an artefact.

    Attributes:
        kind: A kind of `ups.transfer.manifest.KINDS`.
        name: As in `Manifest`.
        identity: As in `Manifest`. The same identity means the same content, except for a snapshot.
        pieces: Every byte of every file, once, in the order in which they are packed.
        labels: As in `Manifest`.
        partial: Files of which `pieces` are only some -> their size.
        snapshot: The content changes over time (a run): each state is a manifest of its own.
    """

    kind: str
    name: str
    identity: Mapping[str, Any]
    pieces: Sequence[LocalPiece]
    labels: Mapping[str, Any] = field(default_factory=dict)
    partial: Mapping[str, int] = field(default_factory=dict)
    snapshot: bool = False

    @property
    def folder(self) -> str:
        return folder(self.kind, self.name, self.identity)

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)

    def file_sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for piece in self.pieces:
            sizes[piece.path] = max(sizes.get(piece.path, 0), piece.offset + piece.size)
        return sizes | dict(self.partial)


@dataclass(frozen=True)
class Pushed:
    """What a push did, or would do.

    Attributes:
        place: The manifest's place below the remote's root; the folder's after a dry run.
        manifest_sha256: Empty after a dry run of what is not there.
        objects: How many the artefact has.
        sent_bytes: What went over the wire; of a dry run, the most that would.
        present_bytes: What was there already.
    """

    place: str
    manifest_sha256: str
    objects: int
    sent_bytes: int
    present_bytes: int


def push(
    source: Source,
    remote: Remote,
    *,
    progress: Progress = lambda done, total: None,
    dry_run: bool = False,
    repair: bool = False,
    shard_bytes: int = SHARD_BYTES,
    large_bytes: int = LARGE_BYTES,
) -> Pushed:
    """Make `source` an artefact of `remote`. A reader sees all of it or nothing.

    Args:
        progress: Called with (bytes done, bytes in all) of payload, from any thread.
        dry_run: Send nothing.
        repair: Read back what is there, and send again what is wrong.
        shard_bytes, large_bytes: As `limit` and `large` of `pack`; the same numbers give the same
            objects.

    Raises:
        DataError: A file is missing, changed while it was sent, or the disk is full.
        RemoteError: The remote cannot be reached, or lost what was sent.
    """
    if remote.is_wandb:
        from ups.transfer.push_wandb import push_wandb

        return push_wandb(source, remote, progress=progress, dry_run=dry_run, repair=repair)
    there = look(source.kind, source.name, identity16(source.identity), remote)
    newest = newest_of(there, remote)
    if newest is not None and not repair and not source.snapshot:
        return Pushed(newest.place, newest.sha256, len(newest.objects), 0, newest.size)
    shards = pack(source.pieces, limit=shard_bytes, large=large_bytes)
    if dry_run:
        return Pushed(source.folder, "", len(shards), source.size, 0)
    stamps = stamps_of(source.pieces)
    if repair:
        _remove_wrong(there, remote)
    with scratch_folder("push") as staging:
        sender = _Sender(there, remote, staging, progress)
        sender.send(shards)
    _take_back_changed(stamps, sender.sent, remote, source.folder)
    manifest = manifest_of(source, merged(sender.objects), there)
    present = manifest.size - sum(item.size for item in sender.sent)
    if newest is not None and not repair and same(newest, manifest):
        return Pushed(newest.place, newest.sha256, len(newest.objects), 0, newest.size)
    _finish(manifest, remote)
    return Pushed(
        manifest.place, manifest.sha256, len(manifest.objects), manifest.size - present, present
    )


def newest_of(there: Listing, remote: Remote) -> Manifest | None:
    """The newest manifest, if it is right and all its objects are there."""
    if not there.manifests:
        return None
    try:
        manifest = read_manifest(there, there.manifests[0], remote)
    except RemoteError:
        return None  # damaged: a new one replaces it; a remote out of reach fails right after this
    return None if missing_from(there, manifest.objects) else manifest


def _remove_wrong(there: Listing, remote: Remote) -> None:
    names = {name: entry.size for name, entry in there.objects.items()}
    wrong = wrong_objects(there.folder, names, remote)
    remote.rclone().delete(remote.path(f"{there.folder}/objects"), wrong)
    for name in wrong:
        del there.objects[name]


def stamps_of(pieces: Iterable[LocalPiece]) -> dict[Path, tuple[int, int, int]]:
    """What tells whether the files of pieces were written to: size, time and inode."""
    return {source: _stamp(source) for source in {piece.source for piece in pieces}}


def _stamp(path: Path) -> tuple[int, int, int]:
    with translated_os_errors(path, "reading"):
        status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _take_back_changed(
    stamps: Mapping[Path, tuple[int, int, int]], sent: Sequence[Object], remote: Remote, place: str
) -> None:
    """Refuse files that were written to meanwhile, and take back what was sent of them."""
    try:
        check_unchanged(stamps)
    except DataError:
        remote.rclone().delete(remote.path(f"{place}/objects"), [item.sha256 for item in sent])
        raise


def check_unchanged(stamps: Mapping[Path, tuple[int, int, int]]) -> None:
    """Refuse files that were written to since `stamps_of`."""
    changed = [path for path, stamp in stamps.items() if _stamp(path) != stamp]
    if changed:
        raise DataError(
            f"{changed[0]}: changed while it was pushed; nothing was published",
            hint="run the same command again when nothing writes to it",
        )


def manifest_of(source: Source, objects: tuple[Object, ...], there: Listing) -> Manifest:
    """The manifest of a new artefact, dated after those that are there."""
    return Manifest(
        kind=source.kind,
        name=source.name,
        identity=source.identity,
        objects=objects,
        files=source.file_sizes(),
        created=_later_than(there.created),
        ups=__version__,
        labels=source.labels,
        partial=tuple(source.partial),
    )


def _later_than(newest: str) -> str:
    """Now, or just after the newest manifest where that was written by a clock ahead of ours."""
    now = datetime.now(UTC)
    if newest:
        before = datetime.strptime(newest, STAMP).replace(tzinfo=UTC)
        now = max(now, before + timedelta(microseconds=1))
    return now.strftime(STAMP)


def same(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests say the same, whenever they were written."""
    return replace(one, created=other.created, ups=other.ups).sha256 == other.sha256


def merged(objects: Iterable[Object]) -> tuple[Object, ...]:
    """Files with the same content are one object with several pieces."""
    by_name: dict[str, Object] = {}
    for item in objects:
        pieces = by_name[item.sha256].pieces if item.sha256 in by_name else ()
        by_name[item.sha256] = Object(item.sha256, item.size, pieces + item.pieces)
    return tuple(by_name.values())


def _finish(manifest: Manifest, remote: Remote) -> None:
    """Upload the manifest once every object is seen there."""
    there = look(manifest.kind, manifest.name, manifest.identity16, remote)
    if lost := missing_from(there, manifest.objects):
        raise RemoteError(
            f"{remote.describe()}: {len(lost)} objects of {manifest.folder} are not there after "
            f"the upload, or have another size: {lost[0].sha256}, {lost[0].describe()}",
            hint=f"run the same command again: {push_command(manifest.kind, manifest.name)}",
        )
    remote.rclone().write(remote.path(manifest.place), manifest.to_bytes())


@dataclass(frozen=True)
class _Ready:
    """An object whose hash is known, and the file that holds its bytes."""

    index: int
    shard: Shard
    object: Object
    path: Path


class _StoppedError(Exception):
    """The push has failed elsewhere."""


class _Sender:
    """Threads hash and pack ahead; the caller's thread uploads what is ready.

    Attributes:
        objects: What each shard became, in order, after `send`.
        sent: The objects that were not there before.
    """

    def __init__(self, there: Listing, remote: Remote, staging: Path, progress: Progress) -> None:
        self.there, self.staging, self.progress = there, staging, progress
        self.rclone, self.to = remote.rclone(), remote.path(f"{there.folder}/objects")
        self.objects: list[Object] = []
        self.sent: list[Object] = []
        self._space = threading.Semaphore(_STAGED)
        self._ready: queue.SimpleQueue[_Ready | UpsError] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._done = self._total = 0

    def send(self, shards: Sequence[Shard]) -> None:
        """Upload what is not there yet of all shards."""
        self._total = sum(shard.size for shard in shards)
        found: dict[int, Object] = {}
        with ThreadPoolExecutor(_HASHING) as pool:
            try:
                for index, shard in enumerate(shards):
                    pool.submit(self._prepare, index, shard)
                while len(found) < len(shards):
                    batch = self._take(len(shards) - len(found))
                    self._upload(batch)
                    found |= {item.index: item.object for item in batch}
            finally:
                self._stop.set()
                self._space.release(len(shards) or 1)
                pool.shutdown(cancel_futures=True)
        self.objects = [found[index] for index in range(len(shards))]

    def _prepare(self, index: int, shard: Shard) -> None:
        """Hash or pack one shard; in a thread."""
        try:
            if shard.whole:
                path = shard.pieces[0].source
                item = hash_whole(shard, self._go_on)
            else:
                self._space.acquire()
                path = self.staging / f"{index}.tar"
                item = write_tar(shard, path, self._go_on)
            self._ready.put(_Ready(index, shard, item, path))
        except UpsError as error:
            self._ready.put(error)
        except _StoppedError:
            return

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise _StoppedError

    def _take(self, left: int) -> list[_Ready]:
        """What is ready, once it is enough for an upload."""
        batch: list[_Ready] = []
        while len(batch) < min(_READY, left) or not self._ready.empty():
            item = self._ready.get()
            if isinstance(item, UpsError):
                raise item
            batch.append(item)
        return batch

    def _upload(self, batch: Sequence[_Ready]) -> None:
        """Send what is not there; the tars are removed."""
        new = {item.object.sha256: item for item in batch if not self.there.has(item.object)}
        payload = sum(item.shard.size for item in new.values())
        if outdated := [name for name in new if name in self.there.objects]:
            self.rclone.delete(self.to, outdated)  # of a wrong size
        if new:
            self.rclone.upload(
                {name: item.path for name, item in new.items()},
                self.to,
                lambda done, total: self._tell(min(done, payload)),
            )
        self.sent += [item.object for item in new.values()]
        self._done += sum(item.shard.size for item in batch)
        self._tell(0)
        for item in batch:
            if not item.shard.whole:
                item.path.unlink()
                self._space.release()

    def _tell(self, more: int) -> None:
        self.progress(min(self._done + more, self._total), self._total)
