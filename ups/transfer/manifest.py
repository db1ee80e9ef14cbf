"""What an artefact holds: which bytes of which files are in which objects, and their hashes.

An artefact is an immutable version of a dataset, cache, run or leaderboard on a remote:

    <kind>/<name>/<identity16>/objects/<sha256>
    <kind>/<name>/<identity16>/manifest-<UTC>-<sha8>.json    uploaded last; the newest counts

An object's name is the SHA-256 of its bytes and a manifest's place follows from its content, so
that what was damaged, swapped or copied from elsewhere is found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ups import files
from ups.errors import RemoteError

FORMAT = 1
KINDS = ("data", "cache", "run", "leaderboard", "codec")
STAMP = "%Y%m%dT%H%M%S.%fZ"
RECORD = "parts.json"
"""What a staging folder says about itself; no file of an artefact may have this name."""
INCOMING = ".incoming"
"""Where a staging folder keeps objects until they are verified; reserved as well."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MANIFEST = re.compile(r"manifest-(\d{8}T\d{6}\.\d{6}Z)-([0-9a-f]{8})\.json")
_PUSH = {"data": "ups data push", "cache": "ups cache push", "codec": "ups cache push",
         "run": "ups runs push", "leaderboard": "ups leaderboard push"}  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """A run of bytes of a local file, inside an object.

    Attributes:
        path: The local file, relative to the artefact's folder, with `/`.
        size: Bytes.
        at: Its first byte in the object.
        offset: Its first byte in the local file.
        split: The split that it belongs to; empty for what every reader needs.
        trajectories: First and last + 1 of the trajectories in it, where it holds such.
    """

    path: str
    size: int
    at: int = 0
    offset: int = 0
    split: str = ""
    trajectories: tuple[int, int] | None = None

    def describe(self) -> str:
        parts = [self.split] if self.split else []
        if self.trajectories is not None:
            parts.append(f"trajectories {self.trajectories[0]}-{self.trajectories[1] - 1}")
        return f"{self.path} ({', '.join(parts)})" if parts else self.path


@dataclass(frozen=True)
class Object:
    """One file on the remote; its name there is its SHA-256."""

    sha256: str
    size: int
    pieces: tuple[Piece, ...]

    def describe(self) -> str:
        """The local files that it holds, for messages."""
        names = list(dict.fromkeys(piece.describe() for piece in self.pieces))
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        return ", ".join(names[:2]) + more


@dataclass(frozen=True)
class Manifest:
    """All objects of an artefact.

    Attributes:
        name: One or more parts with `/`, for example 'burgers1d/nu0.01'.
        identity: What the artefact is, in JSON's types; its hash is its folder's name.
        files: Every local file and its size.
        created: UTC, as in the manifest's name (`STAMP`).
        ups: The version of the package that wrote it.
        labels: What people and commands want to know without fetching anything.
        partial: Files of which the pieces are only some, such as a store without training data.

    Raises:
        ValueError: An unsafe name or path, or pieces that do not make up the files.
    """

    kind: str
    name: str
    identity: Mapping[str, Any]
    objects: tuple[Object, ...]
    files: Mapping[str, int]
    created: str
    ups: str
    labels: Mapping[str, Any] = field(default_factory=dict)
    partial: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}; known are {', '.join(KINDS)}")
        check_name(self.name)
        for path in self.files:
            check_path(path)
        _check_nesting(self.files)
        _check_objects(self.objects)
        _check_cover(self.objects, self.files, self.partial)

    @property
    def identity16(self) -> str:
        return identity16(self.identity)

    @property
    def folder(self) -> str:
        """The artefact's folder below a remote's root."""
        return folder(self.kind, self.name, self.identity)

    @property
    def sha256(self) -> str:
        return files.sha256_json(self._content())

    @property
    def place(self) -> str:
        """The manifest's own place below a remote's root."""
        return f"{self.folder}/manifest-{self.created}-{self.sha256[:8]}.json"

    @property
    def size(self) -> int:
        """Bytes of all objects."""
        return sum(item.size for item in self.objects)

    def is_file(self, item: Object) -> bool:
        """Whether an object is a local file as it is."""
        if len(item.pieces) != 1:
            return False
        return item.pieces[0].size == item.size == self.files[item.pieces[0].path]

    def to_bytes(self) -> bytes:
        content = {"sha256": self.sha256, "manifest": self._content()}
        return (json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Manifest:
        """Read a manifest that was found at `where`, and trust nothing in it.

        Args:
            where: Its place, at the end of any longer path or URL.

        Raises:
            RemoteError: Damaged, hostile, or not the manifest that belongs there.
        """
        try:
            manifest = cls._parse(content)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RemoteError(
                f"{where}: this manifest may not be used: {_reason(error)}",
                hint="push the artefact again with --repair, from a machine that has it",
            ) from error
        if not f"/{where}".endswith(f"/{manifest.place}"):
            raise RemoteError(
                f"{where}: this manifest belongs to {manifest.place}",
                hint="somebody copied or renamed it; push the artefact again with --repair",
            )
        return manifest

    @classmethod
    def _parse(cls, content: bytes) -> Manifest:
        envelope = json.loads(content)
        body = envelope["manifest"]
        if files.sha256_json(body) != envelope["sha256"]:
            raise ValueError("its sha256 is wrong: damaged, or changed by hand")
        if body["format"] != FORMAT:
            raise ValueError(f"format {body['format']!r}, this version of ups reads {FORMAT}")
        texts = {key: _text(body[key]) for key in ("kind", "name", "created", "ups")}
        return cls(
            identity=dict(body["identity"]),
            objects=tuple(_read_object(item) for item in body["objects"]),
            files={_text(path): _count(size) for path, size in body["files"].items()},
            labels=dict(body["labels"]),
            partial=tuple(_text(path) for path in body.get("partial", ())),
            **texts,
        )

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {
            "format": FORMAT,
            "kind": self.kind,
            "name": self.name,
            "identity": dict(self.identity),
            "created": self.created,
            "ups": self.ups,
            "labels": dict(self.labels),
            "files": dict(self.files),
            "objects": [_write_object(item) for item in self.objects],
        }
        return content | ({"partial": list(self.partial)} if self.partial else {})


def identity16(identity: Mapping[str, Any]) -> str:
    """The name of the folder of the artefact that `identity` describes."""
    return files.sha256_json(dict(identity))[:16]


def folder(kind: str, name: str, identity: Mapping[str, Any]) -> str:
    """The place of an artefact below a remote's root."""
    return f"{kind}/{name}/{identity16(identity)}"


def stamp_of(file_name: str) -> str | None:
    """The time in a manifest's file name; None if it is not the name of a manifest."""
    found = _MANIFEST.fullmatch(file_name)
    return found[1] if found else None


def is_object_name(file_name: str) -> bool:
    return _SHA256.fullmatch(file_name) is not None


def push_command(kind: str, name: str) -> str:
    """The command that pushes an artefact again."""
    dataset, _, version = name.partition("/")
    if kind == "data" and version:
        return f"{_PUSH[kind]} {dataset} --version {version}"
    return f"{_PUSH[kind]} {dataset}"


def check_name(name: str) -> None:
    """Refuse a name that could leave its folder on a remote."""
    _check_safe(name, "name")


def check_path(path: str) -> None:
    """Refuse a path that could leave the artefact's folder or hide in it."""
    _check_safe(path, "path")
    if path.split("/")[0] in (RECORD, INCOMING):
        raise ValueError(f"path {path!r}: {RECORD} and {INCOMING} are reserved")


def _check_safe(text: str, what: str) -> None:
    if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in text.split("/")):
        raise ValueError(f"unsafe {what} {text!r}: not a plain relative path")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text) or "\\" in text:
        raise ValueError(f"unsafe {what} {text!r}: control characters or backslashes")


