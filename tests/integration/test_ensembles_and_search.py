"""Ensembles and searches of trained runs; neither calibration nor rewards see the judged truth."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from tiny_runs import small_experiment

from ups import convert, generate, load_card, train
from ups.data.store import TrajectoryStore
from ups.errors import CheckpointError, UsageError
from ups.evaluation.calibration import validation_of
from ups.evaluation.context import open_context
from ups.evaluation.forecasts import Ensemble, forecasts
from ups.evaluation.report import Row, Section
from ups.evaluation.rewards import fit_rewards
from ups.evaluation.search import Plan, draw_cost, plain_cost
from ups.evaluation.section_tables import ttc_rows, uncertainty_rows
from ups.evaluation.test_time import searched, ttc_section, window_lengths
from ups.evaluation.uncertainty import uncertainty_section
from ups.training.session import open_session

STAGES = {
    "operator": {"steps": 30},
    "diff_residual": {"steps": 6, "sampling_steps": 4, "validate_every": 6},
}
CHEAP = {"candidates": 3, "beam": 2, "look_ahead": 1, "limit": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two seeds: the first with a residual model."""
    home = tmp_path_factory.mktemp("ensembles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPS_HOME", str(home))
        card = load_card("burgers1d")
        raw = generate(card, parameters={"nu": 0.1}, num_trajectories=30, seed=0,
                       out_dir=home / "raw", points=32, frames=15, workers=1)  # fmt: skip
        convert(card, [raw], version="small", workers=1)
        found = []
        for seed in (0, 1):
            session = open_session(small_experiment(
                "burgers1d", stages=STAGES, seed=seed, evaluation={"horizon": 8}
            ))  # fmt: skip
            stages = ("codec", "operator", "diff_residual")
            found.append(train(session, stages[: 3 - seed]))
    return home, found


@pytest.fixture
def contexts(trained, home, monkeypatch):
    monkeypatch.setenv("UPS_HOME", str(trained[0]))
    return [open_context(run) for run in trained[1]]


@pytest.fixture
def wrong_truth(contexts):
    """Puts noise in place of every later frame of the test split, and takes it back."""
    context = contexts[0]
    path, rows = context.store.path, context.members
    first = context.horizon.first + 1
    noise = np.random.default_rng(0).normal(size=context.store.fields[rows, first:].shape)
    with h5py.File(path, "r+") as file:
        kept = file["fields"][rows, first:]

    def put(values):
        with h5py.File(path, "r+") as file:
            for row, one in zip(rows, values, strict=True):
                file["fields"][row, first:] = one

    yield lambda: put(noise.astype(np.float32))
    put(kept)


def test_an_ensemble_of_draws_is_judged_and_calibrated(contexts):
    section = uncertainty_section(contexts[0], members=4)
    content = section.content
    assert (content["members"], content["source"]) == (4, "residual model")
    assert content["num_trajectories"] == len(contexts[0].members)
    before, after = content["before"]["all"], content["after"]["all"]
    factor = content["calibration"]["factors"]["u"]
    assert after["spread_skill"] == pytest.approx(factor * before["spread_skill"], rel=1e-4)
    ratio = content["calibration"]["spread_skill"]["u"]
    assert factor == pytest.approx(min(max(1 / ratio, 1 / 8), 8))
    assert len(before["per_step"]["crps"]) == contexts[0].horizon.steps
    assert len(before["rank_histogram"]) == 5
    (row,) = section.rows
    assert (row.name, row.kind) == ("ensemble mean (4 members)", "model")
    assert row.value("nrmse") > 0
    assert row.value("correlation_time") is not None
    (gate,) = section.gates
    assert gate.value == pytest.approx(after["spread_skill"])
    assert len(uncertainty_rows(content)) == 2


def test_members_do_not_depend_on_how_many_there_are(contexts):
    few, many = (next(forecasts(Ensemble((contexts[0],), number, 0), contexts[0].members[:2]))
                 for number in (2, 3))  # fmt: skip
    assert torch.equal(few.parts[0].members, many.parts[0].members[:2])
    other = next(forecasts(Ensemble((contexts[0],), 2, 1), contexts[0].members[:2]))
    assert not torch.equal(few.parts[0].members, other.parts[0].members)


def test_an_ensemble_of_seeds_is_their_point_forecasts(contexts):
    section = uncertainty_section(contexts[0], members=0, partners=contexts[1:])
    assert (section.content["members"], section.content["source"]) == (2, "seeds")
    forecast = next(forecasts(Ensemble(tuple(contexts), 0, 0), contexts[0].members[:1]))
    members = torch.cat([part.members for part in forecast.parts], 1)
    for one, context in zip(members, contexts, strict=True):
        batch = next(context.predict(context.members[:1]))
        torch.testing.assert_close(one, batch.prediction[0])


def test_calibration_cannot_be_moved_by_the_judged_split(contexts, wrong_truth):
    true = uncertainty_section(contexts[0], members=2).content
    wrong_truth()
    wrong = uncertainty_section(open_context(contexts[0].run), members=2).content
    assert wrong["calibration"] == true["calibration"]
    assert wrong["before"]["all"]["crps"] > 1.5 * true["before"]["all"]["crps"]


