"""Streaming statistics against numpy on everything at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ups.data.statistics import RunningStatistics
from ups.errors import DataError


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any),
    st.sampled_from([0.0, 1.0, 1e4]),
    st.integers(0, 99),
)
def test_blocks_of_any_size_give_the_statistics_of_the_whole(sizes, offset, seed):
    random = np.random.default_rng(seed)
    blocks = [(random.normal(size=(n, 3, 2)) + offset).astype(np.float32) for n in sizes]
    running = RunningStatistics()
    for block in blocks:
        running.update(block)
    whole = np.concatenate(blocks).reshape(-1, 2).astype(np.float64)
    found = running.result()
    np.testing.assert_allclose(found["mean"], whole.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["std"], whole.std(0), rtol=1e-6)
    np.testing.assert_allclose(found["rms"], np.sqrt((whole**2).mean(0)), rtol=1e-9)
    np.testing.assert_array_equal(found["min"], whole.min(0))
    np.testing.assert_array_equal(found["max"], whole.max(0))


def test_statistics_of_nothing_are_refused():
    running = RunningStatistics()
    running.update(np.zeros((0, 3, 1), np.float32))
    with pytest.raises(DataError, match="no training trajectory"):
        running.result()
