"""Search a space of configs with Optuna: trials in one or several processes, one shared study.

Each trial trains a whole run (codec, cache and all) and is told to the study's storage, which any
number of processes and machines may share. A worker that is killed leaves a trial without a
heartbeat; the next worker to start a trial puts it back to be run again.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
import torch
from optuna import pruners, samplers
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from ups import paths, runs
from ups.errors import GateError, UsageError, did_you_mean
from ups.evaluation.context import open_context
from ups.models.flops import num_parameters
from ups.pipeline.budget import Budget, fit_to
from ups.pipeline.scratch import own_caches
from ups.pipeline.space import Distribution, Space, experiment_at
from ups.pipeline.trained import Training, train_alone
from ups.training.loop import DivergedError
from ups.training.session import open_session
from ups.training.tracking import Record

Progress = Callable[[str, int, int, str], None]
Told = Callable[[FrozenTrial], None]
HEARTBEAT_S, GRACE_S, RETRIES = 30, 120, 2
_LOCK_WAIT_S = 60
_PERCENT = 100
SPACE = "space"
_ERROR, _RUN, _CONFIG = "error", "run", "config"
_ERROR_KEY, _JUDGED = "valid_nrmse", ("operator", "steady_prior")
_CAUGHT = (UsageError, GateError, DivergedError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class Sweep:
    """What every worker of a sweep needs.

    Attributes:
        name: Of the study, and of all its runs.
        storage: Optuna's URL; the same one makes several machines work on one study.
        budget: Of each trial; None takes the steps of the config.
        device: Instead of the config's.
        heartbeat_s: Between signs of life of a trial; None where trials run elsewhere.
    """

    name: str
    config: str
    overrides: tuple[str, ...]
    space: Space
    storage: str
    budget: Budget | None = None
    device: str | None = None
    heartbeat_s: int | None = HEARTBEAT_S
    grace_s: int = GRACE_S


def default_storage() -> str:
    """A SQLite file below UPS_HOME."""
    path = paths.home() / "sweeps" / "sweeps.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{path}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's heartbeats call themselves experimental, and its log is not ours."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def open_study(sweep: Sweep, worker: int = 0) -> optuna.Study:
    """The study, made if it is new.

    Args:
        worker: Each one draws points of its own.

    Raises:
        UsageError: The storage cannot be opened, or the study of this name has another space.
    """
    with _quiet():
        study = optuna.create_study(
            study_name=sweep.name,
            storage=_storage(sweep.storage, sweep.heartbeat_s, sweep.grace_s),
            pruner=_pruner(sweep.space),
            directions=["minimize"] * len(sweep.space.objectives),
            load_if_exists=True,
        )
        study.sampler = _sampler(sweep.space, worker, len(study.get_trials(deepcopy=False)))
    known = study.user_attrs.get(SPACE)
    content = {"parameters": sweep.space.model_dump(mode="json")["parameters"],
               "objectives": list(sweep.space.objectives)}  # fmt: skip
    if known is None:
        study.set_user_attr(SPACE, content)
        study.set_user_attr(_CONFIG, {"config": sweep.config, "overrides": list(sweep.overrides)})
    elif known != content:
        raise UsageError(
            f"--name {sweep.name}: the study has another space",
            hint="another --name; trials of two spaces are not comparable",
        )
    return study


def load_study(name: str, storage: str) -> optuna.Study:
    """A study by name, to be shown.

    Raises:
        UsageError: There is none.
    """
    with _quiet():
        opened = _storage(storage, HEARTBEAT_S, GRACE_S)
        known = optuna.get_all_study_names(opened)
        if name not in known:
            raise UsageError(
                f"{name}: no such sweep in {storage}{did_you_mean(name, known)}",
                hint=f"known are {', '.join(known)}" if known else "ups sweep CONFIG --space FILE",
            )
        return optuna.load_study(study_name=name, storage=opened)


def _storage(url: str, heartbeat_s: int | None, grace_s: int) -> RDBStorage:
    waits = {"connect_args": {"timeout": _LOCK_WAIT_S}} if url.startswith("sqlite") else {}
    try:
        return RDBStorage(
            url,
            engine_kwargs=waits,
            heartbeat_interval=heartbeat_s,
            grace_period=grace_s,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
        )
    except (SQLAlchemyError, OptunaError, ImportError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"--storage {url}: cannot be opened: {reason}",
            hint="an SQLAlchemy URL: sqlite:////shared/sweeps.db, or postgresql://HOST/NAME",
        ) from error


def _sampler(space: Space, worker: int, trials: int) -> samplers.BaseSampler:
    """A sampler that repeats neither another worker's draws nor those before it."""
    config = space.sampler
    seed = int(np.random.SeedSequence([config.seed, worker, trials]).generate_state(1)[0])
    match config.kind:
        case "tpe":
            return samplers.TPESampler(
                seed=seed, n_startup_trials=config.startup_trials, constant_liar=True
            )
        case "random":
            return samplers.RandomSampler(seed=seed)
        case "nsga2":
            return samplers.NSGAIISampler(seed=seed)
        case "grid":
            values = {key: labels(one) for key, one in space.parameters.items()}
            return samplers.GridSampler(values, seed=config.seed)


