"""ups' model against fairly tuned neural operators, trained for the same CPU time.

Every model is trained by `ups.training` on the same windows, in a process with one thread, codec
and cache and validation counted. A probe measures what a step costs, and the steps are chosen to
fill the budget. Optimizer and learning rate of each baseline are chosen on the validation split
with seed 1 and half of the budget; the best then runs with every seed. Rows that are in --out
already are not run again, so that a stopped benchmark continues.

    python benchmarks/against_fno.py --home /tmp/against_fno --budget 120
    python benchmarks/against_fno.py --quick --tasks burgers_nu0.01 --home /tmp/quick
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _accuracy as accuracy
from _accuracy import Candidate, Cost, Task

UPS = "ups"
QUICK_TRAJECTORIES = 60


@dataclass(frozen=True)
class Settings:
    """What all of one benchmark shares."""

    home: Path
    out: Path
    budget: float
    seeds: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    models: tuple[str, ...] | None
    quick: bool

    @property
    def kind(self) -> str:
        return "quick" if self.quick else "full"


class Rows:
    """The JSON lines of a benchmark, by what each was asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self._found = {self._key(row["asked"]): row for row in map(json.loads, lines)}

    @staticmethod
    def _key(asked: dict[str, Any]) -> str:
        return json.dumps(asked, sort_keys=True)

    def get_or_run(
        self, asked: dict[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The finished row, or a new one, written at once."""
        key = self._key(asked)
        if key not in self._found:
            row = {"asked": asked, **compute()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), file=sys.stderr, flush=True)
            self._found[key] = row
        return self._found[key]


def main(arguments: Sequence[str] | None = None) -> None:
    settings, tasks = _parsed(arguments)
    settings.home.mkdir(parents=True, exist_ok=True)
    rows, tables = Rows(settings.out), []
    for task in tasks:
        accuracy.prepare(
            task, settings.home, trajectories=QUICK_TRAJECTORIES if settings.quick else None
        )
        found = {UPS: _own(task, settings, rows)}
        for names in _groups(task, settings):
            found |= _best_of(task, names, settings, rows)
        tables += _lines(task, found)
    print(_HEADER + "\n".join(tables))


def _own(task: Task, settings: Settings, rows: Rows) -> list[dict[str, Any]]:
    jobs = {seed: accuracy.own_job(task, seed, settings.quick) for seed in settings.seeds}
    first = jobs[settings.seeds[0]]
    # Another config of ups' model is another row.
    asked = {"task": task.name, "model": UPS, "kind": settings.kind, "config": first.config,
             "ours": list(task.ours)}  # fmt: skip
    cost = _cost(asked, rows, lambda: accuracy.probe(first, settings.home))
    steps = cost.steps_in(settings.budget)
    return [
        rows.get_or_run(
            {**asked, "seed": seed, "budget": settings.budget},
            partial(accuracy.run, job, settings.home, steps),
        )
        for seed, job in jobs.items()
    ]


def _groups(task: Task, settings: Settings) -> list[list[str]]:
    """Plain baselines, and those with the wrapper, of which each sends its best."""
    names = [n for n in task.baselines if settings.models is None or n in settings.models]
    plain = [name for name in names if "wrapper" not in name]
    return [group for group in (plain, [n for n in names if n not in plain]) if group]


@dataclass(frozen=True)
class Tuned:
    """A baseline with the setting that validation chose for it."""

    model: str
    candidate: Candidate
    cost: Cost
    valid: float


def _best_of(
    task: Task, models: list[str], settings: Settings, rows: Rows
) -> dict[str, list[dict[str, Any]]]:
    """The rows of each seed of the baseline that validation chose."""
    tuned = [_tuned(task, model, settings, rows) for model in models]
    best = min(tuned, key=lambda one: one.valid)
    steps = best.cost.steps_in(settings.budget)
    asked = _asked(task, best.model, settings)
    return {
        best.model: [
            rows.get_or_run(
                {**asked, "candidate": best.candidate.name, "seed": seed,
                 "budget": settings.budget},
                partial(accuracy.run, _job(task, best.model, best.candidate, seed, settings),
                        settings.home, steps),
            )
            for seed in settings.seeds
        ]
    }  # fmt: skip


def _tuned(task: Task, model: str, settings: Settings, rows: Rows) -> Tuned:
    asked = _asked(task, model, settings)
    first = _job(task, model, settings.candidates[0], 1, settings)
    cost = _cost(asked, rows, lambda: accuracy.probe(first, settings.home))
    half = settings.budget / 2
    found = {
        candidate: rows.get_or_run(
            {**asked, "candidate": candidate.name, "seed": 1, "budget": half, "tuning": True},
            partial(accuracy.run, _job(task, model, candidate, 1, settings), settings.home,
                    cost.steps_in(half)),
        )
        for candidate in settings.candidates
    }  # fmt: skip
    best = min(found, key=lambda candidate: found[candidate]["valid"])
    # Steps of the longer run weigh more than those of the probe.
    longer = found[best]
    step = max(longer["cpu_s"] - cost.fixed, 1e-3) / longer["steps"]
    return Tuned(model, best, Cost(cost.fixed, step), longer["valid"])


def _job(task: Task, model: str, candidate: Candidate, seed: int, settings: Settings) -> Any:
    return accuracy.baseline_job(task, model, candidate, seed, settings.quick)


def _asked(task: Task, model: str, settings: Settings) -> dict[str, Any]:
    return {"task": task.name, "model": model, "kind": settings.kind,
            "operator": dict(task.baselines[model])}  # fmt: skip


def _cost(asked: dict[str, Any], rows: Rows, measure: Callable[[], Cost]) -> Cost:
    row = rows.get_or_run({**asked, "probe": True}, lambda: asdict(measure()))
    return Cost(row["fixed"], row["step"])


_HEADER = (
    "| task | given | statistic | ups | best FNO | ratio | bar | with wrapper | ratio | "
    "CPU s ups / FNO |\n|---|---|---|---|---|---|---|---|---|---|\n"
)


def _lines(task: Task, found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One line of the table per protocol and statistic; figures are means over seeds."""
    lines = []
    plain = [name for name in found if name != UPS and "wrapper" not in name]
    wrapped = [name for name in found if "wrapper" in name]
    for protocol in task.histories:
        for place, statistic in enumerate(("mean", "median")):
            figures = {name: _mean(rows, protocol, place) for name, rows in found.items()}
            best, other = _best(plain, figures), _best(wrapped, figures)
            lines.append(
                f"| {task.name} | {protocol} | {statistic} | {figures[UPS]:.4f} "
                f"| {_named(best, figures)} | {_ratio(best, figures)} | {task.bar} "
                f"| {_named(other, figures)} | {_ratio(other, figures)} "
                f"| {_cpu(found[UPS])} / {_cpu(found[best]) if best else '–'} |"
            )
    return lines


def _mean(rows: list[dict[str, Any]], protocol: str, place: int) -> float:
    """Mean over seeds; infinite where one run blew up."""
    values = [row[protocol][place] for row in rows]
    return statistics.mean(float("inf") if value is None else value for value in values)


def _best(names: list[str], figures: dict[str, float]) -> str | None:
    return min(names, key=figures.__getitem__, default=None)


def _named(name: str | None, figures: dict[str, float]) -> str:
    return f"{figures[name]:.4f} ({name})" if name else "–"


def _ratio(name: str | None, figures: dict[str, float]) -> str:
    return f"{figures[UPS] / figures[name]:.2f}" if name else "–"


def _cpu(rows: list[dict[str, Any]]) -> str:
    return f"{statistics.mean(row['cpu_s'] for row in rows):.0f}"


def _parsed(arguments: Sequence[str] | None) -> tuple[Settings, list[Task]]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    known = list(accuracy.TASKS)
    parser.add_argument("--tasks", nargs="+", choices=known, default=known)
    parser.add_argument("--models", nargs="+", help="baselines; all if left out")
    parser.add_argument("--budget", type=float, help="CPU seconds of each training; 120")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--home", type=Path, required=True, help="data and scratch, kept")
    parser.add_argument("--out", type=Path, help="JSON lines; HOME/against_fno.jsonl")
    parser.add_argument("--quick", action="store_true", help="few trajectories, one of each")
    given = parser.parse_args(arguments)
    home = given.home.resolve()
    settings = Settings(
        home=home / "quick" if given.quick else home,
        out=given.out or home / "against_fno.jsonl",
        budget=given.budget or (30.0 if given.quick else 120.0),
        seeds=tuple(given.seeds[:1] if given.quick else given.seeds),
        candidates=accuracy.CANDIDATES[-1:] if given.quick else accuracy.CANDIDATES,
        models=tuple(given.models) if given.models else None,
        quick=given.quick,
    )
    return settings, [accuracy.TASKS[name] for name in given.tasks]


if __name__ == "__main__":
    main()
