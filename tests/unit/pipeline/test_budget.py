"""Budgets: what they say, and how many steps they make of it."""

from __future__ import annotations

import pytest
from tiny_runs import small_experiment

from ups import paths, runs
from ups.errors import ConfigError, UsageError
from ups.pipeline.budget import (
    Budget,
    StageTiming,
    Timing,
    fill,
    fit_to,
    flops_of,
    measure,
    parse_budget,
    with_steps,
)
from ups.training.session import open_session


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("120s", "seconds", 120.0), ("1.5min", "seconds", 90.0), ("2h", "seconds", 7200.0),
        ("3000steps", "steps", 3000.0), ("1step", "steps", 1.0), ("5e12flop", "flops", 5e12),
        ("5e12flops", "flops", 5e12), ("2 TFLOP", "flops", 2e12),
    ],
)  # fmt: skip
def test_budgets_are_read(text, kind, amount):
    assert parse_budget(text) == Budget(kind, amount, text)


@pytest.mark.parametrize("text", ["120", "s", "-3s", "0steps", "3 apples", "1e400s", "", "1.2.3h"])
def test_what_is_no_budget_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="expected a positive number") as caught:
        parse_budget(text)
    assert "120s" in str(caught.value.hint)


def test_a_stage_keeps_its_number_of_validations_whatever_its_length():
    experiment = small_experiment("advection1d", stages={"operator": {
        "steps": 1000, "validate_every": 100, "schedule": {"warmup_steps": 100}}})  # fmt: skip
    stage = with_steps(experiment, {"operator": 300}).stages.operator
    assert (stage.steps, stage.validate_every, stage.schedule.warmup_steps) == (300, 30, 15)
    fewer = with_steps(experiment, {"operator": 300}, validations=3).stages.operator
    assert fewer.validate_every == 100


def test_a_curriculum_cannot_be_scaled():
    experiment = small_experiment(
        "advection1d", stages={"operator": {"curriculum": [{"steps": 5}]}}
    )
    with pytest.raises(ConfigError, match=r"stages\.operator\.curriculum"):
        with_steps(experiment, {"operator": 300})


def test_wall_time_is_filled_with_steps_after_codec_cache_and_validations():
    experiment = small_experiment("advection1d", stages={
        "codec": {"steps": 100, "validate_every": 50},
        "operator": {"steps": 1000, "validate_every": 100}})  # fmt: skip
    timing = Timing(3.0, {"codec": StageTiming(0.01, 0.5), "operator": StageTiming(0.05, 0.2)})
    # 3 s rest, 100 codec steps at 10 ms and 2 validations of 0.5 s, 10 validations of 0.2 s.
    budget = parse_budget("27s")
    found = fill(experiment, timing, budget, {"operator": 1000})
    assert found.stages.operator.steps == round((27 - 3 - 1 - 1 - 2) / 0.05)
    assert found.stages.operator.validate_every == found.stages.operator.steps / 10
    assert found.stages.codec == experiment.stages.codec


def test_stages_after_the_codec_share_the_time_as_the_config_has_it():
    experiment = small_experiment("advection1d")
    timing = Timing(
        0.0, {"operator": StageTiming(0.1, 0.0), "diff_residual": StageTiming(0.2, 0.0)}
    )
    found = fill(experiment, timing, parse_budget("80s"), {"operator": 100, "diff_residual": 50})
    assert found.stages.operator.steps == 400
    assert found.stages.diff_residual.steps == 200


def test_a_budget_that_the_codec_uses_up_is_refused_with_one_that_would_do():
    experiment = small_experiment("advection1d")
    timing = Timing(30.0, {"operator": StageTiming(0.1, 0.0)})
    with pytest.raises(UsageError, match="codec, cache and validations take 30 s") as caught:
        fill(experiment, timing, parse_budget("40s"), {"operator": 100})
    assert str(caught.value.hint) == "--budget 60s or more"


def test_steps_and_operations_are_met(small):
    small("advection1d")
    experiment = small_experiment("advection1d")
    assert fit_to(None, experiment) is experiment
    assert fit_to(parse_budget("17steps"), experiment).stages.operator.steps == 17
    session = open_session(experiment)
    codec = flops_of(session, ["codec"])
    each = flops_of(session, ["operator"]) / experiment.stages.operator.steps
    text = f"{codec + 60 * each:.6e}flop"
    assert fit_to(parse_budget(text), experiment).stages.operator.steps == 60


def test_the_probe_times_every_stage_and_leaves_nothing_behind(small, home):
    small("advection1d")
    experiment = small_experiment("advection1d")
    timing = measure(experiment)
    assert timing.rest > 0
    assert timing.stages["operator"].step > 0
    assert not runs.list_runs()
    assert not paths.caches_dir().exists()
    assert not [path.name for path in home.iterdir() if path.name.startswith(".scratch")]
