"""`ups train`: run the stages of an experiment."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import ConfigOption, Overrides
from ups.cli.cache_travel import describe_fetched, describe_use
from ups.errors import CheckpointError, UsageError

AUTO = "auto"


class StageChoice(StrEnum):
    codec = "codec"
    operator = "operator"
    diff_residual = "diff_residual"
    consistency_distill = "consistency_distill"
    steady_prior = "steady_prior"
    all = "all"


class ModelChoice(StrEnum):
    latent = "latent"
    fno = "fno"
    tfno = "tfno"
    uno = "uno"
    cosine_fno = "cosine_fno"
    unet = "unet"
    dit = "dit"
    persistence = "persistence"
    mean = "mean"


def train(
    stage: Annotated[
        StageChoice | None,
        typer.Option(
            help="Which stage; all is every one that fits the data.",
            show_default="stages.order of the config",
        ),
    ] = None,
    config: ConfigOption = None,
    overrides: Overrides = None,
    model: Annotated[
        ModelChoice | None,
        typer.Option(
            help="A baseline in place of the config's model, tuned, as run <config>-<model>.",
            show_default="the config's",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and the sizes; train nothing.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Continue a run that was stopped; auto: the newest of this config, or a new one.",
        ),
    ] = None,
    nproc: Annotated[
        int,
        typer.Option(min=1, help="Processes on this machine, one for each GPU; or use torchrun."),
    ] = 1,
    cache_from: Annotated[
        str | None,
        typer.Option(
            metavar="REMOTE",
            help="Take tokens, codec and data that are not here from a remote: cache.pull.",
            show_default="the config's",
        ),
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Name of the run's folder; a run that is there goes on.",
            show_default="made of time and config",
        ),
    ] = None,
) -> None:
    """Train in stages: codec, operator on its cached tokens, models of what that leaves over.

    Without --config the default is `configs/burgers1d.yaml`: the newest converted version of
    burgers1d. The resolved config is kept in the run's folder and can be passed back to --config.
    Exit code 8 says that SIGTERM or SIGUSR1 stopped the run, and that its state was saved.
    """
    from ups.training.processes import find_place, launch, told_by_main

    if nproc > 1 and find_place().world_size == 1:
        raise typer.Exit(launch(nproc, sys.argv[1:]))
    with told_by_main():
        if resume not in (None, AUTO):
            if config or overrides or model or dry_run or cache_from or run_id:
                raise UsageError("--resume RUN takes the run's own config: leave out --config, "
                                 "--model, --set, --cache-from and --run-id")  # fmt: skip
            _resume(resume)
        else:
            experiment = _experiment(config, model, overrides or [])
            if cache_from is not None:
                experiment = _pulling(experiment, cache_from, _named(stage, experiment))
            _start(stage, experiment, dry_run=dry_run, is_resumed=resume == AUTO, run_id=run_id)


def _resume(name: str) -> None:
    from ups import runs
    from ups.training.distributed import together

    run = runs.find_run(name, with_stage=None)
    with together(runs.run_experiment_of(run).device):
        _run(lambda **callbacks: _training().resume(run, **callbacks))


def _experiment(config: ConfigOption, model: ModelChoice | None, overrides: list[str]) -> Any:
    from ups.config.loading import load_experiment
    from ups.training.baselines import load_baseline

    if model is None:
        return load_experiment(config, overrides)
    return load_baseline(model.value, config, overrides)


def _named(stage: StageChoice | None, experiment: Any) -> Any:
    """The stages that are asked for, where that is known before the data are."""
    if stage is None:
        order = experiment.stages.order
        return None if order is None else list(order)
    return None if stage is StageChoice.all else [stage.value]


def _pulling(experiment: Any, remote: str, stages: Any) -> Any:
    """The experiment with a remote to take tokens from."""
    if stages is None or StageChoice.codec in stages:
        raise UsageError(
            "--cache-from: no cache is by a codec that is still to be trained",
            hint="name a stage on tokens: --stage operator, or steady_prior",
        )
    cache = experiment.cache.model_copy(update={"pull": remote})
    return experiment.model_copy(update={"cache": cache})


def _start(
    stage: StageChoice | None,
    experiment: Any,
    *,
    dry_run: bool,
    is_resumed: bool,
    run_id: str | None,
) -> None:
    from ups.training.cache_source import open_with_data
    from ups.training.distributed import on_main, together

    with together(experiment.device):
        named = _named(stage, experiment)
        if dry_run and _tell_of_missing(experiment, named):
            return
        with _output.Bars() as bars:
            session, fetched = open_with_data(experiment, named, progress=bars)
        for one in fetched:
            _output.summary("pulled", describe_fetched(one))
        stages = _chosen(session, stage)
        if dry_run:
            _print_plan(session, stages)
            return
        names = ", ".join(task.store.name for task in session.tasks)
        _output.summary("data", f"{names}, on {session.device}")
        begun = on_main(lambda: _begun(experiment.name, run_id))
        if begun is not None:
            _run(lambda **callbacks: _training().resume(begun, **callbacks))
            return
        if is_resumed:
            run, state = on_main(lambda: _training().find_same_run(session, stages))
            if state == "unfinished":
                _run(lambda **callbacks: _training().resume(run, **callbacks))
                return
        _run(lambda **callbacks: _training().train(session, stages, run_id=run_id, **callbacks))


def _begun(name: str, run_id: str | None) -> Path | None:
    """The run of exactly this name, if its record is complete: it is written last."""
    from ups import runs
    from ups.transfer.run_artefacts import is_run_name

    if run_id is None:
        return None
    if not is_run_name(f"{name}/{run_id}"):
        raise UsageError(f"--run-id {run_id}: letters, digits, '.', '_' and '-' only")
    folder = paths.runs_dir() / name / run_id
    return folder if (folder / runs.ENVIRONMENT).is_file() else None


def _chosen(session: Any, stage: StageChoice | None) -> list[str]:
    if stage is None:
        return list(session.stages)
    return list(session.all_stages) if stage is StageChoice.all else [stage.value]


def _training() -> Any:
    from ups.training import run

    return run


def _run(start: Any) -> None:
    from ups.training.distributed import is_main

    with _output.Bars() as bars:
        run = start(progress=bars if is_main() else None, done=Told(bars))
    _output.summary("run", paths.display(run))
    _tell_of_tracking(run)


def _tell_of_tracking(run: Path) -> None:
    """Where W&B shows the run, or how to send what was kept here."""
    from ups import runs
    from ups.runs.summary import sync_command

    known = runs.read_tracking(run)
    if known is None:
        return
    if command := sync_command(run):
        _output.summary("tracked", f"offline; to send it: {command}")
    elif url := known.get("url"):
        _output.summary("tracked", url)


class Told:
    """Prints one line for each finished part, and takes its bar away."""

    def __init__(self, bars: _output.Bars) -> None:
        self._bars = bars

    def __call__(self, outcome: Any) -> None:
        what = getattr(outcome, "stage", "cache")
        self._bars.close(what)
        _output.summary(what, describe(outcome))
        for task, card in getattr(outcome, "cards", {}).items():
            print_card(task, card)


def print_card(task: str, card: Any) -> None:
    """A codec's report card: reconstruction error by frequency band, on three grids."""
    grids = {
        "on the grid": card.native,
        "  linear part alone": card.floor,
        "at 2x": card.double,
        "  linear part alone ": card.double_linear,
        "at 4x": card.quadruple,
    }
    rows = [
        [name, *(f"{value:.1e}" for value in (e.nrmse, e.low, e.mid, e.high))]
        for name, e in grids.items()
        if e is not None
    ]
    title = f"{task}: {card.num_frames} unseen frames, compression {card.compression:g}x"
    columns = ["reconstruction", ">nRMSE", ">wave 0-3", ">4-11", ">12 and up"]
    _output.print_table(title, columns, rows)


