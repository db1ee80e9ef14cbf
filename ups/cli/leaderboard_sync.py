"""`ups leaderboard merge|push|pull`: leaderboards brought together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli.data_download import ByteBars
from ups.errors import CheckpointError

if TYPE_CHECKING:
    from ups.leaderboard.merge import Merged
    from ups.transfer.remotes import Remote

_PLACE = "A remote (ups remotes list), or the path of a leaderboard's folder."


def merge(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Another leaderboard's folder.")],
) -> None:
    """Take over every entry of another leaderboard that is not here.

    Entries are immutable and named by their content: nothing is overwritten. Damaged ones are
    named and left; then the exit code is 4.
    """
    from ups.leaderboard.merge import merge as merge_folders

    here = paths.leaderboard_dir()
    _tell(merge_folders(folder, here), paths.display(here))


def pull(
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="DIR|REMOTE", help=_PLACE, show_default="the default remote"
        ),
    ] = None,
) -> None:
    """Take over the entries of another leaderboard, like merge."""
    from ups.leaderboard.merge import merge as merge_folders
    from ups.leaderboard.sync import pull_entries
    from ups.transfer.remotes import find_remote

    remote, here = find_remote(source), paths.leaderboard_dir()
    if (folder := _folder(remote)) is not None:
        _tell(merge_folders(folder, here), paths.display(here))
        return
    with ByteBars() as bars:
        merged = pull_entries(remote, here, _bar(bars, "pull"))
    _tell(merged, paths.display(here))


def push(
    target: Annotated[
        str | None,
        typer.Option("--to", metavar="DIR|REMOTE", help=_PLACE, show_default="the default remote"),
    ] = None,
) -> None:
    """Give this leaderboard's entries to another one; nothing there is overwritten."""
    from ups.leaderboard.merge import merge as merge_folders
    from ups.leaderboard.sync import push_entries
    from ups.transfer.remotes import find_remote

    remote, here = find_remote(target), paths.leaderboard_dir()
    if (folder := _folder(remote)) is not None:
        _tell(merge_folders(here, folder), paths.display(folder))
        return
    with ByteBars() as bars:
        merged = push_entries(here, remote, _bar(bars, "push"))
    _tell(merged, remote.describe())


def _folder(remote: Remote) -> Path | None:
    """The folder that was named by its path: a leaderboard itself, not a remote that has one."""
    from ups.transfer import remotes

    is_named = remotes.load().remotes.get(remote.name) == remote
    return Path(remote.root) if remote.kind == "local" and not is_named else None


def _bar(bars: ByteBars, what: str) -> Any:
    return lambda done, total: bars(what, done, total)


def _tell(result: Merged, where: str) -> None:
    text = f"{len(result.new)} new, {result.known} already there -> {where}"
    _output.summary("entries", text)
    if result.damaged:
        raise CheckpointError(
            "\n".join(result.damaged), hint="the sound entries were taken over; ask for these again"
        )
