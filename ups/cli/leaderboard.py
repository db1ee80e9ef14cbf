"""`ups leaderboard`: results that can be compared, and only those."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ups import paths
from ups.cli import _output
from ups.cli._app import group
from ups.errors import CheckpointError, UsageError

app = group("Show the leaderboard, and add reports to it.")


@app.command()
def show(
    dataset: Annotated[str | None, typer.Option(help="Only this dataset.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Only ids that begin like this.")] = None,
    run: Annotated[str | None, typer.Option(help="Only runs whose name contains this.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_md: Annotated[bool, typer.Option("--md", help="Print Markdown.")] = False,
) -> None:
    """Rank entries, best first, within each protocol; never across protocols."""
    from ups.leaderboard import entries, table

    if as_json + as_csv + as_md > 1:
        raise UsageError("choose one of --json, --csv and --md")
    folder = paths.leaderboard_dir()
    rankings = table.rank(
        entries.load_all(folder), dataset=dataset, split=split, protocol=protocol, run=run
    )
    if as_json:
        typer.echo(table.to_json(rankings))
    elif as_csv:
        typer.echo(table.to_csv(rankings), nl=False)
    elif as_md:
        typer.echo(table.to_markdown(rankings))
    elif not rankings:
        _output.summary("empty", f"no matching entry in {paths.display(folder)}")
    else:
        _output.stdout().print(table.render(rankings))


@app.command()
def add(
    run: Annotated[
        str | None,
        typer.Argument(help="Folder, name/id or name of a run.", show_default="the newest"),
    ] = None,
) -> None:
    """Enter a run's report. The same report is entered once."""
    from ups.leaderboard import entries

    report = _report_file(run)
    folder = paths.leaderboard_dir()
    entry, is_new = entries.add(report, folder)
    state = "" if is_new else "unchanged, already entered: "
    _output.summary("entry", f"{state}{paths.display(entry.path(folder))}")


def _report_file(run: str | None) -> Path:
    """The report of a run, or the report file itself."""
    from ups import runs

    if run is not None and Path(run).is_file():
        return Path(run)
    folder = runs.find_run(run)
    path = folder / runs.REPORT
    if not path.is_file():
        raise CheckpointError(f"{path}: not evaluated yet", hint=f"ups eval {runs.run_id(folder)}")
    return path
