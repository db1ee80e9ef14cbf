"""Which bytes of a store a trajectory is, and whether bytes from elsewhere are that trajectory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ups.data.partial import PartialArray
from ups.data.points import PointStore
from ups.data.sharded import Extent
from ups.data.store import TrajectoryStore
from ups.errors import DataError

Read = Callable[[Extent], bytes | memoryview]
"""Gives the bytes of an extent."""


def extents_of(store: TrajectoryStore | PointStore, trajectory: int) -> list[Extent]:
    """Where the values of a trajectory lie.

    Raises:
        DataError: The store is compressed: its trajectories are not runs of bytes.
    """
    if isinstance(store, TrajectoryStore):
        arrays = [array for array in (store.fields, store.inputs) if array is not None]
        return [_row(array, trajectory) for array in arrays]
    found: list[Extent] = []
    for name, (start, stop) in store.rows_of(trajectory).items():
        rows = store.bulk[name]
        if not rows.plain:
            raise DataError(
                f"{store.name}: '{name}' is compressed, so that parts of it cannot be read alone",
                hint=f"ups data pull {store.metadata.dataset} --version {store.metadata.version}",
            )
        found += rows.extents(start, stop)
    return found


def indexes_of(store: TrajectoryStore | PointStore, trajectory: int) -> dict[Extent, bytes]:
    """What lies beside the values and is needed to read them: the indexes of their shards."""
    if isinstance(store, TrajectoryStore):
        return {}
    return {
        extent: content
        for name, (start, stop) in store.rows_of(trajectory).items()
        for extent, content in store.bulk[name].indexes(start, stop)
    }


def checker(store: TrajectoryStore | PointStore, read: Read) -> Callable[[int], bool]:
    """Tells whether the bytes that `read` gives have the SHA-256 that the store keeps of them."""
    if isinstance(store, PointStore):
        digest = _Elsewhere(store.path, read).digest
    else:

        def digest(trajectory: int) -> bytes:
            found = hashlib.sha256()
            for extent in extents_of(store, trajectory):
                found.update(read(extent))
            return found.digest()

    return lambda trajectory: digest(trajectory) == store.digests[trajectory].tobytes()


class _Elsewhere(PointStore):
    """A store whose values come from elsewhere than its files."""

    def __init__(self, path: Path, read: Read) -> None:
        super().__init__(path)
        self._read = read

    def _rows(self, name: str, trajectory: int, start: int, stop: int) -> npt.NDArray[np.generic]:
        rows = self.bulk[name]
        content = b"".join(self._read(extent) for extent in rows.extents(start, stop))
        return np.frombuffer(content, rows.dtype).reshape(-1, *rows.shape[1:])


def _row(array: object, trajectory: int) -> Extent:
    values = array.values if isinstance(array, PartialArray) else array
    assert isinstance(values, np.memmap)
    size = values.nbytes // len(values)
    return Extent("", values.offset + trajectory * size, size)
