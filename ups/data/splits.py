"""Who trains, who selects, who judges: splits by trajectory, leak-free across files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.errors import DataError
from ups.registry import DatasetCard, Splits

SPLITS = ("train", "valid", "test")
EXCLUDED = len(SPLITS)


@dataclass(frozen=True)
class FileShare:
    """The trajectories taken from one raw file.

    Attributes:
        size: How many.
        first: Place of the first of them in the file.
        folder: Name of the folder the file lies in.
    """

    size: int
    first: int = 0
    folder: str = ""


Shares = Sequence[int | FileShare]


def groups_of(rule: Splits, shares: Shares) -> npt.NDArray[Any]:
    """Number each trajectory by what must not be shared between splits.

    Args:
        shares: What was taken from each file, in order; a number stands for its first ones.
    Returns:
        (trajectory,) int64.
    """
    parts = _shares(shares)
    if rule.kept_apart_by in ("trajectory", "content"):
        return np.arange(sum(part.size for part in parts), dtype=np.int64)
    places = [part.first + np.arange(part.size) for part in parts]
    return np.concatenate(places).astype(np.int64)


def assign_splits(rule: Splits, shares: Shares) -> npt.NDArray[Any]:
    """Give every trajectory its split: PDEBench's test share, then validation, the rest trains.

    The test split is the first (or last) tenth of what was taken from every file, at least one
    trajectory; a group that is tested in one file is tested in all. Validation groups are drawn
    from the rest by a hash of seed and group, so that they do not depend on a library's random
    numbers, or are the last ones before the test share. With `by_folder` the publisher decides.

    Returns:
        (trajectory,) uint8, indices into `SPLITS`.
    Raises:
        DataError: Too few trajectories for three splits, or a folder that is none.
    """
    parts = _shares(shares)
    if rule.test == "all":
        return np.full(sum(part.size for part in parts), SPLITS.index("test"), dtype=np.uint8)
    if rule.test == "by_folder":
        return _by_folder(parts)
    groups = groups_of(rule, shares)
    in_test = np.concatenate([_test_share(rule, part.size) for part in parts])
    test_groups = set(groups[in_test].tolist())
    rest = sorted(set(groups.tolist()) - test_groups)
    num_valid = max(1, round(rule.valid_fraction * len(set(groups.tolist()))))
    if len(rest) <= num_valid:
        raise DataError(
            f"trajectories that differ: {len(test_groups) + len(rest)}, too few for train, valid "
            "and test",
            hint="give at least 3, or --test-only if nothing is trained on them",
        )
    if rule.valid == "last":
        valid_groups = set(rest[-num_valid:])
    else:
        valid_groups = set(sorted(rest, key=lambda group: _draw(rule.seed, group))[:num_valid])
    codes = [2 if g in test_groups else 1 if g in valid_groups else 0 for g in groups.tolist()]
    return np.asarray(codes, dtype=np.uint8)


def divided_by_content(
    rule: Splits, shares: Shares, digests: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Splits and groups where trajectories of the same content count as one.

    The test split stays the publisher's. What repeats one of its trajectories is excluded.

    Args:
        digests: Hash of each trajectory, (trajectory, byte).
    Returns:
        Splits (trajectory,) uint8 and groups (trajectory,) int64: the first of the same content.
    """
    rows = [row.tobytes() for row in digests]
    first: dict[bytes, int] = {}
    groups = np.asarray([first.setdefault(row, i) for i, row in enumerate(rows)], dtype=np.int64)
    in_test = np.concatenate([_test_share(rule, part.size) for part in _shares(shares)])
    tested = set(groups[in_test].tolist())
    rest = sorted(set(groups.tolist()) - tested)
    num_valid = max(1, round(rule.valid_fraction * len(rest)))
    if len(rest) <= num_valid:
        raise DataError(
            f"{len(rest)} different trajectories beside the test split are too few to train on"
        )
    valid = set(sorted(rest, key=lambda group: _draw(rule.seed, group))[:num_valid])
    splits = np.asarray([1 if g in valid else 0 for g in groups.tolist()], dtype=np.uint8)
    splits[np.isin(groups, sorted(tested))] = EXCLUDED
    splits[in_test] = SPLITS.index("test")
    return splits, groups


def _shares(shares: Shares) -> list[FileShare]:
    return [part if isinstance(part, FileShare) else FileShare(part) for part in shares]


def divide(
    rule: Splits, shares: Shares, digests: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Splits and groups by the card's rule, once the hashes of all trajectories are known."""
    if rule.kept_apart_by == "content":
        return divided_by_content(rule, shares, digests)
    return assign_splits(rule, shares), groups_of(rule, shares)


def _by_folder(parts: Sequence[FileShare]) -> npt.NDArray[Any]:
    for part in parts:
        if part.folder not in SPLITS:
            raise DataError(
                f"a raw file lies in the folder '{part.folder}': the card takes the splits from "
                f"folders named {', '.join(SPLITS)}",
                hint="keep the publisher's folders, and give the folder above them: --raw FOLDER",
            )
    codes = [np.full(part.size, SPLITS.index(part.folder), dtype=np.uint8) for part in parts]
    return np.concatenate(codes)


def judged_only(card: DatasetCard) -> DatasetCard:
    """The card with every trajectory in the test split, for data that nothing is trained on."""
    rule = card.splits.model_copy(update={"test": "all", "kept_apart_by": "trajectory"})
    return card.model_copy(update={"splits": rule})


def statistics_rows(splits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Trajectories that statistics are taken from: those of training or, where there are none
    because everything is judged, all but the excluded ones; (trajectory,) bool.
    """
    training = splits == SPLITS.index("train")
    return training if training.any() or (splits == 1).any() else splits != EXCLUDED


def split_hash(splits: npt.NDArray[Any], groups: npt.NDArray[Any]) -> str:
    """Identify a division: SHA-256 of every trajectory's split and group, 16 hex digits."""
    digest = hashlib.sha256(splits.astype(np.uint8).tobytes())
    digest.update(groups.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _test_share(rule: Splits, size: int) -> npt.NDArray[Any]:
    num_test = max(1, size // 10)
    inside = np.zeros(size, dtype=bool)
    if rule.test == "first_tenth":
        inside[:num_test] = True
    else:
        inside[-num_test:] = True
    return inside


def _draw(seed: int, group: int) -> str:
    return hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()
