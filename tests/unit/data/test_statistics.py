"""Streaming statistics against numpy on everything at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ups.data.statistics import merged, moments, pooled
from ups.errors import DataError


def _close(found, values):
    """Whether statistics are those of (value, channel)."""
    whole = values.astype(np.float64)
    np.testing.assert_allclose(found["mean"], whole.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["std"], whole.std(0), rtol=1e-6)
    np.testing.assert_allclose(found["rms"], np.sqrt((whole**2).mean(0)), rtol=1e-9)
    np.testing.assert_array_equal(found["min"], whole.min(0))
    np.testing.assert_array_equal(found["max"], whole.max(0))


@given(st.integers(1, 20), st.sampled_from([0.0, 1.0, 1e4]), st.integers(0, 99))
def test_rows_pool_to_the_statistics_of_the_whole(rows, offset, seed):
    random = np.random.default_rng(seed)
    values = (random.normal(size=(rows, 7, 3, 2)) + offset).astype(np.float32)
    _close(pooled(moments(values)), values.reshape(-1, 2))


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([0.0, 1e4]), st.integers(0, 99))
def test_parts_of_a_row_merge_to_the_row(first, second, offset, seed):
    random = np.random.default_rng(seed)
    values = (random.normal(size=(3, first + second, 5, 2)) + offset).astype(np.float32)
    both = merged(moments(values[:, :first]), moments(values[:, first:]))
    _close(pooled(both), values.reshape(-1, 2))


def test_a_row_longer_than_a_chunk_is_described_whole(monkeypatch):
    monkeypatch.setattr("ups.data.statistics._CHUNK_VALUES", 64)
    values = np.random.default_rng(0).normal(size=(2, 1000, 3)).astype(np.float32)
    _close(pooled(moments(values)), values.reshape(-1, 3))


def test_rows_that_are_not_finite_are_told_apart():
    values = np.zeros((3, 5, 1), np.float32)
    values[1, 2], values[2, 3] = np.nan, np.inf
    np.testing.assert_array_equal(moments(values).finite, [True, False, False])


def test_statistics_of_nothing_are_refused():
    with pytest.raises(DataError, match="no training trajectory"):
        pooled(moments(np.zeros((0, 3, 1), np.float32)))
