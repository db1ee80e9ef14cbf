"""A difference is called real only where the paired bootstrap says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from boards import PROTOCOL, enter, judged

from ups.errors import UsageError
from ups.leaderboard import compare as pairs


def with_errors(name, values):
    report = judged(name)
    listed = [None if np.isnan(value) else float(value) for value in values]
    row = replace(report.rows[0], per_trajectory={"nrmse": listed})
    return replace(report, rows=(row, *report.rows[1:]))


def compared(folder, ours, theirs):
    found = enter(folder, with_errors("ours", ours), with_errors("theirs", theirs))
    rows = [(entry, entry.rows[0]) for entry in found]
    return pairs.compare(*rows)


@pytest.fixture
def difficulty():
    """Errors of 40 trajectories that differ far more than two models do."""
    return np.exp(np.random.default_rng(0).standard_normal(40))


def test_a_small_gain_on_every_trajectory_is_real_though_the_spread_is_large(tmp_path, difficulty):
    result = compared(tmp_path, 0.95 * difficulty, difficulty)
    assert result.is_real
    assert result.won == 1.0
    assert result.difference == pytest.approx(-0.05 * difficulty.mean())
    assert result.low < result.difference < result.high < 0
    assert result.verdict.startswith("The difference is real: ours (")
    assert "by 5.0%" in result.verdict


def test_noise_is_not_called_a_difference(tmp_path, difficulty):
    noise = 1 + 0.1 * np.random.default_rng(2).standard_normal(40)
    result = compared(tmp_path, difficulty, noise * difficulty)
    assert result.is_real is False
    assert result.low < 0 < result.high
    assert "contains zero" in result.verdict


def test_a_trajectory_that_blew_up_is_lost_and_leaves_no_verdict(tmp_path, difficulty):
    ours = difficulty.copy()
    ours[:3] = np.nan
    result = compared(tmp_path, ours, 2 * difficulty)
    assert result.is_real is None
    assert result.blown_up == (3, 0)
    assert result.won == pytest.approx(37 / 40)
    assert "blew up on 3" in result.verdict
    assert result.to_dict()["verdict"] == result.verdict


def test_an_entry_against_itself_is_no_difference(tmp_path, difficulty):
    (entry,) = enter(tmp_path, with_errors("same", difficulty))
    result = pairs.compare((entry, entry.rows[0]), (entry, entry.rows[0]))
    assert result.is_real is False
    assert result.won == 0


def test_other_protocols_are_not_compared_and_the_difference_is_named(tmp_path):
    other = replace(PROTOCOL, history=1, horizon=40)
    found = enter(tmp_path, judged("a"), judged("b", protocol=other))
    with pytest.raises(UsageError, match=r"differ in history \(10 and 1\), horizon \(31 and 40\)"):
        pairs.compare(*((one, one.rows[0]) for one in found))


def test_other_trajectories_or_none_are_refused(tmp_path):
    bare = replace(judged("b"), trajectories=tuple(range(1, 41)))
    first, second = enter(tmp_path, judged("a"), bare)
    with pytest.raises(UsageError, match="same trajectories"):
        pairs.compare((first, first.rows[0]), (second, second.rows[0]))
    empty = replace(first.rows[0], per_trajectory={})
    with pytest.raises(UsageError, match="no values of single trajectories"):
        pairs.compare((first, empty), (first, first.rows[0]))
    with pytest.raises(UsageError, match="did you mean 'nrmse'"):
        pairs.compare((first, first.rows[0]), (first, first.rows[0]), "nrsme")


def test_a_row_of_an_entry_is_named_after_a_colon(tmp_path):
    known = enter(tmp_path, judged("a"))
    entry, row = pairs.find_row(known, f"{known[0].id[:8]}:persistence")
    assert (entry, row.name) == (known[0], "persistence")
    result = pairs.compare((entry, entry.rows[0]), (entry, row))
    assert result.is_real
    assert result.second.startswith("persistence (")
    with pytest.raises(UsageError, match="did you mean 'persistence'"):
        pairs.find_row(known, f"{known[0].id}:persistance")
