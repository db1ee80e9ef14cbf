"""`ups`: the command and its groups."""

from __future__ import annotations

from typing import Annotated

import typer

import ups
from ups.cli import (
    ablate,
    benchmark,
    cache,
    config,
    data,
    doctor,
    evaluate,
    export,
    infer,
    leaderboard,
    pipeline,
    promote,
    quickstart,
    remote,
    remotes,
    report,
    reproduce,
    runs,
    sweep,
    train,
)
from ups.cli._app import UpsGroup

app = typer.Typer(
    cls=UpsGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The Universal Physics Stack: data, latent caches, staged training and honest "
    "evaluation for neural PDE surrogates.",
)
app.command("quickstart", short_help="The whole path, once, on generated data.")(
    quickstart.quickstart
)
app.add_typer(data.app, name="data")
app.command("train", short_help="Train codec and operator.")(train.train)
app.add_typer(cache.app, name="cache")
app.command("eval", short_help="Judge a run by rollout in physical space.")(evaluate.evaluate)
app.command("infer", short_help="Predict from an initial state of your own.")(infer.infer)
app.command("eval export", short_help="Write a run as programs that run without ups.")(
    export.export
)
app.command("report", short_help="Write the page of a run: pictures, tables, how to rerun.")(
    report.report
)
app.command("benchmark", short_help="Configs and baselines under one budget.")(benchmark.benchmark)
app.command("sweep", short_help="Search a space of configs.")(sweep.sweep)
app.command("sweep show", short_help="Show the best trials of a sweep.")(sweep.show)
app.command("ablate", short_help="What each part of a config is worth.")(ablate.ablate)
app.command("pipeline", short_help="From a config to a champion, resumable.")(pipeline.pipeline)
app.command("promote", short_help="Make a run the champion of a benchmark.")(promote.promote)
app.command("reproduce", short_help="Make a leaderboard entry again, from it alone.")(
    reproduce.reproduce
)
app.add_typer(runs.app, name="runs")
app.add_typer(leaderboard.app, name="leaderboard")
app.add_typer(remotes.app, name="remotes")
app.add_typer(remote.app, name="remote")
app.add_typer(config.app, name="config")
app.command("doctor", short_help="Check this machine and say what is missing.")(doctor.doctor)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"ups {ups.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """Entry point of the `ups` script."""
    app()
