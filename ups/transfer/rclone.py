"""The one owner of rclone: files to and from a place, with exit codes, time limits and progress.

Commands go to the binary as argument lists, paths of folders end in a slash, names of files travel
on standard input or as links in a folder of ours, and secrets only in the child's environment.
docs/adr/0009-rclone.md says why, and what of the package rclone-python is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from ups.errors import RemoteError, translated_os_errors
from ups.transfer import rclone_process
from ups.transfer.rclone_errors import explain
from ups.transfer.rclone_process import Event, Outcome
from ups.transfer.scratch import scratch_folder

Progress = Callable[[int, int], None]

_ALWAYS = (
    "--use-json-log", "-v", "--stats=250ms", "--contimeout=5s", "--timeout=15s", "--retries=2",
    "--low-level-retries=3", "--use-server-modtime",
)  # fmt: skip
_TRANSFERS, _SMALL_TRANSFERS, _SMALL_BYTES = 4, 32, 1 << 20
_CHECKERS = 4
_DIRECTORY_NOT_FOUND, _NO_FOLDER = 3, "directory not found"
_BUCKETS = {"s3", "google cloud storage", "b2", "swift", "azureblob", "oracleobjectstorage"}
_PARTIAL = re.compile(r"\.[0-9a-f]{8}\.partial$")
_COPIED = ("Copied (new)", "Copied (replaced existing)", "Multi-thread Copied (new)",
           "Multi-thread Copied (replaced existing)")  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A file or folder on a remote; `modified` in Unix seconds, by the server's clock."""

    name: str
    size: int
    modified: float
    is_dir: bool


Entries = list[Entry]
Names = list[str]


def _silent(done: int, total: int) -> None:
    """No progress wanted."""


