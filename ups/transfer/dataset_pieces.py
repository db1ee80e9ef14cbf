"""A converted version as pieces: what every reader needs, then whole trajectories by split.

Of a grid store, the head is every byte outside /fields and /inputs; the rest follows in runs of
trajectories. Of a mesh or particle store, the head is metadata and small arrays; the other members
go by the trajectories that have rows in them. The first trajectories of every split are a batch of
their own, so that a look at a few fetches little else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ups import files
from ups.data.partial import runs_of
from ups.data.splits import SPLITS
from ups.data.versions import open_path
from ups.errors import DataError, RemoteError
from ups.transfer.manifest import Manifest, Piece
from ups.transfer.packing import SHARD_BYTES, LocalPiece
from ups.transfer.push import Source

if TYPE_CHECKING:
    from ups.data.points import PointStore
    from ups.data.store import TrajectoryStore

Array = npt.NDArray[Any]
SMALL = 16
"""Trajectories of every split that are easily fetched without the others."""
GRID, POINTS = "store.h5", "store.zarr"
_PACKING = 1
_ALL = (*SPLITS, "excluded")


def source_of(path: Path) -> Source:
    """A whole version on this machine as what becomes an artefact of kind `data`.

    Raises:
        DataError: Only some of the version is here, or the store is damaged.
    """
    store = open_path(path)
    data = store.metadata
    if store.presence is not None:
        raise DataError(
            f"{path.parent}: only some trajectories of {store.name} are here",
            hint=f"ups data pull {data.dataset} --version {data.version}",
        )
    pieces = _grid_pieces(store) if path.suffix == ".h5" else _point_pieces(store)
    labels = {
        "trajectories": store.num_trajectories,
        "frames": store.num_frames,
        "extent": store.extent,
        "fields": list(data.fields),
        "kind": getattr(store, "kind", "grid"),
        "splits": {name: runs_of(rows) for name, rows in _rows_by_split(store.splits).items()},
    }
    return Source("data", f"{data.dataset}/{data.version}", identity_of(store), pieces, labels)


def identity_of(store: TrajectoryStore | PointStore) -> dict[str, Any]:
    """What a version is, on every remote."""
    data = store.metadata
    return {
        "dataset": data.dataset,
        "version": data.version,
        "data_sha256": data.data_sha256,
        "split_hash": data.split_hash,
        "metadata_sha256": files.sha256_json(data.to_json()),
        "packing": _PACKING,
    }


def splits_in(piece: Piece | LocalPiece) -> set[str]:
    """The splits of the trajectories in a piece; none for what every reader needs."""
    return set(piece.split.split("+")) - {""}


def split_runs(manifest: Manifest) -> dict[str, list[int]]:
    """The trajectories of every split, as the artefact's labels say.

    Raises:
        RemoteError: They say nothing that can be used.
    """
    try:
        count = int(manifest.labels["trajectories"])
        found = {
            str(name): [n for first, end in runs for n in range(int(first), int(end))]
            for name, runs in manifest.labels["splits"].items()
            if sum(int(end) - int(first) for first, end in runs) <= count
        }
        if sorted(n for rows in found.values() for n in rows) != list(range(count)):
            raise ValueError("splits do not hold every trajectory once")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RemoteError(
            f"{manifest.place}: its labels cannot be used: {error}",
            hint="push it again with this version of ups",
        ) from error
    return found


def chosen(manifest: Manifest, splits: Collection[str] = (), first: int | None = None) -> Array:
    """(trajectory,) bool: the first so many of every one of these splits; all by default.

    Trajectories that are excluded from every split come with everything only.
    """
    runs = split_runs(manifest)
    wanted = np.zeros(sum(map(len, runs.values())), bool)
    for name, rows in runs.items():
        if name in splits or (not splits and (name in SPLITS or first is None)):
            wanted[rows[:first]] = True
    return wanted


def holds(piece: Piece, wanted: Array) -> bool:
    """Whether a piece is needed for these trajectories; the head always is."""
    if piece.trajectories is None:
        return True
    first, end = piece.trajectories
    return bool(wanted[first:end].any())


def _rows_by_split(splits: Array) -> dict[str, Array]:
    return {name: np.flatnonzero(splits == number) for number, name in enumerate(_ALL)}


def _grid_pieces(store: Any) -> list[LocalPiece]:
    from ups.data.extents import extents_of

    path = store.path
    bulk = [(extent.offset, extent.size) for extent in extents_of(store, 0)]
    count, size = store.num_trajectories, path.stat().st_size
    pieces = [
        LocalPiece(path, GRID, end - start, start)
        for start, end in _gaps([(at, at + each * count) for at, each in bulk], size)
    ]
    for name, rows in _rows_by_split(store.splits).items():
        for batch, some in enumerate((rows[:SMALL], rows[SMALL:])):
            for first, end in _limited(runs_of(some), sum(each for _, each in bulk)):
                pieces += [
                    LocalPiece(path, GRID, (end - first) * each, at + first * each, name,
                               (first, end), batch)
                    for at, each in bulk
                ]  # fmt: skip
    return pieces


def _gaps(taken: Sequence[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """What lies before, between and after runs of bytes."""
    at = 0
    for start, end in [*sorted(taken), (size, size)]:
        if start > at:
            yield at, start
        at = max(at, end)


def _limited(runs: Iterable[tuple[int, int]], each: int) -> Iterator[tuple[int, int]]:
    """Runs of trajectories cut so that none has more bytes than a shard, if it can be."""
    most = max(1, SHARD_BYTES // max(each, 1))
    for first, end in runs:
        for start in range(first, end, most):
            yield start, min(start + most, end)


def _point_pieces(store: Any) -> list[LocalPiece]:
    head: list[LocalPiece] = []
    bulk: list[LocalPiece] = []
    names, rows = np.asarray(_ALL), _rows_of_trajectories(store)
    for path in sorted(p for p in store.path.rglob("*") if p.is_file()):
        inside = path.relative_to(store.path).as_posix()
        array, _, shard = inside.partition("/c/")
        name, size = f"{POINTS}/{inside}", path.stat().st_size
        if array not in rows or not shard:
            head.append(LocalPiece(path, name, size))
            continue
        per_shard = store.bulk[array].rows_per_shard
        held = _holders(rows[array], int(shard.partition("/")[0]) * per_shard, per_shard)
        labels = names[np.unique(store.splits[slice(*held)])]
        bulk.append(LocalPiece(path, name, size, 0, "+".join(labels), held))
    return head + sorted(bulk, key=_by_trajectory)


def _rows_of_trajectories(store: Any) -> dict[str, Array]:
    """First and end of the rows of every trajectory in every large array, (trajectory, 2) each."""
    found = [store.rows_of(trajectory) for trajectory in range(store.num_trajectories)]
    return {name: np.asarray([rows[name] for rows in found]) for name in store.bulk}


def _holders(rows: Array, start: int, count: int) -> tuple[int, int]:
    """First and end of the trajectories that have rows among `count` from `start` on."""
    inside = np.flatnonzero((rows[:, 0] < start + count) & (rows[:, 1] > start))
    return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, len(rows))


def _by_trajectory(piece: LocalPiece) -> tuple[str, tuple[int, int], str]:
    return piece.split, piece.trajectories or (0, 0), piece.path


def described(labels: Mapping[str, Any]) -> str:
    """`1000 trajectories (train 810, valid 90, test 100) x 41 frames x 256 points`."""
    counts = {
        name: sum(end - first for first, end in runs) for name, runs in labels["splits"].items()
    }
    parts = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    return f"{labels['trajectories']} trajectories ({parts}) x {labels['frames']} frames x " + str(
        labels["extent"]
    )
