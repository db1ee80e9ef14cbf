"""Intervals over seeds."""

from __future__ import annotations

import math

import pytest

from ups.pipeline.seeds import over_seeds, relative_change


def test_the_interval_is_students():
    found = over_seeds([1.0, 2.0, 3.0])
    # s = 1, t(0.975, 2) = 4.302653
    half = 4.302653 / math.sqrt(3)
    assert (found.mean, found.number) == (2.0, 3)
    assert found.low == pytest.approx(2 - half, rel=1e-6)
    assert found.high == pytest.approx(2 + half, rel=1e-6)
    assert not found.is_clear


def test_one_seed_has_no_interval_and_a_lost_seed_no_mean():
    assert over_seeds([0.5]).low is None
    assert over_seeds([0.5, None]) is None
    assert over_seeds([0.5, math.inf]) is None
    assert over_seeds([]) is None


def test_a_change_is_paired_by_seed():
    """Seeds differ by a factor of ten, the change is 20 % for each: paired it is certain."""
    whole = [0.01, 0.1, 1.0]
    found = relative_change([1.2 * value for value in whole], whole)
    assert found.mean == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2)
    assert found.is_clear
    one = relative_change([0.3], [0.2])
    assert one.mean == pytest.approx(0.5)
    assert one.low is None
    assert relative_change([None, 0.3], [0.2, 0.2]) is None
