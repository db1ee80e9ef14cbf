"""A sweep whose trials are remote jobs, several at once.

The study is the one of `ups sweep`: the same space file, the same storage, shown by the same
command. A trial's result is read from its pushed run. A client that was killed is continued by the
same command: jobs of trials that are under way are found in the records.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from ups import files, paths
from ups.config.schema import Experiment
from ups.errors import ConfigError, RemoteError, UpsError, UsageError
from ups.pipeline.space import Space, experiment_at
from ups.remote import launch, records
from ups.remote.prepare import remote_of
from ups.remote.records import Job
from ups.transfer.artefacts import find

if TYPE_CHECKING:
    from ups.pipeline.sweep import Sweep

_POLL_S = 5.0
_KNOWN = ("valid_nrmse", "train_seconds")
_GATE_MISSED = 5
_REMOTE_TRIAL = "remote"
Start = Callable[[Experiment, Mapping[str, Any]], Job]


@dataclass(frozen=True)
class Result:
    """What a trial's pushed run says.

    Attributes:
        valid_nrmse: Of the stage that is judged; None where it has none.
        score: nRMSE of the report; None where it was not evaluated.
    """

    run: str
    valid_nrmse: float | None
    train_seconds: float
    score: float | None


@dataclass(frozen=True)
class Trial:
    """One trial and its job, which is None where none could be made.

    Attributes:
        result: None while it runs, or where it failed; `error` then says why.
    """

    number: int
    values: Mapping[str, Any]
    job: Job | None
    result: Result | None = None
    error: str = ""


def grid_points(space: Space) -> list[dict[str, Any]] | None:
    """Every combination of a grid's choices; None for a space whose points are drawn."""
    if space.sampler.kind != "grid":
        return None
    choices = [one.choice or () for one in space.parameters.values()]
    return [dict(zip(space.parameters, values, strict=True)) for values in product(*choices)]


def check_objectives(space: Space) -> None:
    """Refuse objectives that no pushed run tells.

    Raises:
        UsageError: Names them.
    """
    unknown = [name for name in space.objectives if name not in _KNOWN]
    if unknown:
        raise UsageError(
            f"objectives: {', '.join(unknown)}: not told by a pushed run",
            hint=f"of remote sweeps: {', '.join(_KNOWN)}",
        )


def run_sweep(
    sweep: Sweep,
    trials: int,
    parallel: int,
    start: Start,
    *,
    told: Callable[[Trial], object] = lambda trial: None,
) -> list[Trial]:
    """Run trials as remote jobs until so many have been added.

    Args:
        trials: To be added, besides those that are under way from before.
        parallel: Jobs at a time.
        start: Launches one experiment; its second argument goes into the job's record.
        told: Called with each trial as its job begins and as it ends.
    Returns:
        All trials of this call, those under way from before first.
    Raises:
        UpsError: A job could not be launched for a reason that the next would share. Those that
            run go on.
    """
    from ups.pipeline.sweep import open_study

    check_objectives(sweep.space)
    with _alone(sweep.name):
        study = open_study(sweep)
        active = _resumed(sweep.name, study)
        done: list[Trial] = []
        left = trials
        while active or left:
            while left and len(active) < parallel:
                left -= 1
                trial = _begin(sweep, study, start)
                if trial is None:
                    left = 0
                    break
                told(trial)
                (active if trial.job is not None else done).append(trial)
            running = []
            for trial in active:
                ended = _look(trial, study, sweep.space)
                if ended is None:
                    running.append(trial)
                else:
                    told(ended)
                    done.append(ended)
            active = running
            if active:
                time.sleep(_POLL_S)
    return sorted(done, key=lambda trial: trial.number)


def best_of(trials: list[Trial], space: Space) -> list[Trial]:
    """Trials with a result, best first by the first objective."""
    name = space.objectives[0]
    known = [(getattr(trial.result, name), trial) for trial in trials if trial.result is not None]
    return [trial for value, trial in sorted(
        ((value, trial) for value, trial in known if value is not None), key=lambda pair: pair[0]
    )]  # fmt: skip


@contextmanager
def _alone(name: str) -> Iterator[None]:
    folder = paths.home() / "sweeps"
    with files.exclusive(folder / name, "running this sweep's remote jobs", RemoteError):
        yield


