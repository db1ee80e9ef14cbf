"""`ups remote launch --sweep`: trials as jobs, and the best of them as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ups.cli import _output
from ups.cli import _remote_options as shared
from ups.cli.sweep import require_optuna, values_in_words
from ups.errors import EXIT_INTERRUPTED, RemoteError

if TYPE_CHECKING:
    from ups.config.schema import Experiment
    from ups.remote.prepare import Request
    from ups.remote.records import Job
    from ups.remote.sweeps import Trial

_SHOWN = 5


@dataclass(frozen=True)
class About:
    """What is swept: the arguments of `ups sweep`."""

    config: str | None
    overrides: tuple[str, ...]
    space: Path
    trials: int
    parallel: int


def launch_sweep(request: Request, about: About, *, dry_run: bool, yes: bool) -> None:
    """Launch the trials, wait for all, and show the best."""
    require_optuna()
    from ups.cli import remote
    from ups.pipeline.space import check_keys, load_space
    from ups.pipeline.sweep import Sweep, default_storage
    from ups.remote import sweeps

    config = about.config or "burgers1d"
    space = load_space(about.space)
    check_keys(space, config, about.overrides, str(about.space))
    sweeps.check_objectives(space)
    points = sweeps.grid_points(space)
    trials = about.trials if points is None else min(about.trials, len(points))
    outlook, driver = remote.look_ahead(request)
    shared.print_outlook(outlook, whole=dry_run)
    worst = outlook.spec.worst_cost
    total = None if worst is None else worst * trials
    _output.summary("sweep", f"{trials} trials, {about.parallel} at a time"
                    + (f", at most {shared.dollars(total)} in all" if total else ""))  # fmt: skip
    if dry_run:
        return
    remote.ask(total if driver.is_paid else None, yes=yes)

    def start(experiment: Experiment, record: Mapping[str, Any]) -> Job:
        outlook, driver = remote.look_ahead(replace(request, experiment=experiment))
        return remote.begin(outlook, driver, yes=True, quiet=True, about=record)

    name = f"{Path(config).stem}-{about.space.stem}"
    sweep = Sweep(name=name, config=config, overrides=about.overrides, space=space,
                  storage=default_storage(), heartbeat_s=None)  # fmt: skip
    try:
        found = sweeps.run_sweep(sweep, trials, about.parallel, start, told=_tell)
    except KeyboardInterrupt:
        typer.echo("its jobs go on; the same command continues: ups remote list", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    _show(sweeps.best_of(found, space))


def _tell(trial: Trial) -> None:
    if trial.result is not None:
        text = f"valid nRMSE {_number(trial.result.valid_nrmse)}"
    elif trial.error:
        text = f"failed: {trial.error}"
    else:
        text = f"job {trial.job.id if trial.job is not None else ''}"
    _output.summary(f"trial {trial.number}", f"{text}; {values_in_words(dict(trial.values))}")


def _show(best: list[Trial]) -> None:
    if not best:
        raise RemoteError("no trial has a result", hint="ups remote list; ups remote logs JOB")
    rows = [
        [str(trial.number), _number(trial.result.valid_nrmse), _number(trial.result.score),
         f"{trial.result.train_seconds:.3g}", shared.dollars(trial.job.cost),
         values_in_words(dict(trial.values))]
        for trial in best[:_SHOWN] if trial.result is not None and trial.job is not None
    ]  # fmt: skip
    heads = [">trial", ">valid nRMSE", ">test nRMSE", ">train s", ">cost", "values"]
    _output.print_table("Best", heads, rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
