"""Who becomes champion, who does not, and what is left on the disk."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ups.errors import CheckpointError, ConfigError
from ups.evaluation.context import Context
from ups.evaluation.gates import Gate, failed
from ups.evaluation.protocol import Protocol
from ups.evaluation.report import Report, Row
from ups.pipeline.champion import Champion, Score, crown, load_throne, throne_path
from ups.pipeline.contest import Candidate, Place, SmallEvaluation
from ups.pipeline.rules import Benchmark, find_benchmark
from ups.pipeline.verdict import gates_of, score_of, small_gate

PLACE = "burgers1d, ic"
PROTOCOL = Protocol(
    dataset="burgers1d", version="nu0.01", split="test", split_hash="5" * 16,
    data_sha256="d" * 64, resolution=(64,), domain=((0.0, 1.0),), stride_x=1, stride_t=1, dt=0.05,
    stride=1, history=1, horizon=20, num_trajectories=40,
)  # fmt: skip
THEIRS = 0.1 * np.exp(np.random.default_rng(0).normal(size=40))
NOISE = np.random.default_rng(1).normal(size=40)
RUN = {"id": "x/1", "seed": 0, "commit": "abc", "checkpoint_sha256": "c" * 64, "config": "seed: 0"}


def row(name, kind, values):
    values = np.asarray(values, dtype=float)
    metrics = {"mean": float(values.mean()), "median": float(np.median(values))}
    return Row(name=name, kind=kind, metrics={"nrmse": metrics},
               per_trajectory={"nrmse": values.tolist()})  # fmt: skip


def candidate(values, *, gates=(), sections=None, protocol=PROTOCOL, trivial=1.0):
    report = Report(
        run=RUN, protocol=protocol, protocol_name="ic", trajectories=tuple(range(len(values))),
        rows=(row("model", "model", values),
              row("persistence", "trivial", np.full(len(values), trivial))),
        gates=tuple(gates), sections=sections or {},
    )  # fmt: skip
    place = Place(PLACE, "burgers1d", "ic", None, object.__new__(Context))
    return Candidate(place, Path("report.ic.json"), report, None)


def champion(values=THEIRS, *, checkpoint="0" * 64, measures=None, protocol=PROTOCOL):
    score = Score(
        place=PLACE, entry="e" * 16, protocol=protocol.id, value=float(np.mean(values)),
        trajectories=tuple(range(len(values))), values=tuple(float(one) for one in values),
        measures=measures or {},
    )  # fmt: skip
    return Champion(
        run="old/1", seed=0, commit="", checkpoint_sha256=checkpoint, since="2026-01-01T00:00:00Z",
        reason="", metric="nrmse", scores=(score,), gates=(),
    )  # fmt: skip


def rules(**gates):
    return Benchmark.model_validate(
        {"name": "b", "tasks": [{"dataset": "burgers1d"}], "gates": gates}
    )


def verdict(one, benchmark, before=None):
    return {gate.name.partition(":")[0]: gate.passed for gate in gates_of([one], benchmark, before)}


def test_a_run_that_is_surely_better_meets_every_gate():
    found = gates_of([candidate(0.9 * THEIRS)], rules(), champion())
    assert failed(found) == []
    accuracy = next(gate for gate in found if gate.name.startswith("accuracy"))
    assert accuracy.value < 0
    assert "-10.0% [-10.0%, -10.0%]" not in accuracy.detail, "trajectories weigh differently"
    assert "nrmse" in accuracy.detail


def test_a_gain_that_chance_could_give_is_refused_unless_means_alone_are_compared():
    values = THEIRS * (0.98 + 0.5 * NOISE / np.abs(NOISE).max())
    values *= 0.99 * THEIRS.mean() / values.mean()
    one = candidate(values)
    assert verdict(one, rules(), champion())["accuracy"] is False
    assert verdict(one, rules(accuracy={"test": "mean"}), champion())["accuracy"] is True


@pytest.mark.parametrize(("factor", "passed"), [(1.04, True), (1.06, False)])
def test_tolerance_is_a_share_of_the_champions_error_but_the_whole_must_improve(factor, passed):
    found = verdict(candidate(factor * THEIRS), rules(accuracy={"tolerance": 0.05, "test": "mean"}),
                    champion())  # fmt: skip
    assert found["accuracy"] is passed
    assert found["better overall"] is False


def test_the_same_numbers_do_not_dethrone():
    assert verdict(candidate(THEIRS), rules(), champion())["better overall"] is False


def test_other_data_or_frames_are_not_compared():
    other = replace(PROTOCOL, history=10)
    found = gates_of([candidate(0.5 * THEIRS, protocol=other)], rules(), champion())
    missed = failed(found)
    assert [gate.kind for gate in missed] == ["data", "accuracy"]
    assert "not comparable" in missed[0].detail


def test_a_rollout_that_is_not_finite_is_refused():
    values = THEIRS.copy()
    values[3] = np.inf
    one = candidate(values)
    assert verdict(one, rules(), champion())["accuracy"] is False


def test_the_first_champion_must_still_beat_the_trivial_predictor():
    assert failed(gates_of([candidate(THEIRS)], rules(), None)) == []
    poor = gates_of([candidate(THEIRS, trivial=0.05)], rules(), None)
    assert [gate.name for gate in failed(poor)] == [f"trivial: {PLACE}"]
    limited = gates_of([candidate(THEIRS)], rules(accuracy={"limit": 0.01}), None)
    assert [gate.name for gate in failed(limited)] == [f"limit: {PLACE}"]


def test_gates_of_the_report_are_taken_by_name_or_kind_and_a_required_one_must_be_there():
    lost = Gate(name="conservation_u", kind="physics", passed=False, detail="mass is lost")
    dead = Gate(name="dead_parameters", kind="health", passed=True, detail="all alive")
    one = candidate(0.9 * THEIRS, gates=(lost, dead))
    chosen = rules(required=["conservation*", "boundary*"], if_measured=["health", "calibration"])
    found = verdict(one, chosen, champion())
    assert found["conservation_u"] is False
    assert found["boundary*"] is False, "asked for and not measured"
    assert found["dead_parameters"] is True
    assert "calibration" not in found


@pytest.mark.parametrize(
    ("rule", "ours", "passed"),
    [
        ({"tolerance": 0.1}, 0.108, True),
        ({"tolerance": 0.1}, 0.112, False),
        ({"limit": 0.05}, 0.09, False),
        ({"better": "higher"}, 0.11, True),
        ({"better": "higher"}, 0.09, False),
        ({"tolerance": None}, 9.0, True),
    ],
)
def test_a_measure_is_held_against_the_champions_and_its_limit(rule, ours, passed):
    chosen = rules(measures=[{"value": "uncertainty.coverage.error", **rule}])
    one = candidate(0.9 * THEIRS, sections={"uncertainty": {"coverage": {"error": ours}}})
    before = champion(measures={"uncertainty.coverage.error": 0.1})
    assert verdict(one, chosen, before)["uncertainty.coverage.error"] is passed
    assert score_of(one, chosen).measures == {"uncertainty.coverage.error": ours}


def test_a_measure_that_is_not_in_the_report_says_no():
    chosen = rules(measures=[{"value": "physics.mass.gap"}])
    (missed,) = failed(gates_of([candidate(0.9 * THEIRS)], chosen, champion()))
    assert "no number physics.mass.gap" in missed.detail


def test_a_small_evaluation_is_compared_on_the_same_trajectories():
    places = (3, 17, 30)
    theirs = THEIRS[list(places)]
    small = SmallEvaluation(PLACE, places, 1.2 * theirs, np.ones(3))
    assert small_gate(small, rules(), champion()).passed
    worse = SmallEvaluation(PLACE, places, 1.3 * theirs, np.ones(3))
    gate = small_gate(worse, rules(), champion())
    assert not gate.passed
    assert gate.limit == pytest.approx(1.25 * theirs.mean())
    first = SmallEvaluation(PLACE, places, np.full(3, 1.1), np.ones(3))
    assert not small_gate(first, rules(), None).passed, "worse than persistence"


def test_of_many_that_promote_at_once_one_is_champion_and_nobody_is_lost():
    runs = [champion(checkpoint=f"{index:064d}") for index in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda one: crown("b", one, instead_of=None), runs))
    assert sum(won) == 1
    throne = load_throne("b")
    assert throne.checkpoint == runs[won.index(True)].checkpoint_sha256
    assert crown("b", runs[won.index(False)], instead_of=throne.checkpoint)
    again = load_throne("b")
    assert [one.checkpoint_sha256 for one in again.history] == [throne.checkpoint]
    assert again.history[0].scores[0].values == (), "the history is kept in brief"
    assert again.champion.scores[0].values == tuple(THEIRS)


def test_a_crash_while_the_champion_changes_leaves_the_old_one(monkeypatch):
    assert crown("b", champion(checkpoint="1" * 64), instead_of=None)

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            crown("b", champion(checkpoint="2" * 64), instead_of="1" * 64)
    assert load_throne("b").checkpoint == "1" * 64
    assert load_throne("b").history == ()
    assert crown("b", champion(checkpoint="2" * 64), instead_of="1" * 64)


def test_a_damaged_record_of_champions_is_not_taken_for_an_empty_one(home):
    path = throne_path("b")
    path.parent.mkdir(parents=True)
    path.write_text('{"benchmark": "b", "champ')
    with pytest.raises(CheckpointError, match="not a record of champions"):
        load_throne("b")
    with pytest.raises(CheckpointError):
        crown("b", champion(), instead_of=None)


def test_benchmarks_that_come_with_ups_can_be_read_and_mistakes_are_named(tmp_path):
    assert find_benchmark("quickstart").tasks[0].label == "burgers1d (quickstart)"
    assert find_benchmark("burgers1d").protocols == ("ic", "pdebench")
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        find_benchmark("quikstart")
    path = tmp_path / "mine.yaml"
    path.write_text("tasks: [{dataset: burgers1d}]\nprotocols: [own]\n")
    with pytest.raises(ConfigError, match="'own' differs from run to run"):
        find_benchmark(path)
    path.write_text("tasks: [{dataset: burgers1d}]\ngates: {acuracy: {}}\n")
    with pytest.raises(ConfigError, match="unknown key"):
        find_benchmark(path)
