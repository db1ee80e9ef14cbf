"""Several tasks in one run, from the words of a config to an evaluation of each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_runs import losses_of, small_experiment

from ups import checkpoint as checkpoints
from ups import load_run, runs
from ups.cache.format import list_caches
from ups.config.schema import DataConfig, Experiment
from ups.errors import CheckpointError, DataError, UsageError
from ups.evaluation.context import open_context
from ups.evaluation.evaluate import evaluate
from ups.evaluation.reporting.examples import save_examples
from ups.evaluation.reporting.page import write_page
from ups.registry import load_card
from ups.training import run as training
from ups.training.run import check_order
from ups.training.session import family_of, open_session

THREE = ("burgers1d", "advection1d", "reaction_diffusion2d")


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ("burgers1d", ["burgers1d"]),
        (["burgers1d", "darcy2d"], ["burgers1d", "darcy2d"]),
        ({"dataset": "burgers1d", "name": "b", "stride": 2}, ["b"]),
        (["burgers1d", {"dataset": "burgers1d", "name": "slow"}], ["burgers1d", "slow"]),
    ],
)  # fmt: skip
def test_tasks_may_be_named_in_several_ways(given, keys):
    assert [task.key for task in DataConfig.model_validate({"task": given}).tasks] == keys


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "either one `dataset` or a list `task`"),
        ({"dataset": "burgers1d", "task": ["darcy2d"]}, "either one `dataset` or a list `task`"),
        ({"task": ["burgers1d", "burgers1d"]}, "names must differ"),
        ({"task": ["burgers1d"], "stride": 2}, "stride: is of one `dataset`"),
    ],
)
def test_data_are_named_in_one_way(data, says):
    with pytest.raises(ValueError, match=says):
        DataConfig.model_validate(data)


def test_each_kind_of_dataset_has_its_family():
    families = {key: family_of(load_card(key)) for key in (*THREE, "darcy2d_mesh")}
    assert families == {"burgers1d": "grid1d", "advection1d": "grid1d",
                        "reaction_diffusion2d": "grid2d", "darcy2d_mesh": "mesh"}  # fmt: skip


def test_a_session_writes_down_which_versions_it_opened(small):
    small("burgers1d", "darcy2d")
    session = open_session(small_experiment("burgers1d", "darcy2d"))
    versions = [task.version for task in session.experiment.data.tasks]
    assert "latest" not in versions
    assert open_session(session.experiment).experiment == session.experiment
    assert session.task("darcy2d").is_steady
    assert not session.is_steady
    assert session.stages == ("codec", "operator")
    with pytest.raises(UsageError, match=r"which task\? This experiment has burgers1d, darcy2d"):
        session.task()


def test_a_stride_that_does_not_fit_is_refused(small):
    small("burgers1d")
    with pytest.raises(DataError, match=r"burgers1d/.*stride 9"):
        open_session(small_experiment({"dataset": "burgers1d", "stride": 9}))


@pytest.mark.parametrize(
    ("tasks", "stages", "says"),
    [
        (("burgers1d",), ("operator", "codec"), "operator must come once, and after codec"),
        (("burgers1d",), ("codec", "codec"), "codec must come once, and after nothing"),
        (("burgers1d",), ("steady_prior",), "burgers1d depends on time"),
        (("darcy2d",), ("diff_residual",), "darcy2d has no time to step through"),
    ],
)
def test_stages_in_an_order_that_cannot_work_are_refused(small, tasks, stages, says):
    small(*tasks)
    session = open_session(small_experiment(*tasks))
    with pytest.raises(UsageError, match=says):
        check_order(session, stages)


@pytest.fixture
def three(small):
    small(*THREE)
    return training.train(small_experiment(*THREE))


def test_three_tasks_share_one_operator_and_are_judged_one_by_one(three):
    for name in THREE:
        for key in ("nrmse", "nrmse_median", "persistence_ratio"):
            values = losses_of(three, "operator", f"{name}/{key}")
            assert len(values) == 4
            assert np.isfinite(values).all()
    averages = losses_of(three, "operator", "valid_nrmse")
    each = np.array([losses_of(three, "operator", f"{name}/nrmse") for name in THREE])
    np.testing.assert_allclose(averages, each.mean(0), rtol=1e-6)
    found = checkpoints.load(runs.checkpoint_path(three, "operator"))
    assert list(found.tasks) == list(THREE)
    assert list(found.modules["operator"].layouts) == list(THREE)
    assert set(found.identity.earlier) == {"codec"}
    assert len(list_caches()) == 3

    with pytest.raises(CheckpointError, match="holds several tasks"):
        load_run(three)
    surrogate = load_run(three, task="advection1d")
    future = surrogate.predict(np.ones((32, 1), np.float32), steps=2, beta=0.4)
    np.testing.assert_allclose(future, 1, atol=1e-3)

    for name in THREE:
        result = evaluate(open_context(three, task=name))
        assert result.report.run["task"] == name
        assert result.report.protocol.dataset == name
        assert result.path.name == f"report-{name}.json"
        save_examples(result)
    page = write_page(three).read_text(encoding="utf-8")
    for name in THREE:
        assert f'<section id="task-{name}">' in page
        assert list((three / "report" / name / "own").glob("fields_*.png"))
    assert not (three / "report.json").exists()


def test_a_task_may_be_trained_under_two_names_at_two_strides(small):
    small("burgers1d")
    slow = {"dataset": "burgers1d", "name": "slow", "stride": 2}
    run = training.train(small_experiment("burgers1d", slow))
    found = checkpoints.load(runs.checkpoint_path(run, "operator"))
    assert found.tasks["slow"].dt == pytest.approx(2 * found.tasks["burgers1d"].dt)
    assert np.isfinite(losses_of(run, "operator", "slow/nrmse")).all()


def test_moving_and_steady_tasks_learn_from_one_operator(small):
    small("burgers1d", "darcy2d", "darcy2d_mesh", "particles_advect")
    tasks = ("burgers1d", "darcy2d", "darcy2d_mesh", "particles_advect")
    run = training.train(small_experiment(*tasks))
    for name in tasks:
        assert np.isfinite(losses_of(run, "operator", f"{name}/nrmse")).all()
    with torch.no_grad():
        surrogate = load_run(run, task="darcy2d")
        assert surrogate.is_steady


def test_a_missing_teacher_names_the_stage_and_its_command(small):
    small("burgers1d")
    experiment = small_experiment("burgers1d")
    training.train(experiment, ["codec"])
    with pytest.raises(CheckpointError, match="no finished stage 'operator'") as caught:
        training.train(experiment, ["diff_residual"])
    assert caught.value.hint == "ups train --stage operator, with the same --config and --set"
    assert caught.value.exit_code == 4
    assert len(runs.list_runs()) == 1


def test_a_later_stage_names_the_checkpoints_that_it_stands_on(small):
    small("burgers1d")
    experiment = small_experiment("burgers1d")
    below = training.train(experiment)
    run = training.train(experiment, ["diff_residual"])
    assert runs.planned(run).stands_on.keys() == {"codec", "operator"}
    assert runs.planned(run).stands_on["operator"].startswith(str(below))
    found = checkpoints.load(runs.checkpoint_path(run, "diff_residual"))
    assert set(found.identity.earlier) == {"codec", "operator"}
    assert set(found.modules) == {"operator", "residual"}
    assert isinstance(Experiment.model_validate(found.experiment.model_dump()), Experiment)
