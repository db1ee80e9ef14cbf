"""Who trains, who selects, who judges: splits by trajectory, leak-free across files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.errors import DataError
from ups.registry import Splits

SPLITS = ("train", "valid", "test")
EXCLUDED = len(SPLITS)


def groups_of(rule: Splits, file_sizes: Sequence[int]) -> npt.NDArray[Any]:
    """Number each trajectory by what must not be shared between splits.

    Args:
        file_sizes: Trajectories in each file, in order.
    Returns:
        (trajectory,) int64.
    """
    if rule.kept_apart_by == "initial_condition":
        return np.concatenate([np.arange(size) for size in file_sizes]).astype(np.int64)
    return np.arange(sum(file_sizes), dtype=np.int64)


def assign_splits(rule: Splits, file_sizes: Sequence[int]) -> npt.NDArray[Any]:
    """Give every trajectory its split: PDEBench's test share, then validation, the rest trains.

    The test split is the first (or last) tenth of every file, at least one trajectory; a group
    that is tested in one file is tested in all. Validation groups are drawn from the rest by a
    hash of seed and group, so that they do not depend on a library's random numbers.

    Returns:
        (trajectory,) uint8, indices into `SPLITS`.
    """
    groups = groups_of(rule, file_sizes)
    in_test = np.concatenate([_test_share(rule, size) for size in file_sizes])
    test_groups = set(groups[in_test].tolist())
    rest = sorted(set(groups.tolist()) - test_groups)
    num_valid = max(1, round(rule.valid_fraction * len(set(groups.tolist()))))
    if len(rest) <= num_valid:
        raise DataError(
            f"{sum(file_sizes)} trajectories are too few for train, valid and test",
            hint="give at least 3",
        )
    valid_groups = set(sorted(rest, key=lambda group: _draw(rule.seed, group))[:num_valid])
    codes = [2 if g in test_groups else 1 if g in valid_groups else 0 for g in groups.tolist()]
    return np.asarray(codes, dtype=np.uint8)


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