def describe(outcome: Any) -> str:
    """One line on a finished stage or cache build, or on where the tokens are."""
    if hasattr(outcome, "where"):
        return describe_residence(outcome)
    if hasattr(outcome, "origin"):
        return describe_use(outcome)
    if not hasattr(outcome, "fit"):
        return describe_cache(outcome)
    fit = outcome.fit
    trained = f"{fit.steps} steps in {_output.duration(fit.seconds)}"
    if fit.first:
        trained = f"{fit.steps} steps, continued from {fit.first}"
    if fit.skipped:
        trained += f", {fit.skipped} steps skipped"
    best = fit.best
    match outcome.stage:
        case "codec":
            return f"{trained}; reconstruction nRMSE {best['valid_nrmse_native']:.1e}" + (
                f" on the grid, {best['valid_nrmse_2x']:.1e} at 2x" if outcome.cards else ""
            )
        case "diff_residual" | "consistency_distill":
            return (
                f"{trained}; validation CRPS {best['valid_crps']:.4f}, without it "
                f"{best['valid_mae_deterministic']:.4f}"
            )
        case "steady_prior":
            return f"{trained}; validation nRMSE {best['valid_nrmse']:.4f}"
        case _:
            return f"{trained}; validation rollout nRMSE {best['valid_nrmse']:.4f}" + _each(best)


