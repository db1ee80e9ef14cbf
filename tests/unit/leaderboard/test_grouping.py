"""Ranks by any metric, seeds in one line, broken models without a rank, averages over tasks."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from boards import PROTOCOL, enter, judged, judged_row
from rich.console import Console

from ups.errors import UsageError
from ups.leaderboard import table, tasks, text

OTHER = replace(PROTOCOL, dataset="advection1d", version="beta0.1-x4-t5")


def printed(renderable):
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    console.print(renderable)
    return console.file.getvalue()


def test_a_missed_health_gate_takes_the_rank_and_says_why(tmp_path):
    found = enter(tmp_path, judged("broken", 0.001, broken="dead_parameters"), judged("fine", 0.1))
    (ranking,) = table.rank(found)
    assert [(line.rank, line.label) for line in ranking.lines][:2] == [(None, "broken"),
                                                                       (1, "fine")]  # fmt: skip
    shown = printed(text.render([ranking]))
    assert "not ranked: health gate dead_parameters: 12 of 40" in " ".join(shown.split())


def test_ranks_follow_the_metric_and_the_statistic(tmp_path):
    steady, wild = judged("steady", 0.10), judged("wild", 0.09)
    worse = replace(wild.rows[0], metrics=wild.rows[0].metrics | {
        "nrmse": {**wild.rows[0].metrics["nrmse"], "max": 9.0},
        "correlation_time": {"mean": 1.0},
    })  # fmt: skip
    found = enter(tmp_path, steady, replace(wild, rows=(worse, *wild.rows[1:])))

    def first(**options):
        (ranking,) = table.rank(found, **options)
        return next(line.label for line in ranking.lines if line.rank == 1)

    assert first() == "wild"
    assert first(statistic="max") == "steady"
    assert first(metric="correlation_time") == "steady", "a longer time is better"


@pytest.mark.parametrize(
    ("options", "said"),
    [({"metric": "nrsme"}, "did you mean 'nrmse'"), ({"statistic": "p50"}, "p90")],
)
def test_an_unknown_metric_or_statistic_names_the_nearest(tmp_path, options, said):
    with pytest.raises(UsageError, match=said):
        table.rank(enter(tmp_path, judged()), **options)


def test_seeds_of_one_config_are_one_line_with_mean_and_range(tmp_path):
    found = enter(tmp_path, *(judged("a", mean, seed=seed) for seed, mean in
                              enumerate((0.1, 0.2, 0.3))), judged("b", 0.15, width=8),
                  judged("a", 0.01, seed=9, broken="persistence"))  # fmt: skip
    (ranking,) = table.rank(found, group_by="run")
    ranked = {line.label: line for line in ranking.lines if line.rank}
    assert list(ranked) == ["b", "a (3 seeds)"]
    joined = ranked["a (3 seeds)"]
    assert joined.value == pytest.approx(0.2)
    assert (joined.low, joined.high) == (pytest.approx(0.1), pytest.approx(0.3))
    assert joined.seeds == (0, 1, 2)
    assert len(joined.members) == 3
    assert any(line.unranked for line in ranking.lines), "what is broken is in no mean"


def test_models_show_their_best(tmp_path):
    found = enter(tmp_path, judged("a", 0.3, model="fno"), judged("b", 0.1, model="fno", seed=1),
                  judged("c", 0.2, model="unet"))  # fmt: skip
    (ranking,) = table.rank(found, group_by="model")
    assert [line.label for line in ranking.lines if line.rank] == ["fno (b, best of 2)", "unet (c)"]


def test_a_checkpoint_judged_twice_alike_is_one_line(tmp_path):
    again = replace(judged("a"), created="2026-05-05T00:00:00Z")
    (ranking,) = table.rank(enter(tmp_path, judged("a"), again))
    assert len([line for line in ranking.lines if line.kind == "model"]) == 1


def test_rows_of_sections_are_ranked_beside_the_model(tmp_path):
    report = judged("a", 0.2)
    report = replace(report, rows=(*report.rows, judged_row("ensemble of 8", "model", 0.1)))
    (ranking,) = table.rank(enter(tmp_path, report))
    ranked = [line.label for line in ranking.lines if line.rank]
    assert ranked == ["a: ensemble of 8", "a"]


def several(name, *means, seed=0, **options):
    return [judged(name, mean, task=protocol.dataset, protocol=protocol, seed=seed, **options)
            for mean, protocol in zip(means, (PROTOCOL, OTHER), strict=True)]  # fmt: skip


def test_runs_of_several_tasks_are_ranked_by_the_average(tmp_path):
    found = enter(tmp_path, *several("wide", 0.1, 0.3, width=9), *several("even", 0.15, 0.05),
                  *several("even", 0.25, 0.15, seed=1), judged("alone", 0.01))  # fmt: skip
    (ranking,) = tasks.rank_tasks(found)
    ranked = [line for line in ranking.lines if line.rank]
    assert [line.label for line in ranked] == ["even (2 seeds)", "wide"]
    assert ranked[0].macro == pytest.approx(0.15)
    assert (ranked[0].low, ranked[0].high) == (pytest.approx(0.1), pytest.approx(0.2))
    assert ranked[0].vs_persistence == pytest.approx(0.15 / 0.4)
    assert ranked[1].tasks[OTHER.id].value == pytest.approx(0.3)
    trivial = [line.label for line in ranking.lines if line.kind == "trivial"]
    assert trivial == ["persistence", "spatial mean"]
    assert tasks.rank_tasks(found, dataset="darcy2d") == []


def test_a_task_that_blew_up_or_is_broken_takes_the_rank_of_the_average(tmp_path):
    blown = several("blown", 0.1, float("nan"))
    broken = several("broken", 0.1, 0.1, broken="dead_parameters", width=5)
    (ranking,) = tasks.rank_tasks(enter(tmp_path, *blown, *broken))
    lines = {line.label: line for line in ranking.lines}
    assert lines["blown"].macro is None
    assert lines["blown"].rank is lines["broken"].rank is None
    assert "advection1d: no such number" in lines["blown"].unranked
    assert "dead_parameters" in lines["broken"].unranked


def test_tables_fit_80_columns_whatever_the_names(tmp_path):
    name = "a-run-with-a-name-that-is-much-longer-than-any-column-of-a-terminal-would-be"
    found = enter(tmp_path, *several(name, 1.23456e-05, 9.87654e-06),
                  *several(name, 12345.678, 0.01, seed=1, broken="persistence"))  # fmt: skip
    for metric in ("nrmse", "relative_l2", "max_error"):
        for shown in (text.render(table.rank(found, metric=metric)),
                      text.render_tasks(tasks.rank_tasks(found, metric=metric))):  # fmt: skip
            assert max(len(line) for line in printed(shown).splitlines()) <= 80
            assert "…" not in printed(shown)


def test_csv_has_the_chosen_metric_and_joined_seeds_as_text(tmp_path):
    found = enter(tmp_path, judged("a", 0.1), judged("a", 0.3, seed=1))
    rankings = table.rank(found, group_by="run", metric="rmse")
    rows = list(csv.DictReader(io.StringIO(text.to_csv(rankings))))
    assert rows[0]["seeds"] == "0; 1"
    assert float(rows[0]["rmse_mean"]) == pytest.approx(0.2)
    assert float(rows[0]["rmse_max"]) > 0.2
