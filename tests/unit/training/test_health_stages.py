"""Health gates on models of every stage and discretisation: what lives passes."""

from __future__ import annotations

import pytest
from tiny_runs import STAGE, small_experiment

from ups.training.health import check_health
from ups.training.run import train


@pytest.mark.parametrize(
    ("tasks", "stages"),
    [
        (("burgers1d",), ("codec", "operator", "diff_residual", "consistency_distill")),
        (("darcy2d",), ("codec", "steady_prior")),
        (("darcy2d",), ("codec", "operator")),
        (("particles_advect",), ("codec", "operator")),
        (("burgers1d", "darcy2d_mesh"), ("codec", "operator")),
    ],
)
def test_living_models_of_every_stage_and_discretisation_pass(small, tasks, stages):
    small(*tasks)
    changes = {name: {"steps": 8} for name in ("operator", "steady_prior")}
    changes["consistency_distill"] = STAGE | {"steps": 2, "ensemble": 2, "teacher_steps": 2}
    run = train(small_experiment(*tasks, stages=changes), stages)
    found = {gate.name: gate for gate in check_health(run, tasks[0]).gates}
    for name in ("dead_parameters", "split", "normalisation"):
        assert found[name].passed, found[name]
    assert (run / ("health.json" if len(tasks) == 1 else f"health-{tasks[0]}.json")).is_file()
