"""From an artefact on a remote to files here: every byte is verified before it counts.

Objects are hashed in threads while others still arrive. rclone's own checksums are off on the way
here: SHA-256 of the whole object replaces them, and each byte is hashed once.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ups import files, paths
from ups.errors import DataError, RemoteError, translated_os_errors
from ups.transfer.arrivals import Arrivals
from ups.transfer.artefacts import Found, Listing, find, list_artefacts, missing_from
from ups.transfer.manifest import RECORD, Manifest, Object, Piece
from ups.transfer.remotes import Remote
from ups.transfer.verify import damaged

__all__ = ["Found", "Listing", "Pulled", "find", "list_artefacts", "pull"]

Progress = Callable[[int, int], object]

_HASHING = 2
_UNPACKING = 4  # packed objects that wait on the disk beside their files, at most, as planned


@dataclass(frozen=True)
class Pulled:
    """What a pull did, or would do.

    Attributes:
        folder: The staging folder.
        files: How many files of the artefact are complete there.
        objects: How many objects were wanted.
        fetched_bytes: What came over the wire, or would.
        present_bytes: What was there and verified before.
        complete: Every file of the artefact is there.
    """

    folder: Path
    files: int
    objects: int
    fetched_bytes: int
    present_bytes: int
    complete: bool


def pull(
    found: Found,
    into: Path,
    remote: Remote,
    *,
    wanted: Callable[[Piece], bool] = lambda piece: True,
    progress: Progress = lambda done, total: None,
    dry_run: bool = False,
) -> Pulled:
    """Bring an artefact, or some pieces of it, into a staging folder.

    What was verified stays, however this ends; the same call goes on from there.

    Args:
        into: A folder of this artefact only; it holds `parts.json` besides the files. A file of
            which only some pieces are there has its full size and holes.
        wanted: Which pieces; an object with one of them comes as a whole.
        progress: Called with (bytes done, bytes in all), from any thread.
        dry_run: Fetch nothing, write nothing.

    Raises:
        DataError: No space, another process pulls into the folder, or it cannot be written to.
        RemoteError: The remote cannot be reached, or an object is missing or wrong there; it and
            its local files are named.
    """
    objects = [item for item in found.manifest.objects if any(map(wanted, item.pieces))]
    if dry_run:
        return _summary(Arrivals(into, found.manifest), objects, before=None)
    with files.exclusive(into, "pulling into it"):
        files.remove_leftovers(into, RECORD)
        arrivals = Arrivals(into, found.manifest)
        before = set(arrivals.verified)
        todo = [item for item in objects if item.sha256 not in before]
        if todo:
            if lost := missing_from(found.listing, todo):
                raise damaged(found.manifest, lost, remote, "not there, or of another size")
            _check_space(into, found.manifest, todo)
            _Fetch(found, remote, arrivals, progress, objects).run()
        arrivals.close()
        return _summary(arrivals, objects, before)


def _summary(arrivals: Arrivals, objects: Sequence[Object], before: set[str] | None) -> Pulled:
    """What was done; with `before` None, what there would be to do."""
    had = arrivals.verified if before is None else before
    fetched = sum(item.size for item in objects if item.sha256 not in had)
    there = arrivals.verified | {item.sha256 for item in objects}
    manifest = arrivals.manifest
    lacking = {piece.path for item in manifest.objects if item.sha256 not in there
               for piece in item.pieces}  # fmt: skip
    return Pulled(
        folder=arrivals.folder,
        files=len(manifest.files) - len(lacking),
        objects=len(objects),
        fetched_bytes=fetched,
        present_bytes=sum(item.size for item in objects) - fetched,
        complete=not lacking,
    )


def _check_space(into: Path, manifest: Manifest, todo: Sequence[Object]) -> None:
    """Files, and the packed objects that wait beside them."""
    packed = sorted((item.size for item in todo if not manifest.is_file(item)), reverse=True)
    needed = sum(item.size for item in todo) + sum(packed[:_UNPACKING])
    existing = next(folder for folder in (into, *into.parents) if folder.is_dir())
    with translated_os_errors(existing, "reading"):
        free = shutil.disk_usage(existing).free
    if needed > free:
        raise DataError(
            f"{paths.display(into)}: {needed / 1e9:.2f} GB are to come, "
            f"the disk has {free / 1e9:.2f} GB free",
            hint="free some space, set UPS_HOME to a larger disk, or pull less (--splits)",
        )


class _Fetch:
    """Downloads objects, and hashes and places each one while the next ones arrive."""

    def __init__(
        self,
        found: Found,
        remote: Remote,
        arrivals: Arrivals,
        progress: Progress,
        objects: Sequence[Object],
    ) -> None:
        self.found, self.remote, self.arrivals, self.progress = found, remote, arrivals, progress
        self.source = remote.path(f"{found.manifest.folder}/objects")
        self.total = sum(item.size for item in objects)
        self.done = 0
        self.objects = objects
        self.wrong: dict[str, Object] = {}
        self._lock = threading.Lock()

    def run(self) -> None:
        """Fetch until all is verified, as long as each round brings some of it.

        A wrong object is fetched once more: it may have been damaged on the way.
        """
        wrong_before: set[str] = set()
        while todo := [item for item in self.objects if item.sha256 not in self.arrivals.verified]:
            had = len(self.arrivals.verified)
            self.wrong.clear()
            try:
                self._round(todo)
            except RemoteError:
                if len(self.arrivals.verified) == had:
                    raise
            if twice := wrong_before & set(self.wrong):
                bad = [item for item in todo if item.sha256 in twice]
                raise damaged(
                    self.found.manifest, bad, self.remote, "its bytes have another sha256"
                )
            wrong_before |= set(self.wrong)

    def _round(self, todo: Sequence[Object]) -> None:
        by_name = {item.sha256: item for item in todo}
        self.done = self.total - sum(item.size for item in todo)
        checks: list[Future[None]] = []
        with ThreadPoolExecutor(_HASHING) as pool:

            def arrived(name: str) -> None:
                checks.append(pool.submit(self._accept, by_name[name]))

            here = self.arrivals.tidy({name: item.size for name, item in by_name.items()})
            for name in here:
                arrived(name)
            coming = {name: item.size for name, item in by_name.items() if name not in here}
            if coming:
                self.remote.rclone().download(
                    coming, self.source, self.arrivals.incoming, self._tell, arrived
                )
        for check in checks:
            check.result()
        self._tell(sum(item.size for item in todo if item.sha256 not in self.wrong), 0)

    def _accept(self, item: Object) -> None:
        """Hash one object that has arrived; place it, or delete and note it. In a thread."""
        path = self.arrivals.incoming / item.sha256
        with translated_os_errors(path, "reading"):
            right = files.sha256_file(path) == item.sha256
            if not right:
                path.unlink()
        if right:
            self.arrivals.place(item, path)
        else:
            with self._lock:
                self.wrong[item.sha256] = item

    def _tell(self, more: int, _: int) -> None:
        self.progress(min(self.done + more, self.total), self.total)
