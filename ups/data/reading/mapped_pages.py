"""Reading through memory maps without holding on to all that has been read."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
MOST_BYTES = 64 * 2**20
_AROUND_BYTES = 64 * 2**10
"""Linux maps the pages around a missing one with it, 64 kB at once."""


class MappedPages:
    """Keeps a process from holding every page it has read through memory maps.

    The pages stay in the system's cache; only this process' share in them ends, so memory in use
    stays constant however much is read. Mapping them again when they are next read costs little.
    Views stay valid.

    Args:
        most_bytes: Let go after so many; `MOST_BYTES` by default.
    """

    def __init__(self, most_bytes: int | None = None) -> None:
        self._most = MOST_BYTES if most_bytes is None else most_bytes
        self._seen = 0
        self._maps: dict[int, mmap.mmap] = {}

    def touched(self, view: Array, num_bytes: int | None = None, runs: int = 1) -> None:
        """Note that values of a view of a map have been read.

        Args:
            num_bytes: How many; all by default.
            runs: In how many places.
        """
        base: Any = view
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap):
            self._maps[id(base)] = base
            self._seen += (view.nbytes if num_bytes is None else num_bytes) + runs * _AROUND_BYTES

    def release(self) -> None:
        """Let go of what was read, if it is much."""
        if self._seen < self._most:
            return
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps.values():
                mapped.madvise(mmap.MADV_DONTNEED)
        self._maps.clear()
        self._seen = 0
