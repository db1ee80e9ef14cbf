"""The folder in which an artefact arrives: files, and a record of what of them is verified.

`parts.json` names the objects whose bytes are in the files and were right. It is written before and
after each object's bytes, so that the next process knows after any kill what it may keep. Files
that somebody else wrote to are found by their size and time, and what they held is fetched again.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ups import files
from ups.errors import DataError, translated_os_errors
from ups.transfer.manifest import INCOMING, RECORD, Manifest, Object, Piece

_CHUNK = 8 * 2**20
_FLUSHING = 16


class Arrivals:
    """A staging folder of one artefact; hold `files.exclusive` on it while using this.

    Args:
        folder: It is made when the first object is placed.

    Attributes:
        verified: Names of the objects whose bytes are in the files.
        incoming: Where objects are put that are still to be verified.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.incoming = folder / INCOMING
        self._layouts = {item.sha256: _layout(item) for item in manifest.objects}
        self._lock = threading.Lock()
        self._times: dict[str, list[int]] = {}
        self.verified: set[str] = set()
        self._load()

    def place(self, item: Object, content: Path) -> None:
        """Move an object's bytes, which must have been verified, to their files.

        Safe to call from several threads.

        Raises:
            DataError: The disk is full, or may not be written to.
        """
        with self._lock, translated_os_errors(self.folder, "writing"):
            self._write_record(writing=item.sha256)
            paths = {piece.path for piece in item.pieces}
            if self.manifest.is_file(item):
                _move(content, self._local(item.pieces[0].path))
            else:
                self._copy(item, content)
                content.unlink()
            _flush([self._local(path) for path in paths])
            self._times |= {path: _time(self._local(path)) for path in paths}
            self.verified.add(item.sha256)
            self._write_record()

    def tidy(self, keep: Mapping[str, int]) -> list[str]:
        """Empty `incoming` but for objects of the given names and sizes; returns those."""
        kept = []
        for path in self.incoming.glob("*"):
            if keep.get(path.name) == path.stat().st_size:
                kept.append(path.name)
            else:
                path.unlink()
        return kept

    def close(self) -> None:
        """Remove what is only needed on the way."""
        shutil.rmtree(self.incoming, ignore_errors=True)

    def _load(self) -> None:
        """Believe the record as far as the files still are what it says."""
        record = _read_record(self.folder / RECORD)
        recorded = {name for name, layout in record["objects"].items()
                    if self._layouts.get(name) == layout}  # fmt: skip
        recorded.discard(record["writing"])
        known = {item.sha256: item for item in self.manifest.objects}
        interrupted = known.get(record["writing"])
        ours = {piece.path for piece in interrupted.pieces} if interrupted else set()
        for path, time in record["files"].items():
            if path not in self.manifest.files:
                with translated_os_errors(self.folder / path, "removing"):
                    self._local(path).unlink(missing_ok=True)
            elif self._unchanged(path, time, written_by_us=path in ours):
                self._times[path] = _time(self._local(path))
        self.verified = {
            name for name in recorded
            if all(piece.path in self._times for piece in known[name].pieces)
        }  # fmt: skip

    def _unchanged(self, path: str, time: list[int], *, written_by_us: bool) -> bool:
        local = self._local(path)
        if not local.is_file():
            return False
        now = _time(local)
        return now == time or (written_by_us and now[0] == time[0])

    def _local(self, path: str) -> Path:
        return self.folder / path

    def _copy(self, item: Object, content: Path) -> None:
        """Write the pieces of an object into their files, which have their full size at once."""
        with content.open("rb") as source:
            for piece in item.pieces:
                local = self._local(piece.path)
                local.parent.mkdir(parents=True, exist_ok=True)
                with local.open("r+b" if local.is_file() else "wb", buffering=0) as target:
                    os.truncate(target.fileno(), self.manifest.files[piece.path])
                    _copy_piece(source.fileno(), target.fileno(), piece)

    def _write_record(self, writing: str = "") -> None:
        record = {
            "objects": {name: self._layouts[name] for name in sorted(self.verified)},
            "files": self._times,
            "writing": writing,
        }
        files.write_json(self.folder / RECORD, record)


def _layout(item: Object) -> str:
    """What says that an object's bytes belong to the same places in the same files."""
    places = [[piece.path, piece.size, piece.at, piece.offset] for piece in item.pieces]
    return files.sha256_json(places)[:16]


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {key: record[key] for key in ("objects", "files", "writing")}
    except FileNotFoundError:
        return {"objects": {}, "files": {}, "writing": ""}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a record of a transfer", hint=f"remove the folder: rm -r '{path.parent}'"
        ) from error


def _time(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _flush(paths: Sequence[Path]) -> None:
    """Make sure that files are on the disk; side by side, since a disk commits many at once."""
    with ThreadPoolExecutor(min(_FLUSHING, len(paths))) as pool:
        for _ in pool.map(files.flush, paths):
            pass


def _move(content: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(content, target)


def _copy_piece(source: int, target: int, piece: Piece) -> None:
    done = 0
    while done < piece.size:
        chunk = os.pread(source, min(_CHUNK, piece.size - done), piece.at + done)
        view = memoryview(chunk)
        while view:
            written = os.pwrite(target, view, piece.offset + done)
            done += written
            view = view[written:]
