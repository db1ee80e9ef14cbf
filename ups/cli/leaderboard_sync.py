"""`ups leaderboard merge|push|pull`: leaderboards brought together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ups import paths
from ups.cli import _output
from ups.errors import CheckpointError

_PLACE = "A folder, for example on a mounted disk; remotes are not there yet."


def merge(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Another leaderboard's folder.")],
) -> None:
    """Take over every entry of another leaderboard that is not here.

    Entries are immutable and named by their content: nothing is overwritten. Damaged ones are
    named and left; then the exit code is 4.
    """
    _merge(folder, paths.leaderboard_dir())


def pull(
    source: Annotated[Path, typer.Option("--from", metavar="DIR", help=_PLACE)],
) -> None:
    """Take over the entries of another leaderboard, like merge."""
    _merge(source, paths.leaderboard_dir())


def push(
    target: Annotated[Path, typer.Option("--to", metavar="DIR", help=_PLACE)],
) -> None:
    """Give this leaderboard's entries to another one; nothing there is overwritten."""
    _merge(paths.leaderboard_dir(), target)


def _merge(source: Path, target: Path) -> None:
    from ups.leaderboard.merge import merge as merge_folders

    result = merge_folders(source, target)
    text = f"{len(result.new)} new, {result.known} already there -> {paths.display(target)}"
    _output.summary("entries", text)
    if result.damaged:
        raise CheckpointError(
            "\n".join(result.damaged), hint="the sound entries were taken over; ask for these again"
        )
