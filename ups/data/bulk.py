"""Bulk values into a contiguous HDF5 array by plain writes, on space that was reserved first.

When the disk fills up in the middle of an HDF5 write, the library prints its own tracebacks and can
crash the process at exit, so that neither our one line nor our exit code survives. So HDF5 writes
only the few kilobytes around the array; the array's bytes are reserved, then written by us.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

_AROUND_BYTES = 2**20
_PIECE_BYTES = 2**25


def create_contiguous(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike
) -> int:
    """Create a contiguous array whose place in the file is fixed at once.

    Returns:
        The offset of its first byte.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)  # the same values give the same bytes at any time
    kind = h5py.h5t.py_create(np.dtype(dtype))
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=properties)
    return int(dataset.get_offset())


def reserve(path: Path, num_bytes: int) -> None:
    """Make sure that `path` can grow to `num_bytes`, creating it if need be.

    Raises:
        OSError: The disk, a quota or a limit does not allow it; nothing was written.
    """
    needed = num_bytes + _AROUND_BYTES
    if sys.platform == "darwin":  # has no posix_fallocate: the free space is only looked at
        if shutil.disk_usage(path.parent).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        path.touch()
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, needed)
    finally:
        os.close(descriptor)


def write_at(descriptor: int, block: npt.NDArray[Any], offset: int) -> None:
    """Write values in C order from a byte of an open file on."""
    rest = np.ascontiguousarray(block).data.cast("B")
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def copy_range(source: int, target: int, start: int, offset: int, size: int) -> None:
    """Copy bytes between open files, inside the kernel where it can.

    Args:
        start, offset: First byte in the source and in the target.
    """
    done = 0
    copy = getattr(os, "copy_file_range", None)  # Linux only
    while copy and done < size:
        try:
            copied = copy(source, target, size - done, start + done, offset + done)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                raise
            break  # between these file systems it cannot
        if not copied:
            break
        done += copied
    while done < size:
        piece = os.pread(source, min(_PIECE_BYTES, size - done), start + done)
        if not piece:
            raise OSError(errno.EIO, "the source ended early")
        write_at(target, np.frombuffer(piece, np.uint8), offset + done)
        done += len(piece)
