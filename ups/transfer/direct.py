"""Versions on a remote, opened in place: a look at a few trajectories moves little else.

The head (metadata, statistics, times, parameters) comes once. Trajectories come when they are read,
as runs of bytes of the objects that hold them, and are kept in a folder: `ups.transfer.blocks`.
Each is verified by the SHA-256 that the store itself keeps of it; the head by the object's.
Shards of mesh and particle stores are uncompressed rows, so that of them, too, only the bytes of a
trajectory are fetched and the files they are written to are mapped as those of any store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ups import files
from ups.errors import RemoteError, translated_os_errors
from ups.transfer.artefacts import (
    Listing,
    find,
    list_artefacts,
    read_manifest,
    read_reason,
)
from ups.transfer.blocks import BlockFolder
from ups.transfer.dataset_pieces import split_runs
from ups.transfer.manifest import Manifest, Piece, push_command
from ups.transfer.pieces import Arrived, Pieces, Run, merged
from ups.transfer.pull import pull
from ups.transfer.ranges import ObjectReader, Span, open_reader
from ups.transfer.remote import Remote

if TYPE_CHECKING:
    from ups.data.points import PointStore
    from ups.data.sharded import Extent
    from ups.data.store import TrajectoryStore

_TOGETHER = 64 * 2**20
"""Trajectories of so many bytes are fetched, verified and written at a time."""


@dataclass
class Fetch:
    """Brings trajectories of one artefact: the `fetch` of `ups.data.partial`. May be pickled.

    Attributes:
        remote: Where it is.
        store_path: The store in the block folder.
    """

    remote: Remote
    blocks: BlockFolder
    store_path: Path
    _reader: ObjectReader | None = field(default=None, repr=False)
    _pieces: Pieces | None = field(default=None, repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        return (
            _fetch_again,
            (self.remote, self.blocks.path, self.blocks.manifest, self.store_path),
        )

    @property
    def reader(self) -> ObjectReader:
        """What reads the objects, and counts."""
        if self._reader is None:
            self._reader = open_reader(self.remote, f"{self.blocks.manifest.folder}/objects")
        return self._reader

    @property
    def pieces(self) -> Pieces:
        if self._pieces is None:
            self._pieces = Pieces(self.blocks.manifest)
        return self._pieces

    def __call__(self, trajectories: list[int]) -> None:
        """Fetch, verify and keep trajectories, some at a time: what is wrong leaves no trace.

        Raises:
            RemoteError: The remote does not answer, or bytes of a trajectory are wrong.
            DataError: The disk is full, or blocks may not take so much: UPS_BLOCKS_GB.
        """
        from ups.data.partial import mark_present
        from ups.data.versions import open_path

        store = open_path(self.store_path)
        for batch in self._batches(store, trajectories):
            arrived = self._arrived(store, batch)
            self._verify(store, batch, arrived)
            self._write(arrived)
            mark_present(self.blocks.path, batch)

    def _batches(
        self, store: TrajectoryStore | PointStore, trajectories: Sequence[int]
    ) -> Iterator[list[int]]:
        from ups.data.extents import extents_of

        sizes = [sum(e.size for e in extents_of(store, t)) for t in trajectories]
        self.blocks.make_room(sum(sizes))
        batch: list[int] = []
        size = 0
        for trajectory, more in zip(trajectories, sizes, strict=True):
            if batch and size + more > _TOGETHER:
                yield batch
                batch, size = [], 0
            batch.append(trajectory)
            size += more
        yield batch

    def _arrived(self, store: TrajectoryStore | PointStore, batch: Sequence[int]) -> Arrived:
        from ups.data.extents import extents_of, indexes_of

        wanted = [e for t in batch for e in (*extents_of(store, t), *indexes_of(store, t))]
        arrived = Arrived(merged(self._run(extent) for extent in wanted))
        targets: dict[Span, list[Run]] = {}  # several, where files have the same content
        for whole, _ in arrived.items():
            for span, run in self.pieces.spans(whole):
                targets.setdefault(span, []).append(run)
        for span, content in self.reader.read_many(list(targets)):
            for run in targets[span]:
                arrived.put(run, content)
        return arrived

    def _verify(
        self, store: TrajectoryStore | PointStore, batch: Sequence[int], arrived: Arrived
    ) -> None:
        from ups.data.extents import checker, extents_of, indexes_of

        def read(extent: Extent) -> memoryview:
            return arrived.get(self._run(extent))

        is_right = checker(store, read)
        for trajectory in batch:
            indexes = indexes_of(store, trajectory)
            wrong = [extent for extent, index in indexes.items() if read(extent) != index]
            if not wrong and not is_right(trajectory):
                wrong = extents_of(store, trajectory)
            if wrong:
                raise self._damaged(trajectory, wrong)

    def _damaged(self, trajectory: int, wrong: Sequence[Extent]) -> RemoteError:
        names = self.pieces.objects(map(self._run, wrong))
        manifest = self.blocks.manifest
        return RemoteError(
            f"{self.reader.where}/{' or '.join(names)}: the bytes of trajectory {trajectory} of "
            f"{manifest.name} have another sha256; nothing of it is kept",
            hint=f"{push_command(manifest.kind, manifest.name)} --repair",
        )

    def _write(self, arrived: Arrived) -> None:
        """Into the store's files, which have their full size and holes."""
        written: set[Path] = set()
        for run, content in arrived.items():
            path = self.blocks.path / run.path
            with translated_os_errors(path, "writing"):
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
                try:
                    if os.fstat(descriptor).st_size != (
                        size := self.blocks.manifest.files[run.path]
                    ):
                        os.truncate(descriptor, size)
                    _write_at(descriptor, content, run.offset)
                finally:
                    os.close(descriptor)
            written.add(path)
        for path in written:
            files.flush(path)

    def _run(self, extent: Extent) -> Run:
        name = self.store_path.name
        return Run(f"{name}/{extent.path}" if extent.path else name, extent.offset, extent.size)


