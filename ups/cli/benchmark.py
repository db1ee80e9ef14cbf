"""`ups benchmark`: experiments and their baselines under one budget, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Json, Overrides
from ups.cli.train import ModelChoice
from ups.errors import UsageError

Budget = Annotated[
    str | None,
    typer.Option(
        help="Of each training: 120s, 2h, 3000steps, 5e15flop; codec and cache count.",
        show_default="the steps of each config",
    ),
]
Seeds = Annotated[
    str | None, typer.Option(help="For example 1,2,3.", show_default="that of the config")
]
Resume = Annotated[bool, typer.Option("--resume", help="Take over what is in --out already.")]


def benchmark(
    config: Annotated[
        list[str], typer.Argument(metavar="CONFIG...", help="YAML files, or names in configs/.")
    ],
    model: Annotated[
        list[ModelChoice] | None,
        typer.Option(help="A baseline of each config beside it, tuned; may be repeated."),
    ] = None,
    budget: Budget = None,
    seeds: Seeds = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of rows and tables.", show_default="below UPS_HOME/comparisons"),
    ] = None,
    resume: Resume = False,
    brief: Annotated[
        bool, typer.Option("--brief", help="Errors only: no pictures, costs and further protocols.")
    ] = False,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Train configs and baselines under one budget, judge each, and compare them.

    Writes comparison.md, .csv, .json and .png: error against training time, parameters and
    inference time, and the number of solves that pay for the training. Seeds give intervals.
    """
    numbers = read_seeds(seeds)
    from ups.pipeline.benchmark import run_benchmark
    from ups.pipeline.budget import parse_budget
    from ups.pipeline.comparison import compare, to_dict, write_comparison

    chosen = parse_budget(budget) if budget else None
    entries = _entries(config, model or [], overrides or [])
    folder = out or _default_folder(entries, budget)
    with _output.Bars() as bars:
        found = run_benchmark(
            entries, folder, budget=chosen, seeds=numbers, resume=resume, brief=brief,
            progress=bars, told=None if as_json else Told(bars),
        )  # fmt: skip
    files = write_comparison(found, folder)
    comparisons = compare(found)
    if as_json:
        _output.print_json(to_dict(comparisons, found))
        return
    for one in comparisons:
        _print(one, found)
    _output.summary("written", ", ".join(paths.display(path) for path in files))


def read_seeds(text: str | None) -> list[int] | None:
    """`1,2,3` as numbers.

    Raises:
        UsageError: It is something else, or one stands twice.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise UsageError(f"--seeds {text}: expected different whole numbers, for example 1,2,3")
    return [int(part) for part in parts]


class Told:
    """Prints one line for each finished training, and takes its bars away."""

    def __init__(self, bars: _output.Bars) -> None:
        self._bars = bars

    def __call__(self, result: Any) -> None:
        self._bars.close_all()
        _output.summary(f"{result.label}, seed {result.seed}", _described(result))


def _described(result: Any) -> str:
    row = result.row
    if row is None:
        return f"failed: {result.error}"
    error = "blew up" if row.nrmse is None else f"nRMSE {row.nrmse:.4g}"
    steps = " + ".join(str(number) for number in row.steps.values())
    again = "unchanged, reused: " if result.reused else ""
    return f"{again}{error}, {steps} steps in {_output.duration(row.train_seconds)}; {row.run}"


def _entries(configs: list[str], models: list[ModelChoice], overrides: list[str]) -> list[Any]:
    """Each config, then its baselines."""
    from ups.config.loading import load_experiment
    from ups.pipeline.benchmark import Entry
    from ups.training.baselines import load_baseline

    found = []
    for config in configs:
        experiment = load_experiment(config, overrides)
        found.append(Entry(experiment.name, experiment))
        for model in models:
            baseline = load_baseline(model.value, config, overrides)
            found.append(Entry(baseline.name, baseline))
    return found


def _default_folder(entries: list[Any], budget: str | None) -> Path:
    """The same for the same command."""
    from ups.files import sha256_json

    digest = sha256_json([[entry.label for entry in entries], budget])[:6]
    return paths.home() / "comparisons" / f"{entries[0].label}-{digest}"


def _print(comparison: Any, found: Any) -> None:
    from ups.pipeline.comparison import HEADINGS, cells, notes

    _output.print_table(comparison.title, HEADINGS, [cells(line) for line in comparison.lines])
    for note in notes(comparison, found):
        _output.summary("note", note)
