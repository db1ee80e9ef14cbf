"""`ups`: the command and its groups."""

from __future__ import annotations

from typing import Annotated

import typer

import ups
from ups.cli import cache, config, data, doctor, evaluate, leaderboard, quickstart, runs, train
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
app.add_typer(runs.app, name="runs")
app.add_typer(leaderboard.app, name="leaderboard")
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
