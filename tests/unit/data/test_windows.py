"""Windows: in bounds, a function of seed and step alone, and equal to plain slicing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ups.data.windows import Shards, WindowSampler, gather
from ups.errors import DataError

samplers = st.builds(
    dict,
    num_trajectories=st.integers(1, 50),
    num_frames=st.integers(1, 60),
    length=st.integers(1, 8),
    stride=st.integers(1, 5),
    batch_size=st.integers(1, 40),
    early_bias=st.floats(0.2, 5),
    seed=st.integers(0, 2**40),
)


@given(samplers, st.integers(0, 10**9))
def test_every_window_lies_inside_its_trajectory(options, step):
    options["num_frames"] += (options["length"] - 1) * options["stride"]
    trajectories, starts = WindowSampler(**options).draw(step)
    assert len(trajectories) == len(starts) == options["batch_size"]
    assert trajectories.min() >= 0
    assert trajectories.max() < options["num_trajectories"]
    last = starts + (options["length"] - 1) * options["stride"]
    assert starts.min() >= 0
    assert last.max() < options["num_frames"]


@given(samplers.filter(lambda options: options["length"] > 1), st.data())
def test_a_window_that_does_not_fit_is_refused(options, data):
    span = (options["length"] - 1) * options["stride"]
    frames = data.draw(st.integers(1, span))
    with pytest.raises(DataError, match="does not fit"):
        WindowSampler(**(options | {"num_frames": frames}))


def test_no_trajectory_is_refused():
    with pytest.raises(DataError, match="no trajectory"):
        WindowSampler(num_trajectories=0, num_frames=5, length=1)


def sampler(**changes):
    options = {"num_trajectories": 1000, "num_frames": 100, "length": 2, "batch_size": 64}
    return WindowSampler(**(options | changes))


def test_a_batch_depends_on_seed_and_step_alone():
    one = sampler(seed=3)
    for step in (5, 0, 7):
        one.draw(step)
    np.testing.assert_array_equal(one.draw(5), sampler(seed=3).draw(5))
    assert not np.array_equal(one.draw(5), one.draw(6))
    assert not np.array_equal(one.draw(5), sampler(seed=4).draw(5))


def test_every_place_is_drawn():
    _, starts = sampler(num_frames=6, batch_size=2000, early_bias=2.0).draw(0)
    assert set(starts.tolist()) == set(range(5))


@pytest.mark.parametrize(("bias", "share"), [(1.0, 0.1), (2.0, 0.1**0.5), (4.0, 0.1**0.25)])
def test_early_bias_draws_the_first_tenth_as_often_as_it_says(bias, share):
    """P(places * u^b < places / 10) = (1/10)^(1/b)."""
    _, starts = sampler(num_frames=101, batch_size=20000, early_bias=bias).draw(0)
    assert (starts < 10).mean() == pytest.approx(share, abs=0.01)


def frames_of(trajectories, frames=12):
    return np.arange(trajectories * frames * 6, dtype=np.float32).reshape(-1, frames, 3, 2)


@given(st.data(), st.integers(1, 4), st.integers(1, 3))
def test_gathering_is_slicing(data, length, stride):
    frames = frames_of(5)
    starts = st.integers(0, 12 - (length - 1) * stride - 1)
    rows = data.draw(st.lists(st.tuples(st.integers(0, 4), starts), min_size=1, max_size=6))
    trajectories, first = np.array(rows).T
    found = gather(frames, trajectories, first, length, stride)
    for window, (trajectory, start) in zip(found, rows, strict=True):
        for index in range(length):
            np.testing.assert_array_equal(window[index], frames[trajectory, start + index * stride])


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=8),
)
def test_shards_are_read_as_one_array(sizes, draws):
    whole = frames_of(sum(sizes))
    shards = Shards(np.split(whole, np.cumsum(sizes)[:-1]))
    trajectories = np.array(draws) % len(whole)
    starts = np.array(draws) // 7 % 8
    assert shards.shape == whole.shape
    np.testing.assert_array_equal(shards.whole(), whole)
    np.testing.assert_array_equal(
        shards.gather(trajectories, starts, 3, 2), gather(whole, trajectories, starts, 3, 2)
    )
