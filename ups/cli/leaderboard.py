"""`ups leaderboard`: results that can be compared, and only those."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ups import paths
from ups.cli import _output, leaderboard_sync, leaderboard_verify
from ups.cli._app import group
from ups.cli._options import Json
from ups.errors import UsageError

if TYPE_CHECKING:
    from ups.leaderboard.compare import Comparison

app = group("Rank, compare, verify and publish results; add reports; bring leaderboards together.")


class GroupBy(StrEnum):
    protocol = "protocol"
    task = "task"
    run = "run"
    model = "model"


@app.command()
def show(
    dataset: Annotated[
        str | None, typer.Option("--dataset", "--task", help="Only this dataset, or task of a run.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Only ids that begin like this, or a name: ic, pdebench.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Only runs whose name contains this.")] = None,
    metric: Annotated[
        str, typer.Option(help="Rank by it: nrmse, relative_l2, vrmse, ...")
    ] = "nrmse",
    statistic: Annotated[
        str, typer.Option(help="Over trajectories: mean, median, p90 or max.")
    ] = "mean",
    group_by: Annotated[
        GroupBy,
        typer.Option(
            help="run: seeds of one config in one line. model: the best of each kind. task: runs "
            "of several tasks, by the average over them."
        ),
    ] = GroupBy.protocol,
    show_all: Annotated[bool, typer.Option("--all", help="Superseded entries too.")] = False,
    references: Annotated[
        bool, typer.Option("--references", help="All published figures of these datasets.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_md: Annotated[bool, typer.Option("--md", help="Print Markdown.")] = False,
) -> None:
    """Rank entries, best first, within each protocol; never across protocols.

    Entries that failed a health gate are listed with the reason, and not ranked. Published figures
    (ups leaderboard import-references) stand below a table of their protocol.
    """
    if as_json + as_csv + as_md > 1:
        raise UsageError("choose one of --json, --csv and --md")
    if group_by is GroupBy.task and (as_csv or as_md or references or show_all):
        raise UsageError("--group-by task prints a table or --json, of current entries")
    wanted: dict[str, Any] = {
        "dataset": dataset, "split": split, "protocol": protocol, "run": run,
        "metric": metric, "statistic": statistic,
    }  # fmt: skip
    if group_by is GroupBy.task:
        _show_tasks(wanted, as_json=as_json)
        return
    wanted |= {"group_by": group_by.value, "show_all": show_all}
    form = "json" if as_json else "csv" if as_csv else "md" if as_md else "table"
    _show_rankings(wanted, form, all_references=references)


def _show_tasks(wanted: dict[str, Any], *, as_json: bool) -> None:
    from ups.leaderboard import entries, tasks, text

    rankings = tasks.rank_tasks(entries.load_all(paths.leaderboard_dir()), **wanted)
    if as_json:
        typer.echo(text.to_json(rankings))
    else:
        _output.stdout().print(text.render_tasks(rankings))


def _show_rankings(wanted: dict[str, Any], form: str, *, all_references: bool) -> None:
    from ups.leaderboard import entries, references, table, text

    folder = paths.leaderboard_dir()
    rankings = table.rank(entries.load_all(folder), **wanted)
    published = references.load_all(folder)
    if form == "json":
        typer.echo(text.to_json(rankings, published))
    elif form == "csv":
        typer.echo(text.to_csv(rankings), nl=False)
    elif form == "md":
        typer.echo(text.to_markdown(rankings, published))
    elif not rankings:
        _output.summary("empty", f"no matching entry in {paths.display(folder)}")
    elif all_references:
        _output.stdout().print(text.render_published(rankings, published))
    else:
        _output.stdout().print(text.render(rankings, published))


@app.command()
def add(
    run: Annotated[
        str | None,
        typer.Argument(
            help="Folder, name/id or name of a run, or a report.json.", show_default="the newest"
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Only this task.", show_default="all of them")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="Only the report of this protocol: own, ic, ...", show_default="all"),
    ] = None,
    supersedes: Annotated[
        str | None, typer.Option(metavar="ENTRY", help="The entry that this report corrects.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, with --supersedes.", show_default="")] = "",
) -> None:
    """Enter every report of a run. The same report is entered once.

    Entries never change: a correction is a new entry that names the old one, which then is shown
    only with `show --all`.
    """
    from ups.leaderboard import entries

    found = _reports(run, task, protocol)
    if supersedes and len(found) > 1:
        raise UsageError(
            f"--supersedes: one report corrects one entry, but there are {len(found)}",
            hint="choose one with --task and --protocol",
        )
    folder = paths.leaderboard_dir()
    for report in found:
        entry, is_new = entries.add(report, folder, supersedes=supersedes, reason=reason)
        state = "" if is_new else "unchanged, already entered: "
        _output.summary("entry", f"{state}{paths.display(entry.path(folder))}")


def _reports(run: str | None, task: str | None, protocol: str | None) -> list[Path]:
    """The reports of a run, or the report file itself."""
    from ups import runs
    from ups.leaderboard import entries

    if run is not None and Path(run).is_file():
        return [Path(run)]
    return entries.reports_to_add(runs.find_run(run), task=task, protocol=protocol)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Entry, or ENTRY:ROW.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Entry, or ENTRY:ROW.")],
    metric: Annotated[
        str, typer.Option(help="nrmse, relative_l2, vrmse, rmse or max_error.")
    ] = "nrmse",
    as_json: Json = False,
) -> None:
    """Say whether the difference between two entries is real.

    A paired bootstrap over the same trajectories; both entries must have one protocol. An entry is
    named by the beginning of its id; ENTRY:persistence is a row of it.
    """
    from ups.leaderboard import compare as pairs
    from ups.leaderboard import entries

    known = entries.load_all(paths.leaderboard_dir())
    rows = [pairs.find_row(known, one) for one in (first, second)]
    result = pairs.compare(rows[0], rows[1], metric)
    if as_json:
        _output.print_json(result.to_dict())
    else:
        _print_comparison(result)


def _print_comparison(result: Comparison) -> None:
    _output.summary("verdict", result.verdict)
    if result.means is not None and result.difference is not None:
        first, second = result.means
        _output.summary("mean", f"{result.metric} {first:.4g} and {second:.4g}")
    if result.low is not None and result.difference is not None:
        _output.summary(
            "difference", f"{result.difference:+.4g}, 95 % of the bootstrap in "
            f"{result.low:+.4g} to {result.high:+.4g}",
        )  # fmt: skip
    _output.summary(
        "won", f"{result.first} is better on {result.won:.0%} of {result.trajectories} trajectories"
    )
    if any(result.blown_up):
        lost = " and ".join(map(str, result.blown_up))
        _output.summary("blown up", f"on {lost} trajectories; the figures above leave them out")
    _output.summary("note", "over trajectories; other seeds of training are not in it")


@app.command()
def html(
    out: Annotated[
        Path | None, typer.Option(help="Folder.", show_default="html in the leaderboard's folder")
    ] = None,
) -> None:
    """Write the leaderboard as a static page: tables, plots, entries, how to rerun each.

    The folder needs no server and loads nothing from elsewhere. Pages of reports that are on this
    machine are copied into it.
    """
    from ups.leaderboard import page

    folder = paths.leaderboard_dir()
    written = page.write_site(folder, out or folder / "html")
    _output.summary("page", paths.display(written))


@app.command("import-references")
def import_references(
    file: Annotated[
        Path | None, typer.Argument(help="YAML file.", show_default="those that ups brings along")
    ] = None,
) -> None:
    """Enter published figures, each with its source and protocol. They are never ranked."""
    from ups.leaderboard import references

    folder = paths.leaderboard_dir()
    new, known = references.import_references(folder, file or references.SHIPPED)
    where = paths.display(folder / references.FOLDER)
    _output.summary("published", f"{new} new, {known} unchanged -> {where}")


for _command in (
    leaderboard_verify.verify, leaderboard_sync.merge, leaderboard_sync.push, leaderboard_sync.pull,
):  # fmt: skip
    app.command()(_command)
