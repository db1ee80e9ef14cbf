"""`ups data generate`: solve the PDE here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Dataset
from ups.errors import UsageError


def generate(
    dataset: Dataset,
    num_trajectories: Annotated[int, typer.Option(min=1, help="How many to make.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial conditions.")] = 0,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="PDE parameter, e.g. --param nu=0.001."),
    ] = None,
    points: Annotated[
        int | None, typer.Option(min=8, help="Grid points per axis.", show_default="as published")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=2, help="Stored frames.", show_default="as published")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes; the result does not depend on it. A GPU has one.",
            show_default="1 for short work, else cores",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the raw file.", show_default="the dataset's raw folder"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another file of the same name.")
    ] = False,
) -> None:
    """Solve the PDE and write trajectories in the published layout.

    Stopped or killed, it continues when the same command is run again.
    """
    from ups import registry
    from ups.data.generate import generate as run

    card = registry.load_card(dataset)
    ticks: list[int] = []
    with _output.Bars() as bars:
        bar = bars.of("generate")

        def made(done: int, total: int) -> None:
            ticks.append(done)
            bar(done, total)

        path = run(
            card,
            parameters={**_defaults(card), **_parse_parameters(param or [])},
            num_trajectories=num_trajectories,
            seed=seed,
            out_dir=out or paths.raw_dir(dataset),
            points=points,
            frames=frames,
            device=device,
            workers=workers,
            force=force,
            progress=made,
        )
    state = "" if ticks else "unchanged, reused: "
    _output.summary("generate", f"{state}{num_trajectories} trajectories -> {paths.display(path)}")


def _defaults(card: Any) -> dict[str, float]:
    return card.generator.parameters if card.generator else {}


def _parse_parameters(pairs: list[str]) -> dict[str, float]:
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        try:
            values[name] = float(text)
        except ValueError:
            equals = ""
        if not equals:
            raise UsageError(f"--param {pair}: expected NAME=NUMBER, for example nu=0.001")
    return values