def test_a_search_given_a_wrong_truth_finds_the_same_to_the_bit(contexts, wrong_truth):
    def found(context):
        plan = Plan(3, 2, 1)
        rewards = fit_rewards(validation_of(context), window_lengths(context, plan))
        rollouts = list(searched(context, context.members[:2], rewards, plan, seed=0))
        return rollouts, ttc_section(context, **CHEAP)

    (true, section), changed = found(contexts[0]), open_context
    wrong_truth()
    wrong, other = found(changed(contexts[0].run))
    for ours, theirs in zip(true, wrong, strict=True):
        assert torch.equal(ours.tokens, theirs.tokens)
        assert (ours.choices, ours.score) == (theirs.choices, theirs.score)
    assert any(choice for one in true for choice in one.choices), "nothing was searched"
    for key in ("choices", "scores", "terms", "evaluations"):
        assert section.content[key] == other.content[key]
    assert other.content["nrmse"]["chosen"] != section.content["nrmse"]["chosen"]


def test_a_search_tells_what_it_gained_and_what_it_cost(contexts):
    context = contexts[0]
    section = ttc_section(context, **CHEAP)
    content, steps = section.content, context.horizon.steps
    assert {"boundary", "pde_residual", "conservation", "smoothness"} <= set(content["terms"])
    spent = content["evaluations"]
    plain = plain_cost(context.surrogate)
    assert spent["plain"] == steps * plain
    draws = 2 * draw_cost(context.surrogate) + 3 * plain
    assert spent["used"] == (plain + draws) * (1 + 2 * (steps - 1))
    gain = content["nrmse"]["plain"]["mean"] - content["nrmse"]["chosen"]["mean"]
    assert content["gain"]["absolute"] == pytest.approx(gain)
    rate = content["gain"]["relative"] / (spent["used"] / spent["plain"] - 1)
    assert content["gain_per_compute"] == pytest.approx(rate)
    assert section.rows == (), "a row of 2 trajectories would stand beside rows of all"
    assert len(ttc_rows(content)) == 9


def test_evaluations_are_those_that_the_networks_make(contexts):
    context, made = contexts[0], []
    surrogate = context.surrogate
    for module in (surrogate.operator, surrogate.residual.backbone):
        module.register_forward_hook(lambda module, inputs, output: made.append(len(output)))
    plan = Plan(3, 2, 1)
    rewards = fit_rewards(validation_of(context), window_lengths(context, plan))
    for spread in (1.0, 1.5):
        surrogate.residual.port(context.task).spread.fill_(spread)
        made.clear()
        (found,) = searched(context, context.members[:1], rewards, plan, seed=0)
        assert found.evaluations == sum(made)


def test_sections_fit_into_a_report_file(contexts):
    for section in (uncertainty_section(contexts[0], members=2), ttc_section(contexts[0], **CHEAP)):
        assert isinstance(section, Section)
        assert all(isinstance(row, Row) for row in section.rows)
        _check_plain(section.content)


def _check_plain(value):
    if isinstance(value, dict):
        assert all(isinstance(key, str) for key in value)
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            _check_plain(part)
    else:
        assert value is None or type(value) in (str, int, float, bool), type(value)


def test_what_cannot_be_done_says_so(contexts):
    with_residual, without = contexts
    for attempt in (
        lambda: uncertainty_section(without, members=4),
        lambda: uncertainty_section(with_residual, members=2, partners=[without]),
        lambda: ttc_section(without, **CHEAP),
    ):
        with pytest.raises(CheckpointError, match="no residual model") as refused:
            attempt()
        assert refused.value.hint == "ups train --stage diff_residual"
    with pytest.raises(UsageError, match="at least 2 members, found 1"):
        uncertainty_section(with_residual, members=1)
    with pytest.raises(UsageError, match="same checkpoint twice"):
        uncertainty_section(with_residual, members=0, partners=[with_residual])
    shorter = with_residual.settings.model_copy(update={"horizon": 5})
    with pytest.raises(UsageError, match=r"another protocol than .*: horizon differ"):
        uncertainty_section(
            with_residual, members=0, partners=[open_context(without.run, settings=shorter)]
        )
    valid = with_residual.settings.model_copy(update={"split": "valid"})
    judged = open_context(with_residual.run, settings=valid)
    for attempt in (
        lambda: uncertainty_section(judged, members=2), lambda: ttc_section(judged, **CHEAP)
    ):  # fmt: skip
        with pytest.raises(UsageError, match="validation split is judged"):
            attempt()


def test_other_data_are_calibrated_on_the_runs_own_validation_split(contexts):
    context = contexts[0]
    card = load_card("burgers1d")
    raw = generate(card, parameters={"nu": 0.1}, num_trajectories=20, seed=5,
                   out_dir=context.store.path.parent / "raw5", points=32, frames=15,
                   workers=1)  # fmt: skip
    convert(card, [raw], version="other", workers=1)
    settings = context.settings.model_copy(update={"split": "all", "horizon": None})
    other = open_context(context.run, version="other", settings=settings)
    held = validation_of(other)
    assert isinstance(held.store, TrajectoryStore)
    assert held.store.metadata.version == "small"
    assert held.members.tolist() == context.store.split("valid").tolist()
    assert held.horizon == other.horizon
    assert uncertainty_section(other, members=2).content["num_trajectories"] == 20