def _check_nesting(paths: Iterable[str]) -> None:
    """Refuse a path that is a file and a folder at once."""
    known = set(paths)
    for path in known:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if (above := "/".join(parts[:depth])) in known:
                raise ValueError(f"{above!r} is a file, and the folder of {path!r}")


def _check_objects(objects: Sequence[Object]) -> None:
    seen = set()
    for item in objects:
        if not is_object_name(item.sha256):
            raise ValueError(f"object {item.sha256!r} is not named by a sha256")
        if item.sha256 in seen:
            raise ValueError(f"object {item.sha256} is listed twice")
        seen.add(item.sha256)
        for piece in item.pieces:
            if min(piece.size, piece.at, piece.offset) < 0 or piece.at + piece.size > item.size:
                raise ValueError(f"object {item.sha256}: a piece of {piece.path!r} is not in it")


def _check_cover(
    objects: Sequence[Object], sizes: Mapping[str, int], partial: Collection[str]
) -> None:
    """Every byte of every file is in one piece; of partial files, in one at most."""
    if unknown := set(partial) - set(sizes):
        raise ValueError(f"{sorted(unknown)[0]!r} is partial and not a listed file")
    runs: dict[str, list[tuple[int, int]]] = {path: [] for path in sizes}
    for item in objects:
        for piece in item.pieces:
            if piece.path not in runs:
                raise ValueError(f"object {item.sha256}: {piece.path!r} is not a listed file")
            runs[piece.path].append((piece.offset, piece.offset + piece.size))
    for path, found in runs.items():
        found.sort()
        edges = [(0, 0), *found, (sizes[path], sizes[path])]
        steps = [start - end for (_, end), (start, _) in pairwise(edges)]
        if not found or min(steps) < 0 or (path not in partial and max(steps) > 0):
            raise ValueError(f"the pieces of {path!r} have gaps or overlap, or are not its size")


def _write_object(item: Object) -> dict[str, Any]:
    return {
        "sha256": item.sha256,
        "size": item.size,
        "pieces": [_write_piece(piece) for piece in item.pieces],
    }


def _write_piece(piece: Piece) -> dict[str, Any]:
    content: dict[str, Any] = {"path": piece.path, "size": piece.size}
    content |= {key: value for key in ("at", "offset", "split") if (value := getattr(piece, key))}
    if piece.trajectories is not None:
        content["trajectories"] = list(piece.trajectories)
    return content


def _read_object(content: Mapping[str, Any]) -> Object:
    pieces = tuple(_read_piece(piece) for piece in content["pieces"])
    return Object(_text(content["sha256"]), _count(content["size"]), pieces)


def _read_piece(content: Mapping[str, Any]) -> Piece:
    trajectories = content.get("trajectories")
    if trajectories is not None:
        first, stop = trajectories
        trajectories = (_count(first), _count(stop))
    return Piece(
        path=_text(content["path"]),
        size=_count(content["size"]),
        at=_count(content.get("at", 0)),
        offset=_count(content.get("offset", 0)),
        split=_text(content.get("split", "")),
        trajectories=trajectories,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError | json.JSONDecodeError):
        return "not JSON: damaged or cut off"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error)
