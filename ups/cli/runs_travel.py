"""`ups runs push`, `ups runs pull`, and what `ups runs list --on` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import RunArgument
from ups.cli.data_download import ByteBars
from ups.errors import RemoteError

if TYPE_CHECKING:
    from ups.transfer.run_pull import PulledRun, RemoteRun

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would move; move nothing.")]


def push(
    run: RunArgument = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="REMOTE", show_default="the default remote")
    ] = None,
    every_checkpoint: Annotated[
        bool,
        typer.Option("--every-checkpoint", help="Also others than each stage's best and last."),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Publish a run as it is now: config, checkpoints, metrics, reports and pages.

    It may be training: each push is a snapshot, and what did not change is not sent again.
    """
    from ups import runs
    from ups.pipeline.lineage import sources_of
    from ups.transfer.remotes import find_remote
    from ups.transfer.run_artefacts import push_run

    folder, remote = runs.find_run(run, with_stage=None), find_remote(to)
    with ByteBars() as bars:
        pushed = push_run(
            folder, remote, every_checkpoint=every_checkpoint, uses=sources_of(folder),
            progress=_bar(bars, "push"), dry_run=dry_run,
        )  # fmt: skip
    name, where = runs.run_id(folder), remote.describe()
    if dry_run:
        _output.summary("would", f"push {name}: at most {_output.size(pushed.sent_bytes)}")
    elif not pushed.sent_bytes and not pushed.present_bytes:
        _output.summary("pushed", f"{name}: nothing to send")
    else:
        there = f", {_output.size(pushed.present_bytes)} there already" * bool(pushed.present_bytes)
        _output.summary("pushed", f"{name}: {_output.size(pushed.sent_bytes)} to {where}{there}")


def pull(
    run: Annotated[str, typer.Argument(help="NAME/ID, or NAME for its newest.")],
    source: Annotated[
        str | None, typer.Option("--from", metavar="REMOTE", show_default="the default remote")
    ] = None,
    snapshot: Annotated[
        str | None,
        typer.Option(metavar="STAMP", help="The beginning of its time.", show_default="the newest"),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace a run here that differs; the old folder is kept."),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Bring a run here, or up to date, to be listed, judged and resumed.

    A run here that is no snapshot on the remote is left alone without --force.
    """
    from ups.transfer.remotes import find_remote
    from ups.transfer.run_pull import pull_run

    remote = find_remote(source)
    with ByteBars() as bars:
        pulled = pull_run(
            run, remote, snapshot=snapshot, force=force, progress=_bar(bars, "pull"),
            dry_run=dry_run,
        )  # fmt: skip
    _output.summary("would" if dry_run else "run", _in_words(pulled, dry_run=dry_run))
    if pulled.kept is not None:
        _output.summary("kept", f"the run that was here: {paths.display(pulled.kept)}")


def _in_words(pulled: PulledRun, *, dry_run: bool) -> str:
    where = paths.display(pulled.folder)
    if pulled.state == "present":
        return f"already here, nothing transferred: {where}"
    size = f"{_output.size(pulled.fetched_bytes)}, snapshot {pulled.snapshot}"
    if dry_run:
        return f"pull {size}: {where} ({pulled.state})"
    how = {"new": "", "updated": ", up to date", "replaced": ", replaced"}[pulled.state]
    return f"{where} ({size}{how})"


def list_on(name: str, pattern: str | None, *, as_json: bool) -> None:
    """Print the runs of a remote.

    Raises:
        RemoteError: It cannot be reached, or the manifest of a run is damaged.
    """
    from fnmatch import fnmatch

    from ups.transfer.remotes import find_remote
    from ups.transfer.run_pull import list_remote_runs

    remote = find_remote(name)
    found = [
        one for one in list_remote_runs(remote)
        if pattern is None or fnmatch(one.id.partition("/")[0], pattern)
    ]  # fmt: skip
    if as_json:
        _output.print_json([one.to_dict() for one in found])
    elif not found:
        _output.summary("empty", f"no run on {remote.describe()}; ups runs push")
    for one in found if not as_json else []:
        typer.echo("\n".join(_lines(one)))
    if damaged := [one.problem for one in found if one.problem]:
        raise RemoteError("\n".join(damaged), hint="push these runs again: ups runs push RUN")


def _lines(run: RemoteRun) -> list[str]:
    """Two lines of at most 80 columns, like those of `ups runs list`."""
    if run.problem:
        return [run.id, "    damaged"]
    told: dict[str, Any] = dict(run.labels)
    facts = [str(told.get("state", "")), ", ".join(map(str, told.get("datasets", ())))]
    score = told.get("score")
    if isinstance(score, int | float):
        facts.append(f"nRMSE {score:.4g} ({told.get('score_of')})")
    count = f"{len(run.snapshots)} snapshots" if len(run.snapshots) > 1 else "1 snapshot"
    facts += [f"{count}, {run.snapshots[0][:15]}Z", _output.size(run.size)]
    return [run.id, *_wrapped([fact for fact in facts if fact])]


def _wrapped(facts: list[str]) -> list[str]:
    import textwrap

    return textwrap.wrap(" | ".join(facts), 80, initial_indent="    ", subsequent_indent="    ")


def _bar(bars: ByteBars, what: str) -> Any:
    return lambda done, total: bars(what, done, total)
