"""Finer truth than the run was trained on: found, decoded at, and compared with interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_runs import small_experiment

import ups
from ups import paths
from ups.data.convert import Recipe, convert
from ups.data.generate import generate
from ups.errors import DataError, UsageError
from ups.evaluation.context import open_context
from ups.evaluation.evaluate import evaluate
from ups.evaluation.super_resolution import (
    HEADS,
    _carried_over,
    _matrix,
    finer_versions,
    super_resolution_rows,
    super_resolution_section,
)
from ups.registry import load_card


@pytest.fixture
def versions(home):
    """advection1d on 32 points for training, and the same on 64 and 128."""
    card = load_card("advection1d")
    raw = generate(
        card, parameters={"beta": 1.0}, num_trajectories=20, seed=0, points=128, frames=6,
        out_dir=paths.raw_dir("advection1d"), workers=1,
    )  # fmt: skip
    for stride, name in ((1, "finest"), (2, "fine"), (4, "coarse")):
        convert(card, [raw], recipe=Recipe(stride_x=stride), version=name)


def run_on(version):
    task = {"dataset": "advection1d", "version": version}
    return ups.train(small_experiment(task))


def test_a_band_limited_wave_is_carried_over_exactly_and_a_cubic_polynomial_too():
    coarse, fine = (np.arange(n) / n for n in (16, 64))
    wave = torch.from_numpy(np.sin(2 * np.pi * 5 * coarse) + np.cos(2 * np.pi * 2 * coarse))
    found = _carried_over(wave[None, None, :, None], [_matrix(coarse, fine, True)])
    expected = torch.from_numpy(np.sin(2 * np.pi * 5 * fine) + np.cos(2 * np.pi * 2 * fine))
    torch.testing.assert_close(found[0, 0, :, 0], expected)
    inside = np.linspace(0, 1, 41)
    cubic = torch.from_numpy(np.linspace(0, 1, 11) ** 3)
    found = _carried_over(
        cubic[None, None, :, None], [_matrix(np.linspace(0, 1, 11), inside, False)]
    )
    torch.testing.assert_close(found[0, 0, :, 0], torch.from_numpy(inside**3))


def test_both_factors_are_found_and_judged_beside_interpolation_and_floor(versions):
    context = open_context(run_on("coarse"))
    assert finer_versions(context) == {2: "fine", 4: "finest"}
    section = super_resolution_section(context)
    content = section.content
    assert [one["space"] for one in content["factors"]] == [[64], [128]]
    assert content["interpolant"] == ["trigonometric"]
    assert content["missing"] == []
    for one in content["factors"]:
        nrmse = {name: found["nrmse"]["mean"] for name, found in one["metrics"].items()}
        assert nrmse["floor"] < 0.5 * nrmse["decoder"], "waves of a few lengths survive the codec"
        assert len(one["per_step"]["decoder"]) == content["steps"]
    rows = super_resolution_rows(content)
    assert [row[1] for row in rows] == ["1x", "2x", "4x"]
    assert all(len(row) == len(HEADS) for row in rows)


def test_the_own_row_is_what_evaluation_finds(versions):
    context = open_context(run_on("coarse"))
    own = super_resolution_section(context, (2,)).content["own"]["metrics"]["nrmse"]["mean"]
    assert evaluate(context).report.headline == pytest.approx(own, rel=1e-6)


def test_named_versions_and_what_cannot_be(versions, small):
    context = open_context(run_on("coarse"))
    content = super_resolution_section(context, versions=["finest"]).content
    assert [one["factor"] for one in content["factors"]] == [4]
    with pytest.raises(DataError, match="no version of the same raw data is 3x"):
        super_resolution_section(context, (3,))
    fine = open_context(run_on("fine"))
    with pytest.raises(DataError, match="not the trajectories"):
        super_resolution_section(fine, versions=["coarse"])
    small("darcy2d_mesh")
    mesh = open_context(ups.train(small_experiment("darcy2d_mesh")))
    with pytest.raises(UsageError, match="compares grids"):
        super_resolution_section(mesh)
