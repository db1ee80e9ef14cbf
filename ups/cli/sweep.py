"""`ups sweep`: search a space of configs."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Json, Overrides
from ups.cli.benchmark import Budget
from ups.errors import MissingExtraError, UsageError

_SHOWN = 5


class WandbChoice(StrEnum):
    write = "write"
    create = "create"


Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Optuna storage; several machines may share it.",
        show_default="SQLite below UPS_HOME/sweeps",
    ),
]


def sweep(
    config: Annotated[str, typer.Argument(help="YAML file, or the name of one in configs/.")],
    space: Annotated[
        Path | None, typer.Option(help="Space file: parameters, objectives, sampler, pruner.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="To be added, all workers together.")] = 20,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    storage: Storage = None,
    name: Annotated[
        str | None, typer.Option(help="Of the study.", show_default="CONFIG-SPACE")
    ] = None,
    budget: Budget = None,
    overrides: Overrides = None,
    wandb: Annotated[
        WandbChoice | None,
        typer.Option(help="Write the space as a W&B sweep, or create it there; train nothing."),
    ] = None,
    point: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Train this one point: what agents of W&B call."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Search a space of configs with Optuna; the same name goes on with the same study.

    A trial that is worse than others in validation is pruned. With two objectives the result is a
    Pareto front. A trial whose worker was killed is run again.
    """
    changes = tuple(overrides or ())
    if point is not None:
        _train_point(config, changes, point)
        return
    if space is None:
        raise UsageError(
            "--space: name a space file", hint="an example: configs/sweeps/burgers1d.yaml"
        )
    from ups.pipeline.space import check_keys, load_space

    found = load_space(space)
    check_keys(found, config, changes, str(space))
    title = name or f"{Path(config).stem}-{space.stem}"
    if wandb is not None:
        _to_wandb(found, title, config, changes, create=wandb is WandbChoice.create)
        return
    require_optuna()
    from ups.pipeline.budget import parse_budget
    from ups.pipeline.sweep import Sweep, default_storage
    from ups.pipeline.sweep_workers import run_sweep

    job = Sweep(
        name=title, config=config, overrides=changes, space=found,
        storage=storage or default_storage(), budget=parse_budget(budget) if budget else None,
    )  # fmt: skip
    with _output.Bars() as bars:

        def told(trial: Any) -> None:
            bars.close_all()
            if not as_json:
                _tell(trial)

        study = run_sweep(job, trials, workers=workers, progress=bars, told=told)
    _show(study, as_json)


def show(
    name: Annotated[str, typer.Argument(help="Of the study.")],
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show a sweep: its best trials, and accuracy against training time as a Pareto table."""
    require_optuna()
    from ups.pipeline.sweep import default_storage, load_study

    _show(load_study(name, storage or default_storage()), as_json)


def require_optuna() -> None:
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise MissingExtraError(
            "ups sweep: needs optuna", hint="pip install 'universal-physics-stack[sweep]'"
        )


def _train_point(config: str, overrides: tuple[str, ...], text: str) -> None:
    from ups.pipeline.space import experiment_at

    try:
        values = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--point {text}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--point {text}: expected an object of keys and values")
    experiment = experiment_at(config, overrides, values)
    from ups.training.run import train

    with _output.Bars() as bars:
        run = train(experiment, progress=bars)
    _output.summary("run", paths.display(run))


def _to_wandb(
    space: Any, name: str, config: str, overrides: tuple[str, ...], *, create: bool
) -> None:
    from ups import files
    from ups.config.loading import load_experiment
    from ups.pipeline import wandb_sweep
    from ups.training.session import open_session

    experiment = load_experiment(config, overrides)
    stage = open_session(experiment).stages[-1]
    content = wandb_sweep.wandb_sweep(
        space, name=name, config=config, overrides=overrides, stage=stage
    )
    path = paths.home() / "sweeps" / f"{name}.wandb.json"
    files.write_json(path, content)
    _output.summary("written", f"{paths.display(path)}; wandb sweep takes it")
    if create:
        found = wandb_sweep.create(content, experiment.tracking)
        _output.summary("created", f"{found}; on each machine: wandb agent {found}")


def _tell(trial: Any) -> None:
    about = trial.user_attrs
    state = trial.state.name.lower()
    if state == "complete":
        error = about.get("valid_nrmse")
        seconds = _output.duration(about["train_seconds"])
        text = f"valid nRMSE {error:.4g} in {seconds}" if error is not None else f"in {seconds}"
    else:
        text = f"{state}: {about.get('error', 'its worker was killed')}"
    _output.summary(f"trial {trial.number}", f"{text}; {values_in_words(trial.params)}")


def values_in_words(values: dict[str, Any]) -> str:
    """Keys by their last word, where that tells them apart."""
    last = [key.rpartition(".")[2] for key in values]
    names = [one if last.count(one) == 1 else key for one, key in zip(last, values, strict=True)]
    texts = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in values.values()]
    return " ".join(f"{name}={text}" for name, text in zip(names, texts, strict=True))


def _show(study: Any, as_json: bool) -> None:
    from ups.pipeline.sweep_workers import best, cost_of_front, pareto, points_of

    points, cost = points_of(study), cost_of_front(study)
    front = pareto(points, cost)
    if as_json:
        _output.print_json({
            "name": study.study_name, **study.user_attrs,
            "trials": [asdict(point) for point in points],
            "pareto": [point.number for point in front],
        })  # fmt: skip
        return
    states = [point.state for point in points]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    _output.summary("sweep", f"{study.study_name}: {counts or 'no trial yet'}")
    if not front:
        reasons = [point.error for point in points if point.error]
        _output.summary("empty", reasons[0] if reasons else "no trial is complete")
        return
    heads = [">trial", ">nRMSE", ">train s", ">TFLOP", ">params", "values"]
    _output.print_table("Best", heads, [_cells(point) for point in best(points, _SHOWN)])
    title = f"Pareto front: no other is better in both nRMSE and {cost}"
    _output.print_table(title, heads, [_cells(point) for point in front])


def _cells(point: Any) -> list[str]:
    error = "–" if point.valid_nrmse is None else f"{point.valid_nrmse:.4g}"
    flops = "–" if point.train_flops is None else f"{point.train_flops / 1e12:.3g}"
    parameters = "–" if point.num_parameters is None else f"{point.num_parameters:,}"
    return [
        str(point.number), error, f"{point.train_seconds:.3g}", flops, parameters,
        values_in_words(point.values),
    ]  # fmt: skip
