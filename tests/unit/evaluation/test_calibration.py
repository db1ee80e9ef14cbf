"""Ranks, coverage and calibration error on distributions whose answers are known; the gate."""

from __future__ import annotations

import math

import pytest
import torch

from ups.evaluation.calibration import spread_gate
from ups.evaluation.ensemble import (
    LEVELS,
    calibration_error,
    coverage,
    ensemble_variance,
    rank_histogram,
    ratio_of,
    reliability,
    squared_error_of_mean,
    widened,
)

POINTS = 100_000


def normals(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_ranks_by_hand():
    members = torch.tensor([[1.0, 1.0, 5.0], [3.0, 3.0, 5.0]])
    truth = torch.tensor([2.0, 9.0, 5.0])  # between, above, equal to both
    found = rank_histogram(members, truth)
    torch.testing.assert_close(
        found, torch.tensor([1 / 3, 1 + 1 / 3, 1 + 1 / 3], dtype=torch.float64) / 3
    )


@pytest.mark.parametrize("members", [2, 5, 16])
def test_truth_drawn_like_the_members_is_calibrated_however_many_there_are(members):
    found = rank_histogram(normals(members, POINTS), normals(POINTS, seed=1))
    flat = torch.full((members + 1,), 1 / (members + 1), dtype=torch.float64)
    torch.testing.assert_close(found, flat, rtol=0, atol=0.005)
    torch.testing.assert_close(
        reliability(found), torch.tensor(LEVELS, dtype=torch.float64), rtol=0, atol=0.01
    )
    assert coverage(found, 0.5).item() == pytest.approx(0.5, abs=0.01)
    assert coverage(found, 0.9).item() == pytest.approx(0.9, abs=0.01)
    assert calibration_error(found).item() < 0.005


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_coverage_of_a_wrong_width_is_that_of_the_normal_distribution(width):
    """Central interval of N(0, width), truth from N(0, 1)."""
    found = rank_histogram(width * normals(199, 20_000), normals(20_000, seed=1))
    normal = torch.distributions.Normal(0.0, 1.0)
    for level in (0.5, 0.9):
        end = width * normal.icdf(torch.tensor((1 + level) / 2))
        expected = (normal.cdf(end) - normal.cdf(-end)).item()
        assert coverage(found, level).item() == pytest.approx(expected, abs=0.01)


def test_no_spread_at_all_has_the_error_that_the_docstring_says():
    truth = normals(20_000)
    found = calibration_error(rank_histogram(torch.zeros(199, 20_000), truth)).item()
    assert found == pytest.approx(sum(abs(level - 0.5) for level in LEVELS) / 19, abs=0.005)
    assert round(found, 2) == 0.24


def test_a_biased_ensemble_has_its_heap_at_one_end():
    found = rank_histogram(normals(4, POINTS) - 10, normals(POINTS, seed=1))
    torch.testing.assert_close(found, torch.tensor([0.0, 0, 0, 0, 1], dtype=torch.float64))


def test_ranks_do_not_depend_on_the_order_of_members_and_add_up_to_one():
    members, truth = normals(5, 3, 40), normals(3, 40, seed=1)
    found = rank_histogram(members, truth)
    assert torch.equal(found, rank_histogram(members.flip(0), truth))
    torch.testing.assert_close(found.sum(-1), torch.ones(3, dtype=torch.float64))


def test_a_member_that_is_not_finite_has_no_ranks():
    members = normals(3, 2, 10)
    members[1, 0, 4] = math.nan
    found = rank_histogram(members, normals(2, 10, seed=1))
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


def test_widening_keeps_the_mean_and_makes_spread_equal_skill():
    members, truth = 0.3 * normals(8, POINTS), normals(POINTS, seed=1)

    def ratio(values):
        return ratio_of(ensemble_variance(values).mean().item(),
                        squared_error_of_mean(values, truth).mean().item(), 8)  # fmt: skip

    wide = widened(members, 1 / ratio(members))
    torch.testing.assert_close(wide.mean(0), members.mean(0))
    assert ratio(members) == pytest.approx(0.3, abs=0.02)
    assert ratio(wide) == pytest.approx(1)


@pytest.mark.parametrize(
    ("ratios", "passed", "worst"),
    [
        ({"u": 1.0, "v": 1.2}, True, 1.2),
        ({"u": 1.3, "v": 0.5}, False, 0.5),
        ({"u": 0.9, "v": 1.3}, False, 1.3),
        ({"u": 1.0, "v": None}, False, None),
        ({"u": 0.0}, False, 0.0),
    ],
)
def test_the_gate_judges_the_worst_field(ratios, passed, worst):
    gate = spread_gate(ratios)
    assert (gate.name, gate.kind) == ("spread_skill", "calibration")
    assert (gate.passed, gate.value) == (passed, worst)
    assert next(name for name, ratio in ratios.items() if ratio == worst) in gate.detail
