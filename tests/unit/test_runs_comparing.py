"""Settings that differ, and differences between runs that are real."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ups import runs
from ups.config.schema import Experiment
from ups.evaluation.protocol import Protocol
from ups.evaluation.report import Report, Row, write_report
from ups.evaluation.reporting.side_by_side import outcomes
from ups.runs.comparing import differences
from ups.runs.summary import summarise

PROTOCOL = Protocol(
    dataset="burgers1d", version="a", split="test", split_hash="5", data_sha256="d",
    resolution=(256,), domain=((0.0, 1.0),), stride_x=1, stride_t=1, dt=0.05, stride=1, history=1,
    horizon=3, num_trajectories=4,
)  # fmt: skip


def test_only_what_differs_is_listed_and_lists_are_one_value():
    one = {"a": 1, "b": {"c": [1, 2], "d": 3}, "e": "same"}
    two = {"a": 1, "b": {"c": [1, 3]}, "e": "same", "f": {"g": None}}
    assert differences([one, two]) == {
        "b.c": ([1, 2], [1, 3]), "b.d": (3, None), "f.g": (None, None),
    }  # fmt: skip
    assert differences([one, one]) == {}


def made(home, name, errors, **protocol):
    run = runs.create_run(Experiment.model_validate({
        "name": name, "data": {"dataset": "burgers1d", "version": "a"},
    }), stages=["operator"])  # fmt: skip
    mean = sum(errors) / len(errors)
    model = Row(name="model", kind="model", metrics={"nrmse": {"mean": mean}},
                per_trajectory={"nrmse": errors})  # fmt: skip
    floor = Row(name="persistence", kind="trivial", metrics={"nrmse": {"mean": 1.0}})
    write_report(Report(
        run={"name": name}, protocol=replace(PROTOCOL, **protocol), rows=(model, floor),
        trajectories=(0, 1, 2, 3),
    ), run)  # fmt: skip
    return run


def test_differences_are_paired_by_trajectory_and_never_across_protocols(home):
    first = made(home, "first", [0.1, 0.2, 0.3, 0.4])
    better = made(home, "better", [0.09, 0.19, 0.29, 0.39])
    other = made(home, "other", [0.5, 0.5, 0.5, 0.5], horizon=2)
    folders = [first, better, other]
    found = outcomes(folders, [summarise(run) for run in folders])
    here = f"burgers1d {PROTOCOL.id[:6]}"
    assert found[f"{here} nRMSE mean"] == pytest.approx((0.25, 0.24, None))
    assert found[f"{here} / trivial"] == pytest.approx((0.25, 0.24, None))
    low, middle, high = (
        found[f"{here} {name}"][1] for name in ("difference low", "difference", "difference high")
    )
    assert (low, middle, high) == pytest.approx((-0.01, -0.01, -0.01))
    assert found[f"{here} difference"][0] is None
    there = f"burgers1d {replace(PROTOCOL, horizon=2).id[:6]}"
    assert found[f"{there} nRMSE mean"][:2] == (None, None)
    assert f"{there} difference" not in found
