"""The data that a run is judged on: its own, or another version that it has not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ups.checkpoint import TaskIdentity
from ups.data.auditing.same_start import nearest_pairs
from ups.data.points import PointStore
from ups.data.splits import SPLITS
from ups.data.store import TrajectoryStore
from ups.data.versions import open_store
from ups.errors import DataError, UsageError

Store = TrajectoryStore | PointStore


def store_to_judge_on(known: TaskIdentity, version: str | None, split: str) -> Store:
    """The data of a task, or another version of its dataset.

    Raises:
        DataError: It is not here, has changed since training, or was seen in training.
        UsageError: Split 'all' of the data that was trained on.
    """
    store = open_store_of(known)
    if version is not None and version != store.metadata.version:
        return open_unseen(store, version, split)
    if split == "all":
        raise UsageError(
            "split 'all' would judge on training trajectories",
            hint="ups eval --split test, or --version NAME of other data",
        )
    return store


def open_store_of(known: TaskIdentity) -> Store:
    """The data that a task was trained on, exactly.

    Raises:
        DataError: That version is not here, or was converted from other values or splits.
    """
    store = open_store(known.dataset, known.version)
    now = (store.metadata.data_sha256, store.metadata.split_hash)
    if now != (known.data_sha256, known.split_hash):
        raise DataError(
            f"{store.path}: values or splits differ from those that the run was trained on",
            hint="convert the run's data again, or train on this version: ups train",
        )
    return store


def open_unseen(trained: Store, version: str, split: str) -> Store:
    """Another version of the dataset at the same times, unseen in training.

    On another grid it is the same raw data in other detail, divided alike: its test split shows
    what the model makes of points between those it was trained on (zero-shot super-resolution).

    Raises:
        DataError: Spacing, time step or fields differ, an initial state of the other version is
            one of the training split, or the grid differs and so does the division into splits.
    """
    other = open_store(trained.metadata.dataset, version)
    for what, ours, theirs in (
        ("time step", trained.metadata.dt, other.metadata.dt),
        ("fields", trained.metadata.fields, other.metadata.fields),
        ("domain", trained.metadata.bounds, other.metadata.bounds),
    ):  # fmt: skip
        if ours != theirs:
            raise DataError(
                f"{other.name}: {what} {theirs} differs from {ours}, which the run was trained on",
                hint=f"convert it alike: ups data convert {other.metadata.dataset} --stride-x N",
            )
    if isinstance(trained, PointStore) or isinstance(other, PointStore):
        _check_digests(trained, other)
        return other
    if trained.space != other.space:
        alike = trained.metadata.split_hash == other.metadata.split_hash
        if not alike or split == "all":
            raise DataError(
                f"{other.name}: grid {other.space} differs from {trained.space}, which the run was "
                f"trained on, and {'all' if alike else 'it'} may share trajectories with training",
                hint="convert the same raw files with another --stride-x, and judge on --split "
                "test; or convert them alike",
            )
        return other
    given = trained.inputs if trained.metadata.dt is None else trained.fields[:, 0]
    held = other.inputs if other.metadata.dt is None else other.fields[:, 0]
    assert given is not None
    shared = nearest_pairs(
        given, trained.split("train"), members_of(other, "all"), held_states=held
    )  # fmt: skip
    for _, index, _ in shared:
        raise DataError(f"{other.name}: trajectory {index} starts as one that the run trained on")
    return other


def _check_digests(trained: Store, other: Store) -> None:
    """Refuse trajectories that are, to the bit, among those trained on."""
    seen = {trained.digests[row].tobytes() for row in trained.split("train")}
    for row in members_of(other, "all"):
        if other.digests[row].tobytes() in seen:
            raise DataError(f"{other.name}: trajectory {row} is one that the run trained on")


def members_of(store: Store, split: str) -> npt.NDArray[Any]:
    """The trajectories of a split; 'all' is every one that is in any."""
    if split == "all":
        return np.sort(np.concatenate([store.split(name) for name in SPLITS]))
    return store.split(split)
