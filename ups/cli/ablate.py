"""`ups ablate`: what each part of an experiment is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Json, Overrides
from ups.cli.benchmark import Budget, Resume, Seeds, Told, read_seeds
from ups.errors import UsageError


def ablate(
    config: Annotated[
        str | None, typer.Argument(help="YAML file, or the name of one in configs/.")
    ] = None,
    off: Annotated[
        str | None, typer.Option(metavar="PART,...", help="Parts to do without, one at a time.")
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="List parts; of CONFIG, which of them it has.")
    ] = False,
    budget: Budget = None,
    seeds: Seeds = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of rows and tables.", show_default="UPS_HOME/ablations/NAME"),
    ] = None,
    resume: Resume = False,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Train CONFIG whole and without each part, and tabulate what each part is worth.

    Every variant has the same budget and the same seeds; changes are paired by seed. Writes
    ablation.md and ablation.json.
    """
    if listed:
        _list(config, overrides or [])
        return
    if config is None or not off:
        raise UsageError(
            "name a config and its parts: ups ablate CONFIG --off PART,...",
            hint="ups ablate --list",
        )
    numbers = read_seeds(seeds)
    from ups.config.loading import load_experiment
    from ups.pipeline.ablate import run_ablation, to_dict, write_ablation
    from ups.pipeline.budget import parse_budget

    chosen = parse_budget(budget) if budget else None
    experiment = load_experiment(config, overrides or [])
    folder = out or paths.home() / "ablations" / experiment.name
    parts = [part.strip() for part in off.split(",") if part.strip()]
    with _output.Bars() as bars:
        found = run_ablation(
            experiment, parts, folder, budget=chosen, seeds=numbers or [experiment.seed],
            resume=resume, progress=bars, told=None if as_json else Told(bars),
        )  # fmt: skip
    files = write_ablation(found, folder)
    if as_json:
        _output.print_json(to_dict(found))
        return
    _print(found)
    _output.summary("written", ", ".join(paths.display(path) for path in files))


def _list(config: str | None, overrides: list[str]) -> None:
    from ups.config.loading import load_experiment
    from ups.pipeline.ablation_parts import PARTS
    from ups.training.session import open_session

    if config is None:
        rows = [[part.name, part.description] for part in PARTS.values()]
        _output.print_table("Parts", ["part", "what it is"], rows)
        return
    session = open_session(load_experiment(config, overrides))
    changes = [(part, part.without(session)) for part in PARTS.values()]
    rows = [[part.name, part.description] for part, change in changes if change is not None]
    _output.print_table(f"Parts of {session.experiment.name}", ["part", "what it is"], rows)


def _print(found: object) -> None:
    from ups.pipeline.ablate import HEADINGS, Ablation, cells, notes

    assert isinstance(found, Ablation)
    shown = len(HEADINGS) - 1  # what each part is stands in the file and in --list
    rows = [cells(one)[:shown] for one in found.losses]
    _output.print_table(f"Ablation of {found.experiment}", HEADINGS[:shown], rows)
    for note in notes(found):
        _output.summary("note", note)
    for one in found.losses:
        if one.error:
            _output.summary(one.part, one.error)
