"""Ensemble scores against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from ups.evaluation.ensemble import (
    crps_ensemble,
    ensemble_variance,
    spread_skill,
    squared_error_of_mean,
)


def normals(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def gaussian_crps(z):
    """CRPS of the standard normal distribution at z, Gneiting and Raftery 2007, equation 21."""
    normal = torch.distributions.Normal(0.0, 1.0)
    density = torch.exp(normal.log_prob(z))
    return z * (2 * normal.cdf(z) - 1) + 2 * density - 1 / math.sqrt(math.pi)


def test_many_normal_members_have_the_closed_form():
    z = torch.tensor([-2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    found = crps_ensemble(normals(40000, 1).expand(-1, 4), z)
    torch.testing.assert_close(found, gaussian_crps(z), rtol=0, atol=0.02)


@pytest.mark.parametrize("members", [2, 3, 10])
def test_the_fair_score_does_not_depend_on_the_number_of_members(members):
    """Averaged over ensembles it is the score of the distribution, however few members."""
    z = torch.tensor(0.5, dtype=torch.float64)
    found = crps_ensemble(normals(members, 200000), z.expand(200000)).mean()
    assert found.item() == pytest.approx(gaussian_crps(z).item(), abs=0.005)


def test_three_members_by_hand():
    members = torch.tensor([[0.0], [4.0], [1.0]])
    # mean |x - 2| = (2 + 2 + 1) / 3; mean of |x - x'| over pairs = (4 + 1 + 3) / 3, half of it
    assert crps_ensemble(members, torch.tensor([2.0])).item() == pytest.approx(5 / 3 - 4 / 3)


def test_equal_members_give_the_absolute_error():
    truth, members = normals(7, 3), normals(7, 3, seed=1)
    found = crps_ensemble(members.expand(5, 7, 3), truth)
    torch.testing.assert_close(found, (members - truth).abs())


@pytest.mark.parametrize("members", [2, 8])
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_spread_over_skill_is_the_ratio_of_deviations(members, width):
    """Truth drawn as the members are: 1. The error of the mean counts the truth's scatter too."""
    truth, drawn = normals(100000), width * normals(members, 100000, seed=1)
    skill = math.sqrt(1 + width**2 / members)
    spread = math.sqrt((members + 1) / members) * width
    assert spread_skill(drawn, truth) == pytest.approx(spread / skill, rel=0.01)
    if width == 1:
        assert spread / skill == pytest.approx(1)


def test_parts_of_the_ratio():
    members, truth = torch.tensor([[1.0, 2.0], [3.0, 2.0]]), torch.tensor([0.0, 1.0])
    assert ensemble_variance(members).tolist() == [2.0, 0.0]
    assert squared_error_of_mean(members, truth).tolist() == [4.0, 1.0]


def test_what_is_not_an_ensemble_is_refused():
    with pytest.raises(ValueError, match="at least 2 members, found 1"):
        crps_ensemble(normals(1, 3), normals(3))
    with pytest.raises(ValueError, match=r"members \(2, 3\) and reference \(4,\) do not match"):
        spread_skill(normals(2, 3), normals(4))
