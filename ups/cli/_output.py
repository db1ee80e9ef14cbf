"""What commands print: results to standard output, progress to standard error."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:  # rich is imported where something is printed: `ups --help` starts faster
    from rich.console import Console
    from rich.progress import TaskID


def stdout() -> Console:
    """A console for results; at least 80 columns wide when it is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=100)
    return console


def print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table; columns whose heading starts with '>' are right-aligned, those whose heading
    ends with '~' are cut off where the line ends.
    """
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    one_line = any(heading.endswith("~") for heading in columns)
    for index, heading in enumerate(columns):
        cut = heading.endswith("~")
        widest = max(len(text) for text in (heading.strip(">~"), *(row[index] for row in rows)))
        table.add_column(
            heading.removeprefix(">").removesuffix("~"),
            justify="right" if heading.startswith(">") else "left",
            overflow="ellipsis" if cut else "fold",
            no_wrap=cut,
            min_width=widest if one_line and not cut else None,
        )
    for row in rows:
        table.add_row(*row)
    stdout().print(table)


def summary(what: str, text: str) -> None:
    """One line for a finished stage; on a terminal it is wrapped beside its heading."""
    from rich.table import Table
    from rich.text import Text

    console = stdout()
    if not console.is_terminal:
        typer.echo(f"{what:<9} {Text.from_markup(text).plain}")
        return
    line = Table.grid(padding=(0, 1))
    line.add_column(min_width=9, style="bold")
    line.add_column(overflow="fold")
    line.add_row(what, text)
    console.print(line)


def beat(what: str, done: int, total: int | None, note: str = "") -> None:
    """Tell who watches this process, through the file UPS_HEARTBEAT, that something went on.

    At most once a second; nothing where no such file is named.
    """
    path = os.environ.get("UPS_HEARTBEAT")
    now = time.monotonic()
    if not path or now < _last_beat.get(path, 0.0) + 1.0:
        return
    _last_beat[path] = now
    content = {"what": what, "done": done, "total": total, "note": note}
    with suppress(OSError):  # it is only told: a full disk is for what writes results to report
        Path(path).write_text(json.dumps(content), encoding="utf-8")


_last_beat: dict[str, float] = {}


class Bars:
    """Progress bars with remaining time, one for each thing that is under way, on stderr,
    if that is a terminal.

    Call it with (what, done, total, note); a bar appears with its first call. Nothing is drawn
    while no bar is open, so that results can be printed between them.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        beat(what, done, total, note)
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, note=note)
            self._progress.start()
        self._progress.update(self._tasks[what], completed=done, total=total, note=note)

    def close(self, what: str) -> None:
        """Take a finished bar away."""
        if what in self._tasks:
            self._progress.remove_task(self._tasks.pop(what))
        if not self._tasks:
            self._progress.stop()

    def close_all(self) -> None:
        """Take every bar away."""
        for what in list(self._tasks):
            self.close(what)

    def of(self, what: str) -> Any:
        """A callback (done, total) for one thing."""

        def advance(done: int, total: int) -> None:
            self(what, done, total)
            if done == total:
                self.close(what)

        return advance


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def age(seconds: float) -> str:
    """The largest unit of a time: `45 s`, `12 min`, `3 h`, `30 d`."""
    for name, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {name}"
    return f"{seconds:.0f} s"


def size(num_bytes: int | float) -> str:
    """`512 B`, `1.2 MB`, `8.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