def _each(best: dict[str, float]) -> str:
    """Of several tasks, each one's error."""
    found = {k.removesuffix("/nrmse"): v for k, v in best.items() if k.endswith("/nrmse")}
    return f" ({', '.join(f'{name} {value:.4f}' for name, value in found.items())})" * bool(found)


def describe_cache(outcome: Any) -> str:
    build, identity = outcome.build, outcome.identity
    reused = "unchanged, reused: " if not build.written_shards else ""
    return (
        f"{reused}{identity.tokens} tokens x {identity.dim}, {identity.dtype}, "
        f"{_output.size(build.cache.manifest.size_bytes)} -> {paths.display(build.cache.folder)}"
    )


def _tell_of_missing(experiment: Any, stages: Any) -> bool:
    """Say what would be pulled before anything more can be said; whether that is so."""
    from ups.training.cache_source import fetch_missing, may_fetch

    if not may_fetch(experiment, stages):
        return False
    fetched = fetch_missing(experiment, dry_run=True)
    for one in fetched:
        _output.summary("would pull", describe_fetched(one))
    return bool(fetched)


def describe_residence(residence: Any) -> str:
    """`1.2 GB in memory`, `8.2 GB streamed from 31 shards`."""
    count = residence.shards
    places = {
        "device": "on the device",
        "memory": "in memory",
        "stream": f"streamed from {count} shard{'s' * (count != 1)}",
    }
    return f"{_output.size(residence.size_bytes)} {places[residence.where]}"


def _tell_of_caches(session: Any, stages: Any) -> None:
    """Where the tokens would come from, if the stages do not make their codec first."""
    from ups.training.stages.build import foundation_of

    try:
        caches = foundation_of(session, stages, dry_run=True).caches
    except CheckpointError as error:
        _output.summary("cache", str(error))
        return
    for use in caches:
        _output.summary("cache", describe_use(use, planned=True))


def _print_plan(session: Any, stages: Any) -> None:
    from ups.config.loading import to_yaml
    from ups.training.plan import costs, plan

    typer.echo(to_yaml(session.experiment), nl=False)
    typer.echo("---")
    for label, text in plan(session):
        _output.summary(label, text)
    _tell_of_caches(session, stages)
    rows, total = [], 0.0
    for cost in costs(session, stages):
        total += cost.seconds
        rows.append([
            cost.stage, f"{cost.steps:,}", f"{cost.parameters:,}",
            f"{cost.flops_per_step / 1e9:.3g} GFLOP", _output.size(cost.memory_bytes),
            _output.duration(cost.seconds),
        ])  # fmt: skip
    heads = ["stage", ">steps", ">parameters", ">per step", ">memory", ">time here"]
    _output.print_table("From a probe of 10 steps on this machine", heads, rows)
    _output.summary("in all", f"about {_output.duration(total)}, validation and caches not counted")