def _pruner(space: Space) -> pruners.BasePruner:
    config = space.pruning
    match config.kind:
        case "median":
            return pruners.MedianPruner(n_startup_trials=config.startup_trials)
        case "successive_halving":
            return pruners.SuccessiveHalvingPruner(min_resource=_PERCENT // 10)
        case "none":
            return pruners.NopPruner()


def labels(one: Distribution) -> list[bool | int | float | str | None]:
    """Choices as Optuna keeps them: what is no plain value as its JSON text."""
    return [
        value if isinstance(value, bool | int | float | str | None) else json.dumps(value)
        for value in one.choice or ()
    ]


def values_at(space: Space, trial: optuna.Trial) -> dict[str, Any]:
    """Draw a value for each parameter."""
    found: dict[str, Any] = {}
    for key, one in space.parameters.items():
        if one.choice is not None:
            known = labels(one)
            found[key] = one.choice[known.index(trial.suggest_categorical(key, known))]
        elif one.integers or one.log_integers:
            low, high = (int(end) for end in one.ends)
            log = one.log_integers is not None
            found[key] = trial.suggest_int(key, low, high, step=one.step or 1, log=log)
        else:
            found[key] = trial.suggest_float(key, *one.ends, log=one.log_uniform is not None)
    return found


class Watcher:
    """Tells a trial its validation errors, and ends it where the pruner says so.

    Errors are told at percents of the stage, which trials of different lengths have in common.

    Args:
        stage: Whose `valid_nrmse` counts.
        steps: Of that stage.
    """

    def __init__(self, trial: optuna.Trial, stage: str, steps: int, warm_up: int | None) -> None:
        self._trial, self._stage, self._steps, self._warm_up = trial, stage, steps, warm_up
        self._seen = 0

    def log(self, record: Record) -> None:
        if record["stage"] != self._stage or _ERROR_KEY not in record or not record["step"]:
            return
        error = float(record[_ERROR_KEY])
        self._seen += 1
        if self._warm_up is None:
            return
        self._trial.report(error, round(_PERCENT * int(record["step"]) / self._steps))
        if self._seen > self._warm_up and self._trial.should_prune():
            raise optuna.TrialPruned(f"validation nRMSE {error:.4g} at step {record['step']}")

    def close(self) -> None:
        """Nothing is held."""


def run_trial(sweep: Sweep, trial: optuna.Trial, progress: Progress | None) -> tuple[float, ...]:
    """Train one point of the space; what it took is kept with the trial.

    A trial that is pruned or fails keeps its run's config and metrics, and no checkpoint.

    Returns:
        The objectives.
    """
    name = f"{sweep.name}-{trial.number}"
    try:
        training = _train(sweep, name, trial, progress)
        context = open_context(training.run)
        parameters = num_parameters(context.surrogate)
    except (optuna.TrialPruned, *_CAUGHT) as error:
        trial.set_user_attr(_ERROR, " ".join(str(error).split())[:400])
        for run in runs.list_runs(name):
            shutil.rmtree(run / "checkpoints", ignore_errors=True)
        raise
    found: dict[str, float | None] = {
        "valid_nrmse": training.valid_nrmse, "train_seconds": training.seconds,
        "train_flops": training.flops, "num_parameters": parameters,
    }  # fmt: skip
    for key, value in found.items():
        trial.set_user_attr(key, value)
    trial.set_user_attr(_RUN, runs.run_id(training.run))
    chosen = [found[objective] for objective in sweep.space.objectives]
    return tuple(float("nan") if value is None else float(value) for value in chosen)


def _train(sweep: Sweep, name: str, trial: optuna.Trial, progress: Progress | None) -> Training:
    values = values_at(sweep.space, trial)
    experiment = experiment_at(sweep.config, sweep.overrides, values)
    changes = {"name": name, **({"device": sweep.device} if sweep.device else {})}
    experiment = fit_to(sweep.budget, experiment.model_copy(update=changes))
    session = open_session(experiment)
    stage = next((one for one in session.stages if one in _JUDGED), session.stages[-1])
    pruning = sweep.space.pruning
    watcher = Watcher(
        trial, stage, getattr(experiment.stages, stage).steps,
        None if pruning.kind == "none" else pruning.warmup_validations,
    )  # fmt: skip
    home_runs = paths.runs_dir()
    alone = own_caches(keep_runs=True) if "codec" in session.stages else nullcontext()
    with alone:
        training = train_alone(experiment, progress=progress, watchers=[watcher])
        return replace(training, run=home_runs / training.run.relative_to(paths.runs_dir()))


def work(
    sweep: Sweep,
    take: Callable[[], bool],
    *,
    worker: int = 0,
    progress: Progress | None = None,
    told: Told | None = None,
) -> None:
    """Run trials until `take` says that there are enough, or the grid is exhausted.

    A trial that cannot be trained (values that do not go together, a diverging loss, a codec that
    misses its gate, too little memory) has failed; the next one follows.
    """
    study = open_study(sweep, worker)

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        return run_trial(sweep, trial, progress)

    def tell(study: optuna.Study, trial: FrozenTrial) -> None:
        if told:
            told(trial)

    while not _is_exhausted(study) and take():
        study.optimize(objective, n_trials=1, catch=_CAUGHT, callbacks=[tell])


def _is_exhausted(study: optuna.Study) -> bool:
    sampler = study.sampler
    return isinstance(sampler, samplers.GridSampler) and sampler.is_exhausted(study)
