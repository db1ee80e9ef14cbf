"""`ups runs`: what was trained, how it went, and how runs compare."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ups import paths
from ups.cli import _output, runs_travel
from ups.cli._app import group
from ups.cli._options import Json
from ups.errors import UsageError

if TYPE_CHECKING:
    from ups.runs.history import Curve

app = group("List, show, plot, export and fetch runs; push and pull them.")

Run = Annotated[str, typer.Argument(help="Folder, name/id, or name of a run (its newest).")]
Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders, name/ids or names.")]


class Over(StrEnum):
    step = "step"
    time = "time"


@app.command("list")
def list_all(
    name: Annotated[str | None, typer.Option(help="Only runs of this name; * and ? stand.")] = None,
    on: Annotated[
        str | None, typer.Option(metavar="REMOTE", help="Those on a remote.", show_default="here")
    ] = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first: data, stages, best number, age, size."""
    if on is not None:
        runs_travel.list_on(on, name, as_json=as_json)
        return
    from ups import runs
    from ups.cli import _runs_text
    from ups.runs.summary import summarise

    found = [summarise(run) for run in runs.list_runs(name)]
    if as_json:
        _output.print_json([run.to_dict() for run in found])
        return
    if not found:
        _output.summary("empty", f"no run in {paths.display(paths.runs_dir())}; ups train")
    now = datetime.now(UTC)
    for run in found:
        typer.echo("\n".join(_runs_text.list_lines(run, now)))


@app.command()
def show(run: Run, as_json: Json = False) -> None:
    """Show one run: config, stages, checkpoints with their hashes, report, codec card."""
    from ups import runs
    from ups.cli import _runs_text
    from ups.runs import summary

    folder = runs.find_run(run, with_stage=None)
    summed, config = summary.summarise(folder), summary.read_config(folder)
    details = {
        "config": _runs_text.config_lines(config, summed.datasets),
        "checkpoints": summary.checkpoints_of(folder),
        "report": summary.report_rows(folder),
        "codec": summary.codec_cards(folder),
        "sync": summary.sync_command(folder),
    }
    if as_json:
        _output.print_json({**summed.to_dict(), **details, "config": config})
    else:
        _runs_text.print_run(summed, details)


@app.command()
def plot(
    run: Runs,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="STAGE/KEY, e.g. operator/loss; may be repeated.",
            show_default="loss and validation of each stage",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="PNG file.", show_default="RUN/curves.png; of several runs runs.png"),
    ] = None,
    over: Annotated[Over, typer.Option(help="Steps, or minutes of the stage.")] = Over.step,
    log_x: Annotated[bool, typer.Option("--log-x", help="Logarithmic steps or minutes.")] = False,
) -> None:
    """Plot the curves of runs in one picture; print them as lines of blocks."""
    from ups import runs
    from ups.cli import _runs_text

    folders = [runs.find_run(one, with_stage=None) for one in run]
    if out is not None and out.suffix != ".png":
        raise UsageError(f"--out {out}: expected a name that ends in .png")
    curves = _curves(folders, metric, timed=over is Over.time)
    for name, own in curves.items():
        _runs_text.print_curves(name, own)
    from ups.evaluation.reporting.run_curves import plot_runs

    path = out or _runs_text.default_picture(folders)
    plot_runs(path, curves, over=over.value, log_x=log_x)
    _output.summary("plot", paths.display(path))


@app.command()
def compare(
    run: Runs,
    out: Annotated[
        Path | None, typer.Option(help="PNG file of the curves.", show_default="runs.png")
    ] = None,
    as_json: Json = False,
) -> None:
    """Set runs side by side: settings that differ, errors, times; curves in one picture."""
    from ups import runs
    from ups.cli import _runs_text
    from ups.evaluation.reporting.run_curves import plot_runs
    from ups.evaluation.reporting.side_by_side import outcomes
    from ups.runs import comparing, summary

    folders = list(dict.fromkeys(runs.find_run(one, with_stage=None) for one in run))
    if len(folders) < 2:
        raise UsageError("compare: needs two runs or more", hint="ups runs list")
    if out is not None and out.suffix != ".png":
        raise UsageError(f"--out {out}: expected a name that ends in .png")
    configs = [summary.read_config(folder) for folder in folders]
    summaries = [summary.summarise(folder) for folder in folders]
    changed, found = comparing.differences(configs), outcomes(folders, summaries)
    names = [runs.run_id(folder) for folder in folders]
    if as_json:
        _output.print_json({"runs": names, "settings": changed, "outcomes": found})
        return
    _runs_text.print_comparison(names, changed, found)
    path = out or _runs_text.default_picture(folders)
    plot_runs(path, _curves(folders, None, timed=False))
    _output.summary("plot", paths.display(path))


@app.command()
def export(
    run: Runs,
    out: Annotated[
        Path | None, typer.Option(help="File, .csv or .json.", show_default="print CSV")
    ] = None,
) -> None:
    """Write metrics as a table: run, stage, step, time, metric, value; one row for each number."""
    from ups import files, runs
    from ups.errors import CheckpointError
    from ups.runs import history

    if out is not None and out.suffix not in (".csv", ".json"):
        raise UsageError(f"--out {out}: expected a name that ends in .csv or .json")
    folders = [runs.find_run(one, with_stage=None) for one in run]
    table = [
        row
        for folder in folders
        for row in history.rows(
            runs.run_id(folder), runs.read_metrics(folder / runs.METRICS, timed=True)
        )
    ]
    if out is None:
        typer.echo(history.to_csv(table), nl=False)
        return
    text = history.to_json(table) if out.suffix == ".json" else history.to_csv(table)
    files.write_text(out, text, CheckpointError)
    _output.summary("export", f"{len(table)} rows -> {paths.display(out)}")


@app.command()
def fetch(
    run: Annotated[str, typer.Argument(metavar="ENTITY/PROJECT/RUNID", help="A W&B run.")],
) -> None:
    """Fetch the history of a Weights & Biases run, to be listed, plotted and exported here."""
    from ups.training.tracking.fetch import fetch as fetch_run

    with _output.Bars() as bars:
        folder = fetch_run(run, bars.of("fetch"))
    _output.summary("run", paths.display(folder))


for _command in (runs_travel.push, runs_travel.pull):
    app.command()(_command)


def _curves(
    folders: list[Path], metrics: list[str] | None, *, timed: bool
) -> dict[str, list[Curve]]:
    """The chosen metrics of each run that has them, or loss and headline of each stage.

    Raises:
        UsageError: No run has a metric that was asked for, or any metric at all.
    """
    from ups import runs
    from ups.runs import history

    records = {
        runs.run_id(folder): runs.read_metrics(folder / runs.METRICS, timed=True)
        for folder in folders
    }
    everything = [record for own in records.values() for record in own]
    for metric in metrics or []:
        history.curve(everything, metric)
    found = {}
    for name, own in records.items():
        known = history.metric_names(own)
        chosen = dict.fromkeys(metrics or history.default_metrics(own))
        found[name] = [history.curve(own, metric) for metric in chosen if metric in known]
    if timed:
        found = {name: [c for c in own if c.is_timed] for name, own in found.items()}
    if not any(found.values()):
        what = "times" if timed and everything else "metrics"
        raise UsageError(f"{', '.join(records)}: no {what} recorded yet", hint="ups runs list")
    return found