@dataclass(frozen=True)
class Rclone:
    """rclone for one remote. Paths are rclone's: `Remote.path` makes them.

    Args:
        environment: RCLONE_... variables that describe the remote, with its secrets.
        name: The remote's name as the user knows it, for messages.
        own_config: Whether the user's rclone config is read; otherwise none is.
    Raises:
        RemoteError: Every method, when the place does not do what is asked: the credentials, the
            bucket, the endpoint, the clock, the network.
        DataError: This machine's disk is full.
        MissingExtraError: There is no rclone.
    """

    environment: Mapping[str, str] = field(repr=False)
    name: str = "?"
    own_config: bool = False

    def list(self, path: str, recursive: bool = False) -> Entries:
        """What is in a folder, sorted by name; nothing if there is no such folder.

        Args:
            recursive: Also what is below; names are relative to `path`.
        """
        flags = ["--recursive"] if recursive else []
        outcome = self._call("lsjson", [_folder(path)], flags)
        if self._absent(outcome, path):
            return []
        self._check(outcome, "listing")
        return sorted(map(_entry, json.loads(outcome.stdout)), key=lambda entry: entry.name)

    def read(self, path: str, offset: int = 0, count: int | None = None) -> bytes:
        """The bytes of one file from `offset` on, at most `count` of them."""
        part = [f"--offset={offset}", *([] if count is None else [f"--count={count}"])]
        outcome = self._call("cat", [path], part)
        name = _name(path)
        if self._absent(outcome, path):
            self._missing([name])
        self._check(outcome, f"reading {name}")
        if not outcome.stdout and count != 0:  # rclone prints nothing for a file that is not there
            parent = path[: -len(name)]
            if name not in {entry.name for entry in self.list(parent) if not entry.is_dir}:
                self._missing([name])
        return outcome.stdout

    def write(self, path: str, content: bytes) -> None:
        """Write one small file, whole or not at all; it replaces what is there."""
        name = _name(path)
        with scratch_folder("rclone") as folder:
            with translated_os_errors(folder, "writing"):
                (folder / "content").write_bytes(content)
            self._send({name: folder / "content"}, path[: -len(name)], _silent, "--ignore-times")

    def upload(self, files: Mapping[str, Path], to: str, progress: Progress = _silent) -> None:
        """Send local files, several at a time, under names of their own.

        A file that is there with the same size is not sent again: names are of contents.

        Args:
            files: Name on the remote -> local file, whatever it is called.
            to: Folder on the remote.
        """
        self._send(files, to, progress, "--size-only")

    def download(
        self,
        names: Mapping[str, int],
        source: str,
        into: Path,
        progress: Progress = _silent,
        on_file: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Fetch files, several at a time, without judging their content.

        Args:
            names: Name on the remote -> its size in bytes. Local files of these names are replaced.
            source: Folder on the remote.
            into: Local folder; it is made.
            on_file: Called with each name when its file is complete, in this thread. The file may
                be moved away at once, so that rclone is not let to start over: it would fetch
                what it no longer finds.
        Raises:
            RemoteError: Also if a file is not there. The others are complete.
        """
        wanted = _lines(names)
        with translated_os_errors(into, "writing"):
            into.mkdir(parents=True, exist_ok=True)
            for name in names:
                (into / name).unlink(missing_ok=True)
        done: set[str] = set()

        def finished(event: Event) -> None:
            name = str(event.get("object"))
            if event.get("msg") not in _COPIED or name not in names or name in done:
                return
            if (into / name).stat().st_size == names[name]:
                done.add(name)
                on_file(name)

        outcome = self._call(
            "copy", [_folder(source), f"{into.absolute()}/"],
            ["--files-from-raw=-", "--no-traverse", "--ignore-checksum", "--retries=1",
             self._at_a_time(names.values())],
            stdin=wanted, on_event=_with_progress(finished, progress, sum(names.values())),
        )  # fmt: skip
        self._check(outcome, "downloading")
        self._complete(names, into, done, on_file)

    def hashes(
        self, path: str, names: Collection[str], progress: Progress = _silent
    ) -> dict[str, str]:
        """SHA-256 of files of a folder, read back whole; nothing is kept on this disk.

        Args:
            progress: Called with (bytes read, bytes in all as far as rclone knows).

        Returns:
            Name -> hex, of those that are there.
        """
        if not names:
            return {}
        outcome = self._call(
            "hashsum", ["sha256", _folder(path)],
            ["--download", "--files-from-raw=-", f"--checkers={_CHECKERS}"],
            stdin=_lines(names), on_event=_counting(progress),
        )  # fmt: skip
        self._check(outcome, "reading back")
        lines = [line.split("  ", 1) for line in outcome.stdout.decode().splitlines()]
        return {name: digest for digest, name in lines}

    def delete(self, path: str, names: Collection[str]) -> None:
        """Delete files of a folder; what is not there is fine."""
        if not names:
            return
        flags = ["--files-from-raw=-"]
        outcome = self._call("delete", [_folder(path)], flags, stdin=_lines(names))
        if self._absent(outcome, path):
            return
        self._check(outcome, "deleting")

    def purge(self, path: str) -> None:
        """Delete a folder with all that is below it; none there is fine.

        Raises:
            RemoteError: Also for the root of a bucket or disk.
        """
        below = path.partition(":")[2] if self.environment or self.own_config else path
        if len([part for part in below.split("/") if part]) < 2:
            raise RemoteError(f"remote {self.name}: {path!r} is too near its root to be deleted")
        outcome = self._call("purge", [_folder(path)])
        if self._absent(outcome, path):
            return
        self._check(outcome, "deleting")

    def unfinished_uploads(self, path: str) -> Names:
        """Names, relative to `path`, of what uploads that were cut off left below it.

        On S3 these are multipart uploads that were begun and never completed, which no listing
        shows; elsewhere they are files of rclone's own, named *.partial.
        """
        if self._type(path) in _BUCKETS:
            return [key for key in self._multipart_uploads(path) if key]
        return [
            entry.name
            for entry in self.list(path, recursive=True)
            if not entry.is_dir and _PARTIAL.search(entry.name)
        ]

    def remove_unfinished_uploads(self, path: str) -> None:
        """Abort what `unfinished_uploads` names, also what another machine is sending now."""
        names = self.unfinished_uploads(path)
        if self._type(path) not in _BUCKETS:
            self.delete(path, names)
            return
        # rclone takes a prefix, but no object: an upload that was cut off may have an object of its
        # name by now. So whole folders below `path`, and names for what lies in it directly.
        folders = {parent for name in names if (parent := name.rpartition("/")[0])}
        for below in [*sorted(folders), *(name for name in names if "/" not in name)]:
            place = f"{_folder(path)}{below}" + ("/" if below in folders else "")
            self._check(
                self._call("backend", ["cleanup", place], ["--option=max-age=0s"]),
                "removing unfinished uploads",
            )

    def _multipart_uploads(self, path: str) -> Names:
        if self._type(path) != "s3":
            return []
        outcome = self._call("backend", ["list-multipart-uploads", _folder(path)])
        if any("NoSuchUpload" in error for error in outcome.errors):
            return []  # rclone serve s3 says this of a bucket without any
        self._check(outcome, "listing unfinished uploads")
        prefix = "".join(f"{part}/" for part in path.partition(":")[2].split("/")[1:] if part)
        keys = [item["Key"] for found in json.loads(outcome.stdout).values() for item in found]
        return sorted({key.removeprefix(prefix) for key in keys if key.startswith(prefix)})

    def _send(self, files: Mapping[str, Path], to: str, progress: Progress, *flags: str) -> None:
        """Copy a folder of links, so that no local name ever is an argument."""
        if not files:
            return
        _lines(files)
        with scratch_folder("rclone") as folder:
            sizes = []
            for name, local in files.items():
                with translated_os_errors(local, "reading"):
                    sizes.append(local.stat().st_size)
                (folder / name).symlink_to(local.absolute())
            total, at_a_time = sum(sizes), self._at_a_time(sizes)
            outcome = self._call(
                "copy", [f"{folder}/", _folder(to)], ["--copy-links", at_a_time, *flags],
                on_event=_with_progress(lambda event: None, progress, total),
            )  # fmt: skip
        self._check(outcome, "uploading")
        progress(total, total)

    def _at_a_time(self, sizes: Collection[int]) -> str:
        """How many files move at once: many where each waits for its answer more than it moves.

        Only of a bucket, where requests share connections: an SSH server refuses so many.
        """
        small = sum(sizes) < _SMALL_BYTES * len(sizes)
        many = small and not self.own_config and self._type("") in _BUCKETS
        return f"--transfers={_SMALL_TRANSFERS if many else _TRANSFERS}"

    def _complete(
        self,
        names: Mapping[str, int],
        into: Path,
        done: Collection[str],
        on_file: Callable[[str], None],
    ) -> None:
        """rclone says nothing of files that are not there: look for each."""
        rest = {name: size for name, size in names.items() if name not in done}
        missing = [name for name in rest if not (into / name).is_file()]
        if missing:
            self._missing(missing)
        for name, size in rest.items():
            if (found := (into / name).stat().st_size) != size:
                raise RemoteError(
                    f"remote {self.name}: {name} has {found} bytes there, {size} are expected",
                    hint="push it again with --repair",
                )
            on_file(name)

    def _call(
        self,
        command: str,
        places: Sequence[str],
        flags: Sequence[str] = (),
        stdin: bytes = b"",
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> Outcome:
        config = [] if self.own_config else ["--config="]
        return rclone_process.run(
            [command, *config, *_ALWAYS, *flags, "--", *places],
            self.environment,
            stdin=stdin,
            on_event=on_event,
        )

    def _check(self, outcome: Outcome, doing: str) -> None:
        if outcome.code or outcome.stalled:
            raise explain(outcome, self.environment, remote=self.name, doing=doing)

    def _missing(self, names: Collection[str]) -> NoReturn:
        first, more = next(iter(names)), f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise RemoteError(
            f"remote {self.name}: {first}{more} is not there", hint="push it again with --repair"
        )

    def _absent(self, outcome: Outcome, path: str) -> bool:
        """Whether a command failed only because there is no such folder."""
        first = outcome.errors[0] if outcome.errors else ""
        if outcome.code != _DIRECTORY_NOT_FOUND and not first.endswith(_NO_FOLDER):
            return False
        return self._type(path) not in _BUCKETS

    def _type(self, path: str) -> str:
        """rclone's name for the kind of place; that of the user's config where it is read."""
        if not self.own_config:
            given = self.environment.items()
            return next((value for name, value in given if name.endswith("_TYPE")), "local")
        outcome = self._call("listremotes", [], ["--long"])
        lines = outcome.stdout.decode().splitlines()
        known = {name: kind.strip() for name, _, kind in (line.partition(":") for line in lines)}
        return known.get(path.partition(":")[0], "")


def _folder(path: str) -> str:
    """With a slash at its end: without one, rclone asks first whether it is a file."""
    return path if path.endswith(("/", ":")) else f"{path}/"


def _name(path: str) -> str:
    return path.rpartition("/")[2].rpartition(":")[2]


def _lines(names: Collection[str]) -> bytes:
    """File names for --files-from-raw, one on a line."""
    for name in names:
        parts = PurePosixPath(name).parts
        if not name or name.strip("\r\n") != name or "\n" in name or name != "/".join(parts):
            raise RemoteError(f"{name!r} is no name for a file on a remote")
        if {".", ".."} & set(parts):
            raise RemoteError(f"{name!r} is no name for a file on a remote")
    return "".join(f"{name}\n" for name in names).encode()


def _entry(item: dict[str, Any]) -> Entry:
    return Entry(
        name=item["Path"],
        size=int(item["Size"]),
        modified=datetime.fromisoformat(item["ModTime"]).timestamp(),
        is_dir=bool(item["IsDir"]),
    )


def _with_progress(
    listener: Callable[[Event], None], progress: Progress, total: int
) -> Callable[[Event], None]:
    from rclone_python.utils import extract_rclone_progress

    def on_event(event: Event) -> None:
        listener(event)
        if "stats" in event:
            moving, update = extract_rclone_progress(json.dumps(event))
            if moving and update is not None:
                progress(min(int(update["sent"]), total), total)

    return on_event


def _counting(progress: Progress) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        stats = event.get("stats")
        if isinstance(stats, dict):
            progress(int(stats["bytes"]), int(stats["totalBytes"]))

    return on_event
