"""From local files to the objects of an artefact: large files as they are, small ones in tars.

Ten thousand small files take much longer than the same bytes in a few large ones, even with no
latency. What is grouped depends on the pieces alone, and a tar holds no times or owners: the same
files give the same objects, so that a push that was cut off finds what it has sent before.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ups.errors import DataError, translated_os_errors
from ups.transfer.manifest import Object, Piece

LARGE_BYTES = 64 * 2**20
"""Whole files from here on are objects of their own."""
SHARD_BYTES = 256 * 2**20
"""Pieces that are grouped make up tars of at most this (or of one larger piece)."""

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 4 * 2**20


@dataclass(frozen=True)
class LocalPiece:
    """A run of bytes of a file here, to be sent.

    Attributes:
        source: The file.
        path: What it is called in the artefact.
        size: Bytes.
        offset: Its first byte, in `source` as in `path`.
        split: As in `Piece`; pieces of several splits never share an object.
        trajectories: As in `Piece`.
        batch: Pieces of several batches never share an object either: what is often wanted
            without the rest is a batch of its own.
    """

    source: Path
    path: str
    size: int
    offset: int = 0
    split: str = ""
    trajectories: tuple[int, int] | None = None
    batch: int = 0

    def at(self, place: int) -> Piece:
        """The same run as a piece of an object, from byte `place`."""
        return Piece(self.path, self.size, place, self.offset, self.split, self.trajectories)


@dataclass(frozen=True)
class Shard:
    """Pieces that become one object.

    Attributes:
        whole: The only piece is a large file, which is sent without a copy.
    """

    pieces: tuple[LocalPiece, ...]
    whole: bool = False

    @property
    def size(self) -> int:
        """Bytes of payload."""
        return sum(piece.size for piece in self.pieces)


def pack(
    pieces: Sequence[LocalPiece], *, limit: int = SHARD_BYTES, large: int = LARGE_BYTES
) -> list[Shard]:
    """Group pieces, in their order; nothing is read but the sizes of files.

    Args:
        limit: Bytes of payload of a tar.
        large: Bytes from which a whole file is an object of its own.

    Raises:
        DataError: A file is missing or shorter than its piece.
    """
    shards: list[Shard] = []
    group: list[LocalPiece] = []
    size = 0
    for piece in pieces:
        if _is_whole(piece) and piece.size >= large:
            shards.append(Shard((piece,), whole=True))
            continue
        apart = group and (piece.split, piece.batch) != (group[0].split, group[0].batch)
        if apart or (group and size + piece.size > limit):
            shards.append(Shard(tuple(group)))
            group, size = [], 0
        group.append(piece)
        size += piece.size
    if group:
        shards.append(Shard(tuple(group)))
    return shards


def _is_whole(piece: LocalPiece) -> bool:
    with translated_os_errors(piece.source, "reading"):
        length = piece.source.stat().st_size
    if piece.offset + piece.size > length:
        raise DataError(
            f"{piece.source}: {length} bytes, {piece.offset + piece.size} were to be sent",
            hint="did it change just now? run the same command again",
        )
    return piece.offset == 0 and piece.size == length


def hash_whole(shard: Shard, go_on: Callable[[], object] = lambda: None) -> Object:
    """The object that a large file is.

    Args:
        go_on: Called for every few megabytes; what it raises ends the work.

    Raises:
        DataError: It cannot be read, or its size changed.
    """
    (piece,) = shard.pieces
    digest = hashlib.sha256()
    with translated_os_errors(piece.source, "reading"), piece.source.open("rb") as file:
        for chunk in _chunks(file, piece):
            go_on()
            digest.update(chunk)
    return Object(digest.hexdigest(), piece.size, (piece.at(0),))


def write_tar(shard: Shard, target: Path, go_on: Callable[[], object] = lambda: None) -> Object:
    """Write the pieces of a shard one after the other as a tar that any `tar xf` reads.

    A piece that is not a whole file is a member `<path>@<offset>`. The tar is hashed while it is
    written.

    Args:
        go_on: As in `hash_whole`.

    Raises:
        DataError: A file cannot be read, or changed; the disk is full.
    """
    digest = hashlib.sha256()
    placed: list[Piece] = []
    at = 0
    with translated_os_errors(target, "writing"), target.open("wb", buffering=0) as out:
        for piece in shard.pieces:
            header = _header(piece)
            at += _write(out, digest, header)
            placed.append(piece.at(at))
            with translated_os_errors(piece.source, "reading"), piece.source.open("rb") as file:
                for chunk in _chunks(file, piece):
                    go_on()
                    at += _write(out, digest, chunk)
            at += _write(out, digest, bytes(-at % _BLOCK))
        at += _write(out, digest, bytes(2 * _BLOCK))
    return Object(digest.hexdigest(), at, tuple(placed))


def _header(piece: LocalPiece) -> bytes:
    info = tarfile.TarInfo(piece.path if _is_whole(piece) else f"{piece.path}@{piece.offset}")
    info.size = piece.size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _chunks(file: BinaryIO, piece: LocalPiece) -> Iterator[bytes]:
    """The bytes of a piece; a shorter file is an error."""
    file.seek(piece.offset)
    left = piece.size
    while left:
        chunk = file.read(min(_CHUNK, left))
        if not chunk:
            raise DataError(
                f"{piece.source}: became shorter while it was read",
                hint="run the same command again when nothing writes to it",
            )
        left -= len(chunk)
        yield chunk


def _write(out: Any, digest: Any, content: bytes) -> int:
    view = memoryview(content)
    digest.update(view)
    while view:
        view = view[os.write(out.fileno(), view) :]
    return len(content)
