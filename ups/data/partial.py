"""A version of which only some trajectories are here.

    data/<dataset>/<version>.parts/
        store.h5 or store.zarr/     the store; what is not here is a hole, or a missing member
        present.json                which trajectories are here; without it there is no version

Bytes lie where they lie in the whole store, so a folder from which nothing is missing is finished
by renaming what is inside. Reading a trajectory that is not here is an error, or brings it where
the store was opened in place (`fetch`). To add trajectories, write their bytes, then call
`mark_present`: stores that are open see them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ups import files
from ups.data.splits import SPLITS
from ups.data.versions import PRESENT, parts_folder
from ups.errors import DataError

Array = npt.NDArray[Any]
Fetch = Callable[[list[int]], None]
"""Brings trajectories, verified, and ends with `mark_present`; picklable, for worker processes."""
_FORMAT = "ups-parts-1"
_LOCK_S = 60.0


@dataclass(frozen=True)
class Present:
    """What `present.json` says.

    Attributes:
        data_sha256: Of the whole version.
        runs: First and end of runs of trajectories that are here, rising.
        manifest_sha256: Of the artefact that they come from; empty if from none.
    """

    dataset: str
    version: str
    data_sha256: str
    num_trajectories: int
    runs: tuple[tuple[int, int], ...] = ()
    manifest_sha256: str = ""

    @property
    def here(self) -> Array:
        """(trajectory,) bool."""
        found = np.zeros(self.num_trajectories, bool)
        for first, end in self.runs:
            found[first:end] = True
        return found

    @property
    def num_here(self) -> int:
        return sum(end - first for first, end in self.runs)

    def with_runs(self, here: Array) -> Present:
        """The same with these trajectories, (trajectory,) bool."""
        return replace(self, runs=runs_of(np.flatnonzero(here)))


def runs_of(trajectories: Iterable[int] | Array) -> tuple[tuple[int, int], ...]:
    """Numbers as runs: 0 1 2 5 -> (0, 3), (5, 6)."""
    numbers = np.unique(np.asarray(list(trajectories), np.int64))
    if not len(numbers):
        return ()
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    return tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(numbers, cuts))


def read_present(folder: Path) -> Present:
    """What is here of a version.

    Raises:
        DataError: `present.json` is missing or damaged.
    """
    path = folder / PRESENT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise ValueError("written by another version of ups")
        content["runs"] = tuple((int(first), int(end)) for first, end in content["runs"])
        found = Present(**content)
        edges = [edge for run in found.runs for edge in run]
        inside = not edges or (edges[0] >= 0 and edges[-1] <= found.num_trajectories)
        if edges != sorted(set(edges)) or not inside:
            raise ValueError(f"runs {found.runs} of {found.num_trajectories} trajectories")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: cannot be read: {error}", hint=f"rm -r '{folder}', then pull again"
        ) from error
    return found


def write_present(folder: Path, present: Present) -> None:
    """Record what is here, replacing what was recorded."""
    files.write_json(folder / PRESENT, {"format": _FORMAT, **asdict(present)})


def mark_present(folder: Path, trajectories: Iterable[int]) -> None:
    """Add trajectories whose bytes are all written. Other processes may do the same."""
    with files.exclusive(folder / PRESENT, "recording what is here", wait_s=_LOCK_S):
        present = read_present(folder)
        here = present.here
        here[list(trajectories)] = True
        write_present(folder, present.with_runs(here))


class Presence:
    """Which trajectories of an open store are here, and what to do about the others.

    Args:
        folder: That holds `present.json`.
        splits: Of all trajectories, (trajectory,).
        fetch: Brings trajectories that are not here; without it they are an error.
    """

    def __init__(self, folder: Path, splits: Array, fetch: Fetch | None = None) -> None:
        self.folder, self.fetch = folder, fetch
        self._splits = splits
        self._lock = threading.Lock()
        self._load()

    @property
    def here(self) -> Array:
        """(trajectory,) bool."""
        return self._here

    @property
    def complete(self) -> bool:
        return self._complete

    def missing(self, trajectories: Array) -> Array:
        """Those of the given trajectories that are not here, each once."""
        if self._complete:
            return np.empty(0, np.int64)
        wanted = np.asarray(trajectories).reshape(-1)
        return np.unique(wanted[~self._here[wanted]])

    def require(self, trajectories: Array) -> None:
        """Make sure that trajectories are here.

        Raises:
            DataError: One is not, and nothing brings it.
        """
        if not len(self.missing(trajectories)):
            return
        with self._lock:
            self._load()  # another process may have brought them
            missing = self.missing(trajectories)
            if len(missing) and self.fetch is not None:
                self.fetch(missing.tolist())
                self._load()
                missing = self.missing(trajectories)
            if len(missing):
                raise self._not_here(missing)

    def require_unless_fetched(self, trajectories: Array) -> None:
        """As `require` where nothing brings what is missing: a failure at once, not later."""
        if self.fetch is None:
            self.require(trajectories)

    def _load(self) -> None:
        found = read_present(self.folder)
        if found.num_trajectories != len(self._splits):
            raise DataError(
                f"{self.folder / PRESENT}: {found.num_trajectories} trajectories, and the store "
                f"has {len(self._splits)}",
                hint=f"rm -r '{self.folder}', then pull again",
            )
        self._present, self._here = found, found.here
        self._complete = bool(self._here.all())

    def _not_here(self, missing: Array) -> DataError:
        known = self._present
        names = [SPLITS[s] if s < len(SPLITS) else "" for s in np.unique(self._splits[missing])]
        split = names[0] if len(names) == 1 and names[0] else ""
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        wanted = f" --splits {','.join(names)}" if all(names) else ""
        return DataError(
            f"{known.dataset}/{known.version}: trajectory {missing[0]}{split and f' ({split})'}"
            f"{more} of {known.num_trajectories} {'are' if more else 'is'} not here",
            hint=f"ups data pull {known.dataset} --version {known.version}{wanted}",
        )


class PartialArray:
    """Rows of a memory map, one for each trajectory, of which some are not here.

    Is indexed like the array. Rows that are not here are brought or refused; a slice of them stays
    a `PartialArray` until rows are chosen.

    Args:
        values: (trajectory, ...) with holes.
        rows: The trajectory of each row; all in order by default.
    """

    def __init__(self, values: Array, presence: Presence, rows: Array | None = None) -> None:
        self.values = values
        self._presence = presence
        self._rows = np.arange(len(values)) if rows is None else rows

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    @property
    def ndim(self) -> int:
        return self.values.ndim

    @property
    def size(self) -> int:
        return self.values.size

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any) -> Any:
        first, *rest = key if isinstance(key, tuple) and key else (key,)
        every = first is Ellipsis or first is None
        rows = self._rows if every else np.atleast_1d(self._rows[_rows_in(first)])
        is_view = isinstance(first, slice) and all(isinstance(k, _BASIC) for k in rest)
        if is_view and len(self._presence.missing(rows)):
            return PartialArray(self.values[key], self._presence, rows)
        self._presence.require(rows)
        return self.values[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        self._presence.require(self._rows)
        if copy:
            return np.array(self.values, dtype=dtype)
        return np.asarray(self.values, dtype=dtype)


Rows = Array | PartialArray
"""What a store's fields are: an array, or one of which some rows are not here."""
_BASIC = (int, np.integer, slice, type(Ellipsis))


def _rows_in(first: Any) -> Any:
    """An index of the first axis out of one that may be a mask over more axes."""
    mask = np.asarray(first) if not isinstance(first, slice) else None
    return np.nonzero(mask)[0] if mask is not None and mask.dtype == bool else first


def mapped(values: Rows) -> Array:
    """The memory map itself, for a reader that asks `require` before it reads."""
    return values.values if isinstance(values, PartialArray) else np.asarray(values)


def partly(values: Array, presence: Presence | None) -> Rows:
    """An array as what of it is here; itself where that is all."""
    return values if presence is None else PartialArray(values, presence)


def presence_of(store: Path, splits: Array, fetch: Fetch | None = None) -> Presence | None:
    """What of a store is here; None for a whole store."""
    folder = parts_folder(store)
    return None if folder is None else Presence(folder, splits, fetch)
