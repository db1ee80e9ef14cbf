"""Streaming scores of ensembles, and their tables."""

from __future__ import annotations

import math

import pytest
import torch

from ups.evaluation.ensemble import crps_ensemble, spread_skill
from ups.evaluation.forecasts import Forecast, Part
from ups.evaluation.section_tables import (
    TTC_COLUMNS,
    UNCERTAINTY_COLUMNS,
    ttc_rows,
    uncertainty_rows,
)
from ups.evaluation.uncertainty import EnsembleSums

FIELDS = ("u", "v")
ONE = torch.ones(2, dtype=torch.float64)


def sampled(trajectories=3, members=4, nodes=(7, 5), seed=0):
    """Members and truth from N(0, 1), the point forecast is 0: (members, point, reference)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    return [
        (normal(members, 6, *nodes, 2), torch.zeros(6, *nodes, 2), normal(6, *nodes, 2))
        for _ in range(trajectories)
    ]


def forecast(members, point, reference, chunk=6):
    pieces = zip(members.split(chunk, 1), point.split(chunk), reference.split(chunk), strict=True)
    return Forecast(0, [Part(*piece) for piece in pieces])


def content(values, *, unit=ONE, factor=ONE, chunk=6):
    sums = EnsembleSums(FIELDS, unit, factor)
    for one in values:
        sums.update(forecast(*one, chunk=chunk))
    return sums.content()


def test_scores_equal_those_of_everything_at_once():
    values = sampled()
    members = torch.stack([one[0] for one in values], 1)
    reference = torch.stack([one[2] for one in values])
    found = content(values)
    whole = found["all"]
    assert whole["crps"] == pytest.approx(crps_ensemble(members, reference).mean().item())
    assert whole["spread_skill"] == pytest.approx(spread_skill(members, reference))
    assert whole["mae_deterministic"] == pytest.approx(reference.double().abs().mean().item())
    ratio = spread_skill(members[..., 1], reference[..., 1])
    assert found["fields"]["v"]["spread_skill"] == pytest.approx(ratio)
    step = spread_skill(members[:, :, 3], reference[:, 3])
    assert whole["per_step"]["spread_skill"][3] == pytest.approx(step)
    assert sum(whole["rank_histogram"]) == pytest.approx(1)
    assert len(whole["per_step"]["rank_histogram"]) == 6


def test_how_a_trajectory_is_cut_in_time_changes_nothing():
    values = sampled()
    assert content(values, chunk=2) == content(values, chunk=6)


def test_all_fields_together_do_not_depend_on_units():
    values = sampled()
    scale = torch.tensor([1.0, 1024.0])
    scaled = [tuple(part * scale for part in one) for one in values]
    ours, theirs = content(values), content(scaled, unit=scale.double())
    assert theirs["all"]["crps"] == pytest.approx(ours["all"]["crps"])
    assert theirs["all"]["spread_skill"] == pytest.approx(ours["all"]["spread_skill"])
    assert theirs["fields"]["v"]["crps"] == pytest.approx(1024 * ours["fields"]["v"]["crps"])


def test_a_factor_widens_one_field_alone():
    values = sampled()
    plain = content(values)
    found = content(values, factor=torch.tensor([1.0, 3.0], dtype=torch.float64))
    before, after = (one["fields"]["v"] for one in (plain, found))
    assert after["spread_skill"] == pytest.approx(3 * before["spread_skill"], rel=1e-5)
    assert after["coverage_50"] > before["coverage_50"]
    assert found["fields"]["u"]["crps"] == pytest.approx(plain["fields"]["u"]["crps"], rel=1e-6)


def test_nodes_may_differ_between_trajectories_and_each_counts_alike():
    few, many = sampled(1, nodes=(3,), seed=1)[0], sampled(1, nodes=(300,), seed=2)[0]
    both = content([few, many])["all"]["crps"]
    apart = [content([one])["all"]["crps"] for one in (few, many)]
    assert both == pytest.approx(sum(apart) / 2)


def test_an_ensemble_better_than_the_point_forecast_says_how_sure_that_is():
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(12):
        centre = torch.randn(6, 8, 2, generator=generator)
        noise = 0.1 * torch.randn(5, 6, 8, 2, generator=generator)
        truth = centre + 0.1 * torch.randn(6, 8, 2, generator=generator)
        values.append((centre + noise, torch.zeros(6, 8, 2), truth))
    mean, low, high = content(values)["all"]["intervals"]["crps_minus_mae"]
    assert low < mean < high < 0


def test_a_member_that_blew_up_leaves_no_number_behind():
    values = sampled()
    values[0][0][1, 2] = math.inf
    found = content(values)["all"]
    assert not math.isfinite(found["crps"])
    assert math.isnan(found["coverage_50"])
    assert math.isfinite(found["per_step"]["crps"][1])
    assert math.isnan(found["per_step"]["coverage_90"][2])
    assert "crps_minus_mae" not in found["intervals"]


def test_the_table_has_a_row_for_each_field_before_and_after():
    found = {"before": content(sampled()), "after": content(sampled())}
    rows = uncertainty_rows(found)
    assert [row[0] for row in rows] == [
        "all", "u", "v", "all, calibrated", "u, calibrated", "v, calibrated"
    ]  # fmt: skip
    assert {len(row) for row in rows} == {len(UNCERTAINTY_COLUMNS)}
    assert sum(map(len, max(rows, key=lambda row: sum(map(len, row))))) < 70
    found["before"]["all"]["crps"] = None
    assert uncertainty_rows(found)[0][1] == "-"


def test_the_table_of_a_search_says_what_it_cost():
    reduced = {"mean": 0.1, "median": 0.09, "p90": 0.2, "max": 0.3}
    rows = ttc_rows({
        "nrmse": {"plain": reduced, "chosen": reduced},
        "evaluations": {"plain": 20, "used": 60.0, "multiple": 3.0},
        "gain": {"absolute": 0.01, "relative": 0.1, "low": -0.01, "high": 0.03},
        "gain_per_compute": 0.05, "changed": None,
    })  # fmt: skip
    table = {row[0]: row[1:] for row in rows}
    assert {len(row) for row in rows} == {len(TTC_COLUMNS)}
    assert table["evaluations"] == ("20", "60")
    assert table["gain in nRMSE"] == ("", "0.01 (-0.01 to 0.03)")
    assert table["for each rollout's worth"] == ("", "5 %")
    assert table["steps changed"] == ("", "-")
