"""Splits: by trajectory, leak-free across files, and the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ups.data.splits import (
    EXCLUDED,
    assign_splits,
    divided_by_content,
    groups_of,
    split_hash,
)
from ups.errors import DataError
from ups.registry import Splits

TRAIN, VALID, TEST = 0, 1, 2


def rule(**changes):
    options = {
        "test": "first_tenth", "valid_fraction": 0.1, "kept_apart_by": "initial_condition",
    }  # fmt: skip
    return Splits(**(options | changes))


sizes = st.lists(st.integers(1, 60), min_size=1, max_size=4).filter(lambda s: max(s) >= 4)
rules = st.builds(
    rule,
    test=st.sampled_from(["first_tenth", "last_tenth"]),
    valid_fraction=st.floats(0.01, 0.45),
    seed=st.integers(0, 9),
    kept_apart_by=st.sampled_from(["initial_condition", "trajectory"]),
)


def assigned(chosen, file_sizes):
    try:
        return assign_splits(chosen, file_sizes)
    except DataError:
        return None


@given(rules, sizes)
def test_no_group_is_in_two_splits(chosen, file_sizes):
    splits = assigned(chosen, file_sizes)
    if splits is None:
        return
    groups = groups_of(chosen, file_sizes)
    for group in np.unique(groups):
        assert len(set(splits[groups == group].tolist())) == 1


@given(rules, sizes)
def test_every_trajectory_has_a_split_and_no_split_is_empty(chosen, file_sizes):
    splits = assigned(chosen, file_sizes)
    if splits is None:
        return
    assert len(splits) == sum(file_sizes)
    assert set(splits.tolist()) == {TRAIN, VALID, TEST}


def test_the_first_tenth_of_a_file_is_the_test_split():
    splits = assign_splits(rule(), [100])
    assert np.flatnonzero(splits == TEST).tolist() == list(range(10))
    assert (splits == VALID).sum() == 10
    assert (splits == TRAIN).sum() == 80


def test_the_last_tenth_can_be_the_test_split():
    splits = assign_splits(rule(test="last_tenth"), [100])
    assert np.flatnonzero(splits == TEST).tolist() == list(range(90, 100))


def test_files_that_share_initial_conditions_are_divided_alike():
    splits = assign_splits(rule(), [50, 50, 50])
    first, *others = splits.reshape(3, 50)
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_a_group_tested_in_one_file_is_tested_in_all():
    splits = assign_splits(rule(), [100, 20])
    assert (splits[100:110] == TEST).all()  # the long file tests groups 0 to 9


def test_the_division_is_pinned():
    """A published number stays comparable only while this does not change."""
    splits, groups = assign_splits(rule(), [40]), groups_of(rule(), [40])
    assert np.flatnonzero(splits == VALID).tolist() == [15, 20, 25, 36]
    assert split_hash(splits, groups) == "1a09a30b1e92514e"


def test_the_validation_split_follows_the_seed_and_the_test_split_does_not():
    one, two = (assign_splits(rule(seed=seed), [200]) for seed in (0, 1))
    assert (one != two).any()
    np.testing.assert_array_equal(one == TEST, two == TEST)


@given(st.integers(0, 39), st.sampled_from([TRAIN, VALID, TEST]))
def test_the_hash_sees_every_change_of_a_split(index, split):
    splits, groups = assign_splits(rule(), [40]), groups_of(rule(), [40])
    changed = splits.copy()
    changed[index] = split
    same = split_hash(changed, groups) == split_hash(splits, groups)
    assert same == (splits[index] == split)


@pytest.mark.parametrize("file_sizes", [[1], [2], [1, 1, 1]])
def test_too_few_trajectories_are_refused(file_sizes):
    with pytest.raises(DataError, match="too few"):
        assign_splits(rule(), file_sizes)


def test_what_repeats_a_test_trajectory_is_left_out_and_copies_share_a_split():
    digests = np.arange(100, dtype=np.uint8).reshape(50, 2)
    digests[3], digests[7], digests[20] = digests[48], digests[48], digests[21]
    splits, groups = divided_by_content(
        rule(test="last_tenth", kept_apart_by="content"), [50], digests
    )
    np.testing.assert_array_equal(np.flatnonzero(splits == 2), np.arange(45, 50))
    np.testing.assert_array_equal(np.flatnonzero(splits == EXCLUDED), [3, 7])
    assert splits[20] == splits[21]
    assert groups[3] == groups[7] == groups[48]
    for one in range(3):
        for other in range(one):
            assert not set(groups[splits == one]) & set(groups[splits == other])
