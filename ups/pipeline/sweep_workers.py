"""The processes of a sweep on this machine, and what is to be said of its trials."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from ups.config.loading import load_experiment
from ups.errors import CheckpointError, UpsError
from ups.pipeline.sweep import SPACE, Progress, Sweep, Told, open_study, work
from ups.training.session import open_session

Cost = Literal["train_seconds", "train_flops", "num_parameters"]
_DEATHS_EACH = 3
_POLL_S = 0.2


def run_sweep(
    sweep: Sweep,
    trials: int,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    told: Told | None = None,
) -> optuna.Study:
    """Add trials to a study, the study made if it is new.

    Args:
        trials: All workers together.
        workers: Processes on this machine; GPUs are dealt out to them in turn. Other machines join
            with the same storage and name.
        told: Called with each finished trial.
    Raises:
        UpsError: Storage, config or data that cannot be used.
        CheckpointError: Workers were killed again and again.
    """
    study = open_study(sweep)
    open_session(load_experiment(sweep.config, sweep.overrides))
    if workers == 1:
        left = iter(range(trials))
        work(sweep, lambda: next(left, None) is not None, progress=progress, told=told)
    else:
        _in_processes(sweep, trials, workers, study, told)
    return study


def _in_processes(
    sweep: Sweep, trials: int, workers: int, study: optuna.Study, told: Told | None
) -> None:
    """Workers take tickets; that of a worker that was killed goes to the one in its place."""
    context = multiprocessing.get_context("spawn")
    tickets, errors = context.Value("i", trials), context.SimpleQueue()
    seen = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
    group: dict[int, Any] = {}
    started, deaths = 0, 0

    def start(place: int) -> None:
        nonlocal started
        own = replace(sweep, device=sweep.device or _device(sweep, place))
        arguments = (own, tickets, errors, place, started, workers)
        group[place] = context.Process(target=_worker, args=arguments, daemon=True)
        group[place].start()
        started += 1

    try:
        for place in range(min(workers, trials)):
            start(place)
        while group:
            time.sleep(_POLL_S)
            _tell_new(study, seen, told)
            for place, process in list(group.items()):
                if process.is_alive():
                    continue
                del group[place]
                if not errors.empty():
                    raise errors.get()
                if process.exitcode:
                    deaths += 1
                    if deaths > _DEATHS_EACH * workers:
                        raise CheckpointError(
                            f"{sweep.name}: {deaths} workers were ended from outside, the last "
                            f"with code {process.exitcode}",
                            hint="fewer --workers if memory ran out; the study keeps what is done",
                        )
                    with tickets.get_lock():
                        tickets.value += 1
                    start(place)
        _tell_new(study, seen, told)
    finally:
        for process in group.values():
            process.terminate()
        for process in group.values():
            process.join()


def _worker(sweep: Sweep, tickets: Any, errors: Any, place: int, number: int, workers: int) -> None:
    """A worker process; `number` is its own, `place` may have been another's before."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))

    def take() -> bool:
        with tickets.get_lock():
            tickets.value -= 1
            return bool(tickets.value >= 0)

    try:
        work(sweep, take, worker=number)
    except UpsError as error:
        errors.put(error)
        raise SystemExit(error.exit_code) from error


def _device(sweep: Sweep, place: int) -> str | None:
    """A GPU of its own for each worker, where there are several and the config names none."""
    wanted = load_experiment(sweep.config, sweep.overrides).device
    count = torch.cuda.device_count() if wanted in ("auto", "cuda") else 0
    return f"cuda:{place % count}" if count > 1 else None


def _tell_new(study: optuna.Study, seen: set[int], told: Told | None) -> None:
    """Tell of trials that have finished since the last call, whoever ran them."""
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished() and trial.number not in seen:
            seen.add(trial.number)
            if told:
                told(trial)


@dataclass(frozen=True)
class Point:
    """One trial of a study.

    Attributes:
        state: 'complete', 'pruned', 'fail', 'running', 'waiting'.
        objectives: In the study's order; empty unless complete.
        values: Key -> what was tried.
        valid_nrmse, train_seconds, train_flops, num_parameters: None unless complete.
        run: `name/id`; empty unless complete.
        error: Why it failed or was pruned.
    """

    number: int
    state: str
    objectives: tuple[float, ...]
    values: dict[str, Any]
    valid_nrmse: float | None
    train_seconds: float | None
    train_flops: float | None
    num_parameters: int | None
    run: str
    error: str


def points_of(study: optuna.Study) -> list[Point]:
    """Every trial of a study."""
    return [_point(trial) for trial in study.get_trials(deepcopy=False)]


def _point(trial: FrozenTrial) -> Point:
    about = trial.user_attrs
    is_complete = trial.state is TrialState.COMPLETE
    return Point(
        number=trial.number,
        state=trial.state.name.lower(),
        objectives=tuple(trial.values) if is_complete else (),
        values=dict(trial.params),
        valid_nrmse=about.get("valid_nrmse"),
        train_seconds=about.get("train_seconds"),
        train_flops=about.get("train_flops"),
        num_parameters=about.get("num_parameters"),
        run=str(about.get("run", "")),
        error=str(about.get("error", "")),
    )


def best(points: Sequence[Point], number: int) -> list[Point]:
    """Complete trials by their first objective, best first."""
    complete = [point for point in points if point.state == "complete"]
    return sorted(complete, key=lambda point: point.objectives[0])[:number]


def pareto(points: Sequence[Point], cost: Cost = "train_flops") -> list[Point]:
    """Complete trials that no other one beats or equals in both error and cost.

    Args:
        cost: Operations do not depend on what else the machine does; seconds do.
    Returns:
        The most accurate one first, the cheapest one last.
    """
    known = [
        (point.valid_nrmse, float(paid), point)
        for point in points
        if point.valid_nrmse is not None and (paid := getattr(point, cost)) is not None
    ]
    known.sort(key=lambda item: item[:2])
    front: list[Point] = []
    least = float("inf")
    for _, paid, point in known:
        if paid < least:
            front.append(point)
            least = paid
    return front


def cost_of_front(study: optuna.Study) -> Cost:
    """What the front is drawn against: the objective beside the error, else operations."""
    objectives = study.user_attrs.get(SPACE, {}).get("objectives", [])
    known: tuple[Cost, ...] = ("train_seconds", "num_parameters")
    return next((one for one in known if one in objectives), "train_flops")
