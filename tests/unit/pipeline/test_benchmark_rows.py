"""Rows of a benchmark, the table they make, and when a model has paid for itself."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import small_experiment

from ups.errors import CheckpointError, UsageError
from ups.pipeline import benchmark as benchmarks
from ups.pipeline.benchmark import Benchmark, Entry, Result, run_benchmark
from ups.pipeline.comparison import cells, compare, notes, to_csv, to_markdown, write_comparison
from ups.pipeline.solver_time import break_even, generator_seconds
from ups.pipeline.trained import Row
from ups.training.loop import DivergedError
from ups.training.session import open_session

ROW = Row(
    run="small/1", seed=1, dataset="advection1d/tiny", nrmse=0.1, nrmse_median=0.09,
    trivial="persistence", trivial_nrmse=0.8, infer_seconds=0.5, latency_seconds=0.01,
    num_parameters=1000, train_seconds=10.0, train_flops=1e9, steps={"codec": 2, "operator": 6},
    failed_gates=(), is_sound=True, protocol="p", horizon=8, history=1, device="cpu",
    protocols={"own": 0.1, "ic": 0.2},
)  # fmt: skip


def result(label: str, seed: int = 1, **changes) -> Result:
    return Result(label, seed, replace(ROW, seed=seed, **changes))


def benchmark(*results: Result, solver: float | None = 1.0) -> Benchmark:
    seeds = tuple(dict.fromkeys(one.seed for one in results))
    return Benchmark("10s", seeds, results, {"advection1d/tiny": solver})


@pytest.mark.parametrize(
    ("train", "infer", "solver", "solves"),
    [(10.0, 0.5, 1.0, 21), (10.0, 0.0, 1.0, 11), (9.9, 0.0, 1.0, 10), (10.0, 1.0, 1.0, None),
     (10.0, 2.0, 1.0, None), (10.0, None, 1.0, None), (10.0, 0.5, None, None)],
)  # fmt: skip
def test_break_even_is_the_first_number_of_solves_that_is_cheaper(train, infer, solver, solves):
    assert break_even(train, infer, solver) == solves
    if solves:
        assert train + solves * infer < solves * solver
        assert train + (solves - 1) * infer >= (solves - 1) * solver


def test_the_generator_is_timed_where_there_is_one(small):
    small("advection1d")
    task = open_session(small_experiment("advection1d")).tasks[0]
    assert 0 < generator_seconds(task) < 1
    without = replace(task, card=task.card.model_copy(update={"generator": None}))
    assert generator_seconds(without) is None


def test_seeds_become_one_line_and_the_best_comes_first():
    found = compare(benchmark(result("b", 1, nrmse=0.3), result("b", 2, nrmse=0.5),
                              result("a", 1, nrmse=0.1), result("a", 2, nrmse=0.12)))  # fmt: skip
    assert [line.label for line in found[0].lines] == ["a", "b"]
    assert found[0].lines[1].nrmse.mean == pytest.approx(0.4)
    assert cells(found[0].lines[1])[1] == "0.4 ±1.3"  # t(0.975, 1) x 0.1
    assert found[0].lines[0].even_at == 21


def test_rows_of_different_protocols_are_not_in_one_table():
    found = compare(benchmark(result("a"), result("b", protocol="other")))
    assert [[line.label for line in one.lines] for one in found] == [["a"], ["b"]]


def test_what_failed_or_is_not_sound_is_not_ranked_and_says_why():
    found = compare(benchmark(
        result("dead", nrmse=0.01, is_sound=False, failed_gates=("gradients",)),
        result("blown", 1, nrmse=None), result("good"),
        result("half", 1), Result("half", 2, None, error="loss is nan"),
    ))  # fmt: skip
    (one,) = found
    assert [line.label for line in one.lines if line.is_ranked] == ["good"]
    assert one.lines[0].label == "good"
    said = " ".join(notes(one, benchmark(result("good"))))
    assert "dead: not sound; misses gradients" in said
    assert "half: seed 2: loss is nan" in said


def test_tables_hold_every_training(tmp_path):
    everything = benchmark(result("a", 1), result("a", 2), Result("b", 1, None, error="no"))
    text = to_markdown(compare(everything), everything)
    assert "| a | 0.1 ±0 | 0.09 | 1,000 | 10 | 0.5 | 21 |" in text
    assert "persistence): nRMSE 0.8" in text
    table = list(csv.DictReader(io.StringIO(to_csv(everything))))
    assert [(row["label"], row["seed"], row["steps_operator"]) for row in table] == [
        ("a", "1", "6"), ("a", "2", "6"), ("b", "1", ""),
    ]  # fmt: skip
    assert table[0]["nrmse_ic"] == "0.2"
    written = write_comparison(everything, tmp_path)
    assert [path.name for path in written] == [
        "comparison.md", "comparison.csv", "comparison.json", "comparison.png",
    ]  # fmt: skip
    assert written[-1].stat().st_size > 10_000


def test_without_a_generator_there_is_no_break_even():
    alone = benchmark(result("a"), solver=None)
    (one,) = compare(alone)
    assert one.lines[0].even_at is None
    assert "no generator" in " ".join(notes(one, alone))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was trained, in place of training."""
    calls: list[tuple[str, int]] = []

    def fake(experiment, *, brief=False, progress=None) -> Row:
        calls.append((experiment.name, experiment.seed))
        if experiment.seed == 3:
            raise DivergedError("loss is nan")
        return replace(ROW, seed=experiment.seed)

    monkeypatch.setattr(benchmarks, "train_and_judge", fake)
    return calls


def entries(*names: str) -> list[Entry]:
    return [Entry(name, small_experiment("advection1d", name=name)) for name in names]


def run(out: Path, *names: str, **options) -> Benchmark:
    return run_benchmark(entries(*names), out, times_solver=False, **options)


def test_finished_rows_are_not_run_again_and_failed_ones_are(small, tmp_path, trained):
    small("advection1d")
    found = run(tmp_path / "out", "a", seeds=[1, 3])
    assert [one.error for one in found.results] == ["", "loss is nan"]
    trained.clear()
    again = run(tmp_path / "out", "a", seeds=[1, 2, 3], resume=True)
    assert trained == [("a", 2), ("a", 3)]
    assert [one.reused for one in again.results] == [True, False, False]
    assert again.results[0].row == found.results[0].row


def test_another_config_or_budget_is_another_row(small, tmp_path, trained):
    from ups.pipeline.budget import parse_budget

    small("advection1d")
    run(tmp_path / "out", "a", seeds=[1])
    trained.clear()
    run(tmp_path / "out", "a", seeds=[1], budget=parse_budget("9steps"), resume=True)
    assert trained == [("a", 1)]


def test_rows_of_an_earlier_benchmark_are_not_mixed_in_by_accident(small, tmp_path, trained):
    small("advection1d")
    run(tmp_path / "out", "a", seeds=[1])
    with pytest.raises(UsageError, match="holds 1 rows of an earlier benchmark") as caught:
        run(tmp_path / "out", "a", seeds=[1])
    assert "--resume" in str(caught.value.hint)


def test_two_entries_of_one_label_and_a_damaged_row_are_named(small, tmp_path, trained):
    small("advection1d")
    with pytest.raises(UsageError, match="a: named twice"):
        run(tmp_path / "out", "a", "a", seeds=[1])
    run(tmp_path / "out", "a", seeds=[1])
    (path,) = (tmp_path / "out" / "rows").glob("*.json")
    path.write_text("{")
    with pytest.raises(CheckpointError, match=path.name):
        run(tmp_path / "out", "a", seeds=[1], resume=True)
