"""Train a set of experiments under one budget, judge each, and put them side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ups import files
from ups.config.base import validated
from ups.config.schema import Experiment
from ups.errors import CheckpointError, GateError, UpsError, UsageError
from ups.pipeline.budget import Budget, fit_to
from ups.pipeline.solver_time import generator_seconds
from ups.pipeline.trained import Row, train_and_judge
from ups.training.loop import DivergedError
from ups.training.session import open_session

Progress = Callable[[str, int, int, str], None]
_ROWS, _PLANS = "rows", "plans"


@dataclass(frozen=True)
class Entry:
    """One experiment of a benchmark, for all seeds.

    Attributes:
        label: In tables and plots.
    """

    label: str
    experiment: Experiment


@dataclass(frozen=True)
class Result:
    """What came of one entry with one seed.

    Attributes:
        row: None where the training did not end.
        error: Why not.
        reused: Whether it was there from an earlier call.
    """

    label: str
    seed: int
    row: Row | None
    error: str = ""
    reused: bool = False


@dataclass(frozen=True)
class Benchmark:
    """All results, and what the generators of their data take here.

    Attributes:
        budget: As it was written; empty where each experiment kept its own steps.
        solver_seconds: Data (`Row.dataset`) -> seconds of its generator for one trajectory, None
            where it has none.
    """

    budget: str
    seeds: tuple[int, ...]
    results: tuple[Result, ...]
    solver_seconds: dict[str, float | None]


def run_benchmark(
    entries: Sequence[Entry],
    out: Path,
    *,
    budget: Budget | None = None,
    seeds: Sequence[int] | None = None,
    resume: bool = False,
    brief: bool = False,
    times_solver: bool = True,
    progress: Progress | None = None,
    told: Callable[[Result], None] | None = None,
) -> Benchmark:
    """Train and judge every entry with every seed; each result is kept in `out` as it comes.

    Steps are found for every entry before the first training. A training that diverges, or whose
    codec misses its gate, is a result without a row; the others go on.

    Args:
        seeds: None takes that of each experiment.
        resume: Take finished rows from `out`; without it `out` may hold none.
        brief: Errors under each config's own protocol only.
        times_solver: Time the generators of the data.
        told: Called with each result.
    Raises:
        UsageError: `out` holds rows and `resume` is off, or two entries have one label.
        UpsError: Data or options of an entry that cannot be used, before anything is trained.
    """
    _check(entries, out, resume)
    for entry in entries:
        open_session(entry.experiment)
    results = []
    with files.exclusive(out, "running this benchmark", CheckpointError):
        for entry in entries:
            _fitted(entry, out, budget, _bar(entry, progress))
        for entry in entries:
            for seed in seeds or (entry.experiment.seed,):
                result = _result(entry, seed, out, budget, brief, progress)
                results.append(result)
                if told:
                    told(result)
        solvers = _solver_seconds(entries, out) if times_solver else {}
    return Benchmark(
        budget=budget.text if budget else "",
        seeds=tuple(dict.fromkeys(result.seed for result in results)),
        results=tuple(results),
        solver_seconds=solvers,
    )


def _check(entries: Sequence[Entry], out: Path, resume: bool) -> None:
    labels = [entry.label for entry in entries]
    double = sorted({label for label in labels if labels.count(label) > 1})
    if double:
        raise UsageError(f"{', '.join(double)}: named twice, rows could not be told apart")
    found = sorted((out / _ROWS).glob("*.json"))
    if found and not resume:
        raise UsageError(
            f"{out}: holds {len(found)} rows of an earlier benchmark",
            hint="--resume to take them over, or --out another folder",
        )


def _result(
    entry: Entry,
    seed: int,
    out: Path,
    budget: Budget | None,
    brief: bool,
    progress: Progress | None,
) -> Result:
    experiment = _seeded(entry.experiment, seed)
    asked = {**_asked(entry, budget), "seed": seed, "brief": brief}
    path = out / _ROWS / f"{_key(asked)}.json"
    if path.is_file():
        return Result(entry.label, seed, _read_row(path), reused=True)

    bar = _bar(entry, progress)
    fitted = _seeded(_fitted(entry, out, budget, bar), experiment.seed)
    try:
        row = train_and_judge(fitted, brief=brief, progress=bar)
    except (DivergedError, GateError) as error:
        return Result(entry.label, seed, None, error=str(error))
    files.write_json(path, {"asked": asked, "row": asdict(row)}, CheckpointError)
    return Result(entry.label, seed, row)


def _bar(entry: Entry, progress: Progress | None) -> Progress:
    """Progress under the entry's label."""

    def bar(what: str, done: int, total: int, note: str) -> None:
        if progress:
            progress(f"{entry.label} {what}", done, total, note)

    return bar


def _seeded(experiment: Experiment, seed: int) -> Experiment:
    return experiment.model_copy(update={"seed": seed})


def _asked(entry: Entry, budget: Budget | None) -> dict[str, Any]:
    """What decides an entry's result, but for the seed: config, data and budget."""
    session = open_session(entry.experiment)
    config = session.experiment.model_dump(mode="json", exclude={"seed", "tracking", "name"})
    data = [task.store.metadata.data_sha256 for task in session.tasks]
    return {"label": entry.label, "config": config, "data": data,
            "budget": budget.text if budget else ""}  # fmt: skip


def _key(asked: Mapping[str, Any]) -> str:
    return files.sha256_json(asked)[:16]


def _fitted(entry: Entry, out: Path, budget: Budget | None, progress: Progress) -> Experiment:
    """The entry with the steps that fill the budget, as they were found the first time."""
    path = out / _PLANS / f"{_key(_asked(entry, budget))}.json"
    if path.is_file():
        return validated(Experiment, _read(path), str(path))
    fitted = fit_to(budget, entry.experiment, progress)
    files.write_json(path, fitted.model_dump(mode="json"), CheckpointError)
    return fitted


def _read_row(path: Path) -> Row:
    try:
        content = _read(path)["row"]
        content["failed_gates"] = tuple(content["failed_gates"])
        return Row(**content)
    except (KeyError, TypeError) as error:
        raise _broken(path, error) from error


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error


def _broken(path: Path, reason: object) -> UpsError:
    return CheckpointError(
        f"{path}: not a row of this version's benchmarks: {reason}",
        hint=f"delete it, and it is made again: rm '{path}'",
    )


def _solver_seconds(entries: Sequence[Entry], out: Path) -> dict[str, float | None]:
    """Of each data set once, kept in `out`: timing it is not free."""
    path = out / "solvers.json"
    found: dict[str, float | None] = _read(path) if path.is_file() else {}
    for entry in entries:
        session = open_session(entry.experiment)
        name = ", ".join(task.store.name for task in session.tasks)
        if name not in found:
            times = [generator_seconds(task, session.device) for task in session.tasks]
            known = [one for one in times if one is not None]
            found[name] = sum(known) / len(known) if len(known) == len(times) else None
            files.write_json(path, found, CheckpointError)
    return found
