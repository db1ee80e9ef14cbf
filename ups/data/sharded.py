"""Rows of a sharded Zarr array: written shard by shard, read through a memory map.

A shard whose chunks are not compressed and span all but the first axis is a run of rows from its
first byte on, followed by an index that says so. Where the index does say so, the shard is mapped,
and a run of rows costs what it costs from a flat file; whatever else is found there (another tool
may have rewritten the store with compression) is read by zarr.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BytesCodec, ShardingCodec

from ups.errors import DataError

Array = npt.NDArray[Any]
_CHUNK_BYTES = 256 * 2**10
_SHARD_BYTES = 64 * 2**20
_ABSENT = np.uint64(2**64 - 1)
_MOST_MAPS = 256
"""Each map holds a file descriptor, of which a process often may have 1024."""


def create_rows(group: Any, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
    """Create an uncompressed array sharded along its first axis."""
    row_bytes = np.dtype(dtype).itemsize * math.prod(shape[1:])
    chunk = max(1, min(_CHUNK_BYTES // row_bytes, shape[0]))
    together = max(1, min(_SHARD_BYTES // (chunk * row_bytes), -(-shape[0] // chunk)))
    return group.create_array(
        name,
        shape=shape,
        dtype=np.dtype(dtype).newbyteorder("<"),
        chunks=(chunk, *shape[1:]),
        shards=(chunk * together, *shape[1:]),
        compressors=None,
        fill_value=0,
        config={"write_empty_chunks": True},  # a chunk of zeros is a chunk, not a gap
    )


def fill_rows(array: Any, blocks: Iterable[Array]) -> None:
    """Write all rows, given in blocks of any size; one shard at a time is held in memory.

    Raises:
        ValueError: The blocks hold more or fewer rows than the array.
    """
    rows, per_shard = array.shape[0], array.shards[0]
    buffer = np.empty((min(per_shard, rows), *array.shape[1:]), array.dtype)
    written = held = 0
    for block in blocks:
        while len(block):
            taken = min(len(block), len(buffer) - held)
            if not taken or written + held + taken > rows:
                raise ValueError(f"{array.name}: more than {rows} rows")
            buffer[held : held + taken] = block[:taken]
            held, block = held + taken, block[taken:]
            if held == len(buffer) or written + held == rows:
                array[written : written + held] = buffer[:held]
                written, held = written + held, 0
    if written != rows:
        raise ValueError(f"{array.name}: {written} of {rows} rows")


@dataclass(frozen=True)
class Extent:
    """A run of bytes of a file of a store.

    Attributes:
        path: Relative to the store's folder; empty where the store is one file.
    """

    path: str
    offset: int
    size: int


class ShardedRows:
    """Read-only rows of one array, mapped where its shards allow it.

    A missing shard is an error here: zarr would read zeros.

    Args:
        array: An opened zarr array in a folder.
        folder: That of the array.
    """

    def __init__(self, array: Any, folder: Path) -> None:
        self._array, self._folder = array, folder
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = array.dtype
        self._chunk: int = array.chunks[0]
        self._per_shard: int = (array.shards or array.chunks)[0]
        self._plain = _is_plain(array)
        self._maps: dict[int, Array | None] = {}

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def rows_per_shard(self) -> int:
        return self._per_shard

    def read(self, start: int, stop: int) -> Array:
        """Rows `start` to `stop`: a view of the map if one shard has them all, else a copy."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop} of {len(self)}")
        if start == stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        first, last = start // self._per_shard, (stop - 1) // self._per_shard
        if first == last:
            return self._part(first, start, stop)
        cuts = [start, *(k * self._per_shard for k in range(first + 1, last + 1)), stop]
        pieces = [
            self._part(first + index, cuts[index], cuts[index + 1])
            for index in range(last - first + 1)
        ]
        return np.concatenate(pieces)

    def extents(self, start: int, stop: int) -> Iterator[Extent]:
        """Where rows `start` to `stop` lie in shards that can be mapped."""
        row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        while start < stop:
            shard = start // self._per_shard
            end = min(stop, (shard + 1) * self._per_shard)
            offset = (start - shard * self._per_shard) * row_bytes
            yield Extent(self._key(shard), offset, (end - start) * row_bytes)
            start = end

    def indexes(self, start: int, stop: int) -> Iterator[tuple[Extent, bytes]]:
        """Where the index of each shard of these rows lies, and what it is if it can be mapped."""
        shards = range(start // self._per_shard, -(-stop // self._per_shard))
        for shard in shards if start < stop else ():
            at, index = self._expected_index(shard)
            yield Extent(self._key(shard), at, index.nbytes), index.tobytes()

    @property
    def plain(self) -> bool:
        """Whether chunks are uncompressed rows; shards of such an array can be mapped."""
        return self._plain

    @property
    def mapped(self) -> bool:
        """Whether every shard can be mapped."""
        shards = -(-len(self) // self._per_shard)
        return all(self._shard(index) is not None for index in range(shards))

    def _part(self, shard: int, start: int, stop: int) -> Array:
        rows = self._shard(shard)
        if rows is not None:
            first = shard * self._per_shard
            return rows[start - first : stop - first]
        try:
            return np.asarray(self._array[start:stop])
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise self._damaged(shard, " ".join(str(error).split())) from error

    def _shard(self, index: int) -> Array | None:
        if index not in self._maps:
            while len(self._maps) >= _MOST_MAPS:
                self._maps.pop(next(iter(self._maps)), None)
            self._maps[index] = self._open(index)
        return self._maps[index]

    def _open(self, index: int) -> Array | None:
        path = self._file(index)
        if not path.is_file():
            raise self._damaged(index, "the file is missing")
        if not self._plain:
            return None
        at, expected = self._expected_index(index)
        with path.open("rb") as file:
            if file.seek(0, 2) != at + expected.nbytes + 4:  # 4: the index's checksum
                return None
            file.seek(at)
            if file.read(expected.nbytes) != expected.tobytes():
                return None
        row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        shape = (at // row_bytes, *self.shape[1:])
        return np.asarray(np.memmap(path, self.dtype, mode="r", shape=shape))

    def _expected_index(self, shard: int) -> tuple[int, Array]:
        """Of a shard that can be mapped: the index's first byte, and (chunk, offset and size)."""
        rows = min(self._per_shard, len(self) - shard * self._per_shard)
        chunks, slots = -(-rows // self._chunk), self._per_shard // self._chunk
        chunk_bytes = self._chunk * self.dtype.itemsize * math.prod(self.shape[1:])
        expected = np.full((slots, 2), _ABSENT, "<u8")
        expected[:chunks, 0] = np.arange(chunks, dtype=np.uint64) * np.uint64(chunk_bytes)
        expected[:chunks, 1] = chunk_bytes
        return chunks * chunk_bytes, expected

    def _key(self, shard: int) -> str:
        return "/".join([self._folder.name, "c", str(shard), *("0" for _ in self.shape[1:])])

    def _file(self, shard: int) -> Path:
        return self._folder.parent / self._key(shard)

    def _damaged(self, shard: int, what: str) -> DataError:
        return DataError(f"{self._file(shard)}: damaged: {what}", hint="convert again with --force")


def _is_plain(array: Any) -> bool:
    """Whether chunks lie in their shard as C-ordered little-endian bytes, the index at its end."""
    codecs = array.metadata.codecs
    if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec) or sys.byteorder != "little":
        return False
    inner, key = codecs[0], array.metadata.chunk_key_encoding
    return (
        tuple(inner.codecs) == (BytesCodec(endian="little" if array.dtype.itemsize > 1 else None),)
        and str(inner.index_location.value) == "end"
        and key.name == "default"
        and key.separator == "/"
        and array.chunks[1:] == array.shape[1:]
        and array.dtype.isnative
    )


def open_group(path: Path) -> Any:
    """Open a Zarr v3 group for reading, or say in one line why not."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    try:
        return zarr.open_group(store=str(path), mode="r", zarr_format=3)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        what = " ".join(str(error).split())
        raise DataError(
            f"{path}: not a Zarr v3 group: {what}", hint="convert again with --force"
        ) from error


def array_of(group: Any, name: str, path: Path) -> Any:
    """An array of a group in a folder, which may be read in parts."""
    try:
        array = group[name]
        _ = array.shape, array.chunks
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        what = " ".join(str(error).split())
        raise DataError(
            f"{path}: {name}: no readable array: {what}", hint="convert again with --force"
        ) from error
    return array


def values_of(group: Any, name: str, path: Path) -> Array:
    """All of a small array; a missing chunk, which zarr would fill with zeros, is an error."""
    array = array_of(group, name, path)
    chunk = path.joinpath(name, "c", *("0" for _ in array.shape))
    if math.prod(array.shape) and not chunk.is_file():
        raise DataError(f"{chunk}: damaged: the file is missing", hint="convert again with --force")
    try:
        return np.asarray(array[...])
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        what = " ".join(str(error).split())
        raise DataError(
            f"{path}: {name}: damaged: {what}", hint="convert again with --force"
        ) from error