def open_in_place(
    dataset: str, version: str = "latest", remote: Remote | None = None
) -> TrajectoryStore | PointStore:
    """Open a version on a remote; what is read of it is fetched, verified and kept.

    A version that was opened before by its name is opened without asking the remote.

    Args:
        version: 'latest' is the one that was pushed last.
        remote: None is the default remote.

    Raises:
        RemoteError: No such version there, or the remote cannot be reached; also later, on reading.
        DataError: The block folder cannot be written to.
    """
    from ups.transfer.remotes import find_remote

    return _opened(dataset, version, remote or find_remote(None))


@dataclass
class InPlace:
    """The versions that were opened in place inside `reading_in_place`.

    Attributes:
        remote: Where they are.
        fetches: One for each store, which knows what it has read.
    """

    remote: Remote
    fetches: list[Fetch] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return sum(fetch.reader.requests for fetch in self.fetches)

    @property
    def bytes_read(self) -> int:
        """Of trajectories, not of heads."""
        return sum(fetch.reader.bytes_read for fetch in self.fetches)


@contextmanager
def reading_in_place(remote: Remote) -> Iterator[InPlace]:
    """Open versions on a remote, where it has them, by `ups.data.versions.open_store`."""
    from ups.data.versions import list_versions, opened_by

    inside = InPlace(remote)

    def opener(dataset: str, version: str) -> TrajectoryStore | PointStore | None:
        here = list_versions(dataset)
        if version in here and not list_artefacts("data", remote, f"{dataset}/{version}"):
            return None
        return _opened(dataset, version, remote, inside.fetches)

    with opened_by(opener):
        yield inside


def _opened(
    dataset: str, version: str, remote: Remote, fetches: list[Fetch] | None = None
) -> TrajectoryStore | PointStore:
    from ups.data.versions import PRESENT, open_path, store_in

    if version == "latest":
        version = latest_version(dataset, remote)
    blocks = BlockFolder.known(remote, "data", f"{dataset}/{version}")
    if blocks is None or not (blocks.path / PRESENT).is_file():
        found = find("data", f"{dataset}/{version}", remote)
        blocks = BlockFolder.of(remote, found.manifest)
        if not (blocks.path / PRESENT).is_file():
            pull(found, blocks.path, remote, wanted=_is_head)
            _begin(blocks)
    path = store_in(blocks.path)
    fetch = Fetch(remote, blocks, path)
    if fetches is not None:
        fetches.append(fetch)
    return open_path(path, fetch)


@dataclass(frozen=True)
class VersionThere:
    """What a remote says about a version without its head.

    Attributes:
        size_bytes: Of all objects.
        age_s: Seconds since it was pushed.
        splits: How many trajectories each has.
        deprecated: Why it is not to be used; None for what is.
    """

    version: str
    size_bytes: int
    age_s: float
    trajectories: int
    splits: dict[str, int]
    deprecated: str | None


def versions_there(dataset: str, remote: Remote) -> list[VersionThere]:
    """Every version of a dataset on a remote, the newest first; only manifests are read.

    Raises:
        RemoteError: The remote has none, or cannot be reached, or a manifest is damaged.
    """
    found = []
    for item in _listings(dataset, remote):
        manifest = read_manifest(item, item.manifests[0], remote)
        splits = {name: len(rows) for name, rows in split_runs(manifest).items()}
        found.append(
            VersionThere(
                version=item.name.partition("/")[2],
                size_bytes=item.size,
                age_s=item.age_s,
                trajectories=sum(splits.values()),
                splits=splits,
                deprecated=read_reason(item, remote),
            )
        )
    return found


def latest_version(dataset: str, remote: Remote) -> str:
    """The version that was pushed last and is not deprecated.

    Raises:
        RemoteError: The remote has none.
    """
    newest = max(_listings(dataset, remote), key=lambda item: (not item.deprecated, item.created))
    return newest.name.partition("/")[2]


def _listings(dataset: str, remote: Remote) -> list[Listing]:
    """The versions of a dataset, the newest first; none is an error."""
    known = [item for item in list_artefacts("data", remote)
             if item.name.partition("/")[0] == dataset]  # fmt: skip
    if not known:
        remote.check_folder()
        raise RemoteError(
            f"{remote.describe()}: no version of '{dataset}' there",
            hint=f"push one from a machine that has it: ups data push {dataset}",
        )
    return sorted(known, key=lambda item: item.created, reverse=True)


def _is_head(piece: Piece) -> bool:
    return piece.trajectories is None


def _begin(blocks: BlockFolder) -> None:
    """Say that the head is here and no trajectory yet."""
    from ups.data.partial import Present, write_present

    identity, manifest = blocks.manifest.identity, blocks.manifest
    try:
        present = Present(
            dataset=str(identity["dataset"]),
            version=str(identity["version"]),
            data_sha256=str(identity["data_sha256"]),
            num_trajectories=int(manifest.labels["trajectories"]),
            manifest_sha256=manifest.sha256,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RemoteError(
            f"{manifest.place}: its labels cannot be used: {error}",
            hint="push it again with this version of ups",
        ) from error
    write_present(blocks.path, present)


def _fetch_again(remote: Remote, path: Path, manifest: Manifest, store_path: Path) -> Fetch:
    return Fetch(remote, BlockFolder(path, manifest), store_path)


def _write_at(descriptor: int, content: bytearray, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
