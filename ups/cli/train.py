"""`ups train`: run the stages of an experiment."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import ConfigOption, Overrides
from ups.errors import UsageError


class StageChoice(StrEnum):
    codec = "codec"
    operator = "operator"
    all = "all"


def train(
    stage: Annotated[
        StageChoice, typer.Option(help="Which stage; all runs them in order.")
    ] = StageChoice.all,
    config: ConfigOption = None,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and the sizes; train nothing.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Continue a run that was stopped.")
    ] = None,
) -> None:
    """Train: the codec first, then, on its cached tokens, the operator.

    Without --config the default is `configs/burgers1d.yaml`: the newest converted version of
    burgers1d. The resolved config is kept in the run's folder and can be passed back to --config.
    """
    from ups import runs

    if resume is not None:
        if config or overrides or dry_run:
            raise UsageError("--resume takes the run's own config: leave out --config and --set")
        _run(lambda **callbacks: _training().resume(runs.find_run(resume, with_stage=None),
                                                    **callbacks))  # fmt: skip
        return
    from ups.config.loading import load_experiment

    experiment = load_experiment(config, overrides or [])
    stages = ["codec", "operator"] if stage is StageChoice.all else [stage.value]
    if dry_run:
        _print_plan(experiment, stages)
        return
    from ups.training.session import open_session

    session = open_session(experiment)
    _output.summary("data", f"{session.store.name}, on {session.device}")
    _run(lambda **callbacks: _training().train(session.experiment, stages, **callbacks))


def _training() -> Any:
    from ups.training import run

    return run


def _run(start: Any) -> None:
    with _output.Bars() as bars:
        run = start(progress=bars, done=Told(bars))
    _output.summary("run", paths.display(run))


class Told:
    """Prints one line for each finished part, and takes its bar away."""

    def __init__(self, bars: _output.Bars) -> None:
        self._bars = bars

    def __call__(self, outcome: Any) -> None:
        what = getattr(outcome, "stage", "cache")
        self._bars.close(what)
        _output.summary(what, describe(outcome))
        if getattr(outcome, "card", None) is not None:
            print_card(outcome.card)


def print_card(card: Any) -> None:
    """A codec's report card: reconstruction error by frequency band, on both grids."""
    grids = {
        "on the grid": card.native,
        "at 2x": card.double,
        "at 2x, linear part alone": card.double_linear,
    }
    rows = [
        [name, *(f"{value:.1e}" for value in (e.nrmse, e.low, e.mid, e.high))]
        for name, e in grids.items()
    ]
    title = f"Report card: {card.num_frames} unseen frames, compression {card.compression:g}x"
    columns = ["reconstruction", ">nRMSE", ">wave 0-3", ">4-11", ">12 and up"]
    _output.print_table(title, columns, rows)


def describe(outcome: Any) -> str:
    """One line on a finished stage or cache build."""
    if not hasattr(outcome, "fit"):
        return describe_cache(outcome)
    fit = outcome.fit
    trained = f"{fit.steps} steps in {_output.duration(fit.seconds)}"
    if fit.first:
        trained = f"{fit.steps} steps, continued from {fit.first}"
    skipped = f", {fit.skipped} steps skipped" if fit.skipped else ""
    if outcome.card is not None:
        card = outcome.card
        return (
            f"{trained}{skipped}; reconstruction nRMSE {card.native.nrmse:.1e} on the grid, "
            f"{card.double.nrmse:.1e} at 2x (without the learned part "
            f"{card.double_linear.nrmse:.1e})"
        )
    return f"{trained}{skipped}; validation rollout nRMSE {fit.best['valid_nrmse']:.4f}"


def describe_cache(outcome: Any) -> str:
    build, identity = outcome.build, outcome.identity
    reused = "unchanged, reused: " if not build.written_shards else ""
    return (
        f"{reused}{identity.tokens} tokens x {identity.dim}, {identity.dtype}, "
        f"{_output.size(build.cache.manifest.size_bytes)} -> {paths.display(build.cache.folder)}"
    )


def _print_plan(experiment: Any, stages: list[str]) -> None:
    from ups.config.loading import to_yaml
    from ups.training.plan import plan
    from ups.training.session import open_session

    session = open_session(experiment)
    typer.echo(to_yaml(session.experiment), nl=False)
    typer.echo("---")
    for line in plan(session, stages):
        typer.echo(line)
