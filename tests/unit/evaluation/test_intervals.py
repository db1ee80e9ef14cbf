"""Bootstrap intervals cover what they should, and pair what belongs together."""

from __future__ import annotations

import numpy as np
import pytest

from ups.evaluation.intervals import bootstrap, paired_difference


def test_intervals_cover_the_true_mean_about_as_often_as_they_say():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = bootstrap(random.exponential(2.0, 60), resamples=300)["mean"]
        hits += low <= 2.0 <= high
    assert 0.86 < hits / 200 < 0.99


def test_an_interval_of_the_mean_agrees_with_the_normal_one():
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    low, high = bootstrap(values, resamples=4000)["mean"]
    half = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_intervals_hold_their_statistic_and_repeat():
    values = np.random.default_rng(2).gamma(1.0, 1.0, 50)
    found = bootstrap(values)
    truth = {"mean": values.mean(), "median": np.median(values), "p90": np.quantile(values, 0.9)}
    for name, (low, high) in found.items():
        assert low <= truth[name] <= high
    assert found == bootstrap(values)


@pytest.mark.parametrize("values", [[1.0], [1.0, np.nan], [1.0, np.inf, 2.0]])
def test_there_is_no_interval_of_one_trajectory_or_of_a_rollout_that_blew_up(values):
    assert bootstrap(np.array(values)) == {}


def test_a_paired_difference_sees_what_two_intervals_do_not():
    random = np.random.default_rng(3)
    hard = random.exponential(1.0, 100)
    ours, theirs = hard + 0.02, hard + 0.01 * random.normal(size=100)
    mean, low, high = paired_difference(ours, theirs)
    assert low < mean < high
    assert low > 0, "always a little worse"
    a, b = bootstrap(ours)["mean"], bootstrap(theirs)["mean"]
    assert a[0] < b[1], "apart they cannot be told from one another"


def test_unpaired_values_are_refused():
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(np.ones(3), np.ones(4))