def _begin(sweep: Sweep, study: Any, start: Start) -> Trial | None:
    """Draw a point and launch it; None where the grid is exhausted."""
    from ups.pipeline.sweep import values_at

    drawn = _ask(sweep.space, study)
    if drawn is None:
        return None
    drawn.set_user_attr(_REMOTE_TRIAL, True)
    values = values_at(sweep.space, drawn)
    try:
        experiment = experiment_at(sweep.config, sweep.overrides, values)
    except ConfigError as error:
        _fail(study, drawn.number, str(error))
        return Trial(drawn.number, values, None, error=str(error))
    named = experiment.model_copy(update={"name": f"{sweep.name}-{drawn.number}"})
    try:
        job = start(named, {"sweep": sweep.name, "trial": drawn.number, "values": values})
    except UpsError as error:
        _fail(study, drawn.number, str(error))
        raise
    return Trial(drawn.number, values, job)


def _ask(space: Space, study: Any) -> Any:
    """A new trial of the study: the next point of a grid, or what the sampler draws.

    Optuna's own grid sampler does not go with trials that are asked for and told of.
    """
    from optuna.samplers import RandomSampler

    from ups.pipeline.sweep import labels

    if space.sampler.kind != "grid":
        return study.ask()
    study.sampler = RandomSampler()
    tried = [trial.params for trial in study.get_trials(deepcopy=False)]
    for values in product(*(labels(one) for one in space.parameters.values())):
        point = dict(zip(space.parameters, values, strict=True))
        if point not in tried:
            study.enqueue_trial(point)
            return study.ask()
    return None


def _resumed(name: str, study: Any) -> list[Trial]:
    """Trials of an earlier client whose jobs have records; those without one have failed."""
    waiting = {
        trial.number for trial in study.get_trials(deepcopy=False)
        if trial.state.name == "RUNNING" and trial.user_attrs.get(_REMOTE_TRIAL)
    }  # fmt: skip
    found = []
    for job in reversed(records.load_all()):
        planned = job.last(records.PLANNED) or {}
        if planned.get("sweep") == name and planned.get("trial") in waiting:
            waiting.remove(planned["trial"])
            found.append(Trial(int(planned["trial"]), planned["values"], job))
    for number in waiting:
        _fail(study, number, "its client ended before it was launched")
    return found


def _look(trial: Trial, study: Any, space: Space) -> Trial | None:
    """The trial with its result if its job has ended, which the study is told; else None."""
    assert trial.job is not None
    job = launch.refresh(trial.job, launch.driver_for(trial.job))
    if not job.has_ended:
        return None
    code = launch.exit_code_of(job)
    if code not in (0, _GATE_MISSED):
        return _failed(trial, job, study, launch.outcome(job))
    try:
        result = result_of(job)
    except RemoteError as error:
        return _failed(trial, job, study, str(error))
    values = [getattr(result, name) for name in space.objectives]
    if any(value is None for value in values):
        return _failed(trial, job, study, f"its run has no {space.objectives[0]}")
    _keep(study, trial.number, {"valid_nrmse": result.valid_nrmse, "run": result.run,
                                "train_seconds": result.train_seconds})  # fmt: skip
    study.tell(trial.number, values)
    return Trial(trial.number, trial.values, job, result)


def result_of(job: Job) -> Result:
    """What a job's pushed run says.

    Raises:
        RemoteError: The run is not on the remote.
    """
    name = f"{job.spec.task.run_name}/{job.spec.task.run_id}"
    labels = find("run", name, remote_of(job.spec)).manifest.labels
    stages = labels["stages"]
    judged = [one["best"] for one in stages
              if one["metric"] == "valid_nrmse" and one["name"] != "codec"]  # fmt: skip
    seconds = sum(float(one["seconds"] or 0.0) for one in stages)
    return Result(name, judged[0] if judged else None, seconds, labels.get("score"))


def _failed(trial: Trial, job: Job, study: Any, reason: str) -> Trial:
    _fail(study, trial.number, reason)
    return Trial(trial.number, trial.values, job, error=reason)


def _fail(study: Any, number: int, reason: str) -> None:
    from optuna.trial import TrialState

    _keep(study, number, {"error": reason[:400]})
    study.tell(number, state=TrialState.FAIL)


def _keep(study: Any, number: int, attributes: Mapping[str, Any]) -> None:
    """User attributes of a trial that is known by its number."""
    storage = study._storage
    trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    for key, value in attributes.items():
        storage.set_trial_user_attr(trial_id, key, value)
