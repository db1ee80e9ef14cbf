"""`ups data download`: options, bars and the summary around `ups.data.download.run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Dataset, Json

if TYPE_CHECKING:
    from rich.progress import TaskID


def download(
    dataset: Dataset,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Files with this parameter or label, e.g. --variant nu=0.001; may be repeated.",
        ),
    ] = None,
    num_files: Annotated[
        int | None, typer.Option("--files", min=1, help="Take the first N matching files.")
    ] = None,
    trajectories: Annotated[
        int | None,
        typer.Option(min=1, help="Fetch only the bytes of each file's first N trajectories."),
    ] = None,
    connections: Annotated[int, typer.Option(min=1, max=32, help="Most at a time.")] = 4,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched; fetch nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch published originals: resumable, MD5-verified, in parallel."""
    from ups import registry
    from ups.data.download import run as downloading

    card = registry.load_card(dataset)
    if dry_run:
        _print_plan(_plan(card, variant or [], num_files, trajectories, connections), as_json)
        return
    with ByteBars() as bars:
        outcomes = downloading.download(
            card,
            variant=variant or [],
            limit=num_files,
            trajectories=trajectories,
            connections=connections,
            progress=bars,
            notice=bars.notice,
        )
    if as_json:
        _output.print_json([{**vars(o), "path": str(o.path)} for o in outcomes])
        return
    for outcome in outcomes:
        _output.summary("download", _outcome_in_words(outcome))


def _plan(
    card: Any,
    variant: list[str],
    num_files: int | None,
    trajectories: int | None,
    connections: int,
) -> Any:
    from ups.data.download.http import Http
    from ups.data.download.run import make_plan, select

    chosen = select(card, variant, num_files)
    with Http(connections=connections) as http:
        return make_plan(card, chosen, http, trajectories=trajectories, connections=connections)


def _outcome_in_words(outcome: Any) -> str:
    size, where = _output.size(outcome.size), paths.display(outcome.path)
    if outcome.state == "verified":
        return f"there, MD5 verified: {where} ({size})"
    if outcome.state == "present":
        return f"there: {where} ({size})"
    how = "first trajectories" if ".first" in outcome.path.name else "MD5 verified"
    return f"fetched {_output.size(outcome.received)}, {how}: {where} ({size})"


def _print_plan(plan: Any, as_json: bool) -> None:
    if as_json:
        rows = [{"name": i.name, "state": i.state, "size_bytes": i.size, "exact": i.exact,
                 "needed_bytes": i.needed, "urls": list(i.urls), "problem": i.problem}
                for i in plan.items]  # fmt: skip
        _output.print_json({"files": rows, "needed_bytes": plan.needed, "free_bytes": plan.free,
                            "folder": str(plan.folder), "fits": plan.fits})  # fmt: skip
        return
    _output.print_table(
        "",
        ["file", ">size", ">to fetch", "here", ""],
        [[i.name, ("" if i.exact else "~") + _output.size(i.size), _output.size(i.needed),
          i.state, i.problem] for i in plan.items],
    )  # fmt: skip
    room = "enough room" if plan.fits else "NOT enough room"
    _output.summary(
        "download",
        f"would fetch {_output.size(plan.needed)} into {paths.display(plan.folder)}: {room}, "
        f"{_output.size(plan.free)} free",
    )


class ByteBars:
    """One bar for each file under way and one for the total, on stderr, if that is a terminal.

    Call it with (what, bytes done, bytes in all or None), from any thread.
    """

    def __init__(self) -> None:
        import threading

        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=14),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ByteBars:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        _output.beat(what, done, total)
        if self._progress.disable:
            return
        with self._lock:
            if what not in self._tasks:
                self._tasks[what] = self._progress.add_task(what, total=total)
            self._progress.update(self._tasks[what], completed=done, total=total)
            if done == total and what != "total":
                self._progress.remove_task(self._tasks.pop(what))

    def notice(self, line: str) -> None:
        """Print a line above the bars, on stderr."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
