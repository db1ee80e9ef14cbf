"""The first trajectories of a remote HDF5 file as a file of their own, without fetching the rest.

The structure is read by h5py through a range-reading file object. Bytes of contiguous arrays, and
of chunks as they are stored (compressed or not), are taken from the remote file in big parallel
requests and put into the copy unchanged.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ups import files
from ups.data.download.byte_ranges import RemoteFile
from ups.data.download.http import Http
from ups.errors import DataError, translated_os_errors
from ups.registry import Layout, RawFile

_SMALL = 64 * 2**10  # bytes; smaller arrays go through h5py
_GAP = 16 * 2**10  # bytes between two ranges that are not worth a request of their own
_BATCH = 32 * 2**20  # bytes of chunks in memory at a time
_DEEPEST = 16
_NAMED: dict[str, frozenset[str]] = {
    "pdebench_tensor": frozenset({"tensor"}),
    "pdebench_darcy": frozenset({"nu", "tensor"}),
    "pdebench_ns_incompressible": frozenset({"particles", "velocity", "force", "t"}),
}

Progress = Callable[[int, int | None], object]


@dataclass(frozen=True)
class _Stretch:
    """Bytes of an array: where they are in the source and where in the copy."""

    source: int
    copy: int
    length: int


def copy_first(
    urls: Sequence[str],
    path: Path,
    original: RawFile,
    count: int,
    *,
    layout: Layout,
    num_dims: int,
    http: Http,
    connections: int = 4,
    progress: Progress = lambda done, total: None,
) -> int:
    """Write the first `count` trajectories of a published file to `path`, atomically.

    Args:
        urls: Addresses, tried in order.
        layout: Says what a trajectory is: an entry of an array's first axis, or a group.
        num_dims: Space dimensions.
        progress: Called with (bytes received, bytes to come in all, as far as is known).

    Returns:
        Bytes that came over the wire.

    Raises:
        DataError: No address can be read in pieces, or the file is not of this layout.
    """
    if layout == "xarray":
        raise DataError(
            f"{original.name}: the first trajectories cannot be taken out of this layout",
            hint="fetch whole files: leave --trajectories out",
        )
    problems = []
    for url in urls:
        try:
            remote = RemoteFile(url, http, connections)
        except DataError as error:
            problems.append(error)
            continue
        with remote:
            return _Copy(remote, original, count, layout, num_dims, progress).write(path)
    raise DataError(
        f"{original.name}: not fetched: {'; '.join(str(problem) for problem in problems)}",
        hint=problems[-1].hint,
    )


class _Copy:
    def __init__(
        self,
        remote: RemoteFile,
        original: RawFile,
        count: int,
        layout: Layout,
        num_dims: int,
        progress: Progress,
    ) -> None:
        self.remote, self.original, self.count = remote, original, count
        self.layout, self.num_dims, self.progress = layout, num_dims, progress
        self.stretches: list[_Stretch] = []
        self.cut = 0

    def write(self, path: Path) -> int:
        with files.atomic_path(path) as temporary:
            with self._translated(), ExitStack() as stack:
                source = stack.enter_context(h5py.File(self.remote, "r"))
                if source.userblock_size:
                    raise DataError(f"{self.remote.url}: starts with a block that is not HDF5")
                copy = stack.enter_context(h5py.File(temporary, "w"))
                self._group(source, copy, 0)
                self._mark(copy)
            self._contiguous_bytes(temporary)
        return self.remote.received

    def _translated(self) -> Any:
        return _Translated(self.remote)

    def _mark(self, copy: h5py.File) -> None:
        if not self.cut:
            raise DataError(
                f"{self.remote.url}: no trajectories found, only {sorted(copy.keys())}",
                hint=f"is the file of layout {self.layout}?",
            )
        copy.attrs["ups_partial"] = (
            f"first {self.cut} of {self.original.trajectories} from {self.remote.url}; "
            "not MD5-verified"
        )
        if "n_trajectories" in copy.attrs:
            copy.attrs["n_trajectories"] = self.cut

    def _group(self, source: h5py.Group, copy: h5py.Group, depth: int) -> None:
        if depth > _DEEPEST:
            raise DataError(f"{self.remote.url}: {source.name}: groups lie too deep")
        _copy_attributes(source, copy)
        names = sorted(source.keys())
        if depth == 0 and self.layout in ("pdebench_groups", "points"):
            names = self._first_groups(names)
        for name in names:
            link = source.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise DataError(f"{self.remote.url}: {source.name}/{name}: a link to elsewhere")
            item = source[name]
            if isinstance(item, h5py.Group):
                self._group(item, copy.create_group(name), depth + 1)
            elif isinstance(item, h5py.Dataset):
                self._dataset(item, copy, name)

    def _first_groups(self, names: list[str]) -> list[str]:
        # By their names: opening all ten thousand would fetch a block of the file for each.
        numbered = sorted((name for name in names if re.fullmatch("[0-9]+", name)), key=int)
        kept = set(numbered[: self.count])
        known = set(numbered)
        self.cut = len(kept)
        return [name for name in names if name in kept or name not in known]

    def _dataset(self, source: h5py.Dataset, copy: h5py.Group, name: str) -> None:
        rows = None
        if self._is_by_trajectory(source):
            rows = min(self.count, source.shape[0])
            self.cut = max(self.cut, rows)
        if source.is_virtual or source.external:
            raise DataError(f"{self.remote.url}: {source.name}: its values are in other files")
        if source.shape is None or source.shape == () or source.dtype.hasobject:
            self._by_value(source, copy, name, rows)
            return
        shape = source.shape if rows is None else (rows, *source.shape[1:])
        made = h5py.Dataset(_create_like(source, copy, name, shape))
        _copy_attributes(source, made)
        if math.prod(shape) * source.dtype.itemsize <= _SMALL:
            made[...] = source[: shape[0]]
        elif source.chunks:
            self._chunks(source, made)
        elif (start := source.id.get_offset()) is not None:
            length = math.prod(shape) * source.dtype.itemsize
            self.stretches.append(_Stretch(start, made.id.get_offset(), length))

    def _is_by_trajectory(self, item: h5py.Dataset) -> bool:
        """Whether the first axis of an array counts trajectories."""
        if not item.shape:
            return False
        if self.layout == "pdebench_fields":
            return item.dtype.kind == "f" and item.ndim == self.num_dims + 2
        if self.layout == "the_well":
            return _says_varying(item) or _says_varying(item.parent)
        named = item.name.lstrip("/") in _NAMED.get(self.layout, ())
        if named and self.layout == "pdebench_tensor" and item.ndim != self.num_dims + 2:
            raise DataError(
                f"{self.remote.url}: tensor: shape {item.shape} is not (trajectory, time, x)",
                hint="fetch whole files: leave --trajectories out",
            )
        return named

    def _by_value(
        self, source: h5py.Dataset, copy: h5py.Group, name: str, rows: int | None
    ) -> None:
        if source.dtype.kind == "O" and h5py.check_ref_dtype(source.dtype):
            return  # references into the source mean nothing in the copy
        values = source[()] if rows is None else source[:rows]
        made = copy.create_dataset(name, data=values, dtype=source.dtype)
        _copy_attributes(source, made)

    def _chunks(self, source: h5py.Dataset, made: h5py.Dataset) -> None:
        """Take stored chunks over as they are; those not wanted are never asked for."""
        stored: list[Any] = []
        source.id.chunk_iter(stored.append)
        wanted = [chunk for chunk in stored if chunk.chunk_offset[0] < made.shape[0]]
        wanted.sort(key=lambda chunk: chunk.byte_offset)
        batch: list[Any] = []
        for chunk in wanted:
            batch.append(chunk)
            if sum(c.size for c in batch) >= _BATCH:
                self._chunk_batch(batch, made)
                batch = []
        self._chunk_batch(batch, made)

    def _chunk_batch(self, batch: list[Any], made: h5py.Dataset) -> None:
        ranges = _joined([(c.byte_offset, c.byte_offset + c.size) for c in batch])
        memory = {start: bytearray(stop - start) for start, stop in ranges}

        def keep(at: int, piece: bytes) -> None:
            start = next(s for s, stop in ranges if s <= at < stop)
            memory[start][at - start : at - start + len(piece)] = piece
            self.progress(self.remote.received, None)

        self.remote.fetch(ranges, keep)
        for chunk in batch:
            start = next(s for s, stop in ranges if s <= chunk.byte_offset < stop)
            at = chunk.byte_offset - start
            stored = bytes(memory[start][at : at + chunk.size])
            made.id.write_direct_chunk(chunk.chunk_offset, stored, chunk.filter_mask)

    def _contiguous_bytes(self, copy: Path) -> None:
        expected = self.remote.received + sum(s.length for s in self.stretches)
        with translated_os_errors(copy, "writing"), copy.open("r+b", buffering=0) as file:
            for stretch in self.stretches:
                shift = stretch.copy - stretch.source

                def put(at: int, piece: bytes, shift: int = shift) -> None:
                    if os.pwrite(file.fileno(), piece, at + shift) != len(piece):
                        raise DataError(f"{copy}: writing failed: the disk is full")
                    self.progress(self.remote.received, expected)

                self.remote.fetch([(stretch.source, stretch.source + stretch.length)], put)


class _Translated:
    """What HDF5 says about a failed read is replaced by why the read failed."""

    def __init__(self, remote: RemoteFile) -> None:
        self.remote = remote

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and self.remote.failure is not None:
            raise self.remote.failure from None
        if isinstance(error, OSError | RuntimeError | KeyError | ValueError):
            what = " ".join(str(error).split())
            raise DataError(f"{self.remote.url}: HDF5 cannot read it: {what}") from error


def _create_like(
    source: h5py.Dataset, copy: h5py.Group, name: str, shape: tuple[int, ...]
) -> h5py.h5d.DatasetID:
    """An array of another length with the source's type, chunks, filters and fill value."""
    properties = source.id.get_create_plist()
    maxima = source.maxshape
    if source.chunks:
        if source.chunks[0] > shape[0] and maxima[0] is not None:
            maxima = (None, *maxima[1:])  # HDF5 wants a fixed axis to hold a whole chunk
    else:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.CONTIGUOUS)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        allocated = source.id.get_offset() is not None
        properties.set_fill_time(
            h5py.h5d.FILL_TIME_NEVER if allocated else h5py.h5d.FILL_TIME_ALLOC
        )
        if not allocated:
            properties.set_fill_value(np.asarray(source.fillvalue, source.dtype))
    limits = tuple(
        h5py.h5s.UNLIMITED if limit is None else max(limit, length)
        for limit, length in zip(maxima, shape, strict=True)
    )
    space = h5py.h5s.create_simple(shape, limits if source.chunks else None)
    return h5py.h5d.create(copy.id, name.encode(), source.id.get_type(), space, dcpl=properties)


def _copy_attributes(source: h5py.HLObject, copy: h5py.HLObject) -> None:
    for name in source.attrs:
        kind = source.attrs.get_id(name).dtype
        if h5py.check_ref_dtype(kind) is None and kind.kind != "V":
            copy.attrs.create(name, source.attrs[name], dtype=None if kind.kind == "O" else kind)


def _says_varying(item: h5py.HLObject) -> bool:
    value = np.asarray(item.attrs.get("sample_varying", False))
    return value.size == 1 and bool(value.reshape(()))


def _joined(ranges: Sequence[tuple[int, int]], gap: int = _GAP) -> list[tuple[int, int]]:
    """Sorted ranges, those with less than `gap` bytes between them as one."""
    joined: list[tuple[int, int]] = []
    for start, stop in ranges:
        if joined and start - joined[-1][1] <= gap:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined
