"""Commands that read versions on a remote, in place: what they say about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from ups.cli import _output


@contextmanager
def in_place(source: str | None) -> Iterator[None]:
    """Read data on a remote for the block, and say how much came; None is this machine."""
    if source is None:
        yield
        return
    from ups.transfer.direct import reading_in_place
    from ups.transfer.remotes import find_remote

    with reading_in_place(find_remote(source)) as place:
        yield
        _tell(place)


def _tell(place: Any) -> None:
    """One line on standard error: results alone go to standard output."""
    if place.fetches:
        from ups import paths

        kept = paths.display(paths.blocks_dir())
        moved = f"{_output.size(place.bytes_read)} in {place.requests} requests"
        where = place.remote.describe()
        typer.echo(f"in place  {moved} from {where}, kept in {kept}", err=True)


def info_of(dataset: str, source: str, *, as_json: bool, show: Callable[[str, str], None]) -> None:
    """Print what a remote has of a dataset.

    Args:
        show: Prints what is known of a version, by `open_store`.
    """
    from ups.transfer.direct import latest_version, reading_in_place, versions_there
    from ups.transfer.remotes import find_remote

    remote = find_remote(source)
    found = versions_there(dataset, remote)
    if as_json:
        _output.print_json([vars(version) for version in found])
        return
    _output.print_table(
        f"{dataset} on {remote.describe()}",
        ["version", ">size", ">pushed", ">trajectories", "splits", "state"],
        [[one.version, _output.size(one.size_bytes), _output.age(one.age_s), str(one.trajectories),
          ", ".join(f"{name} {count}" for name, count in one.splits.items() if count),
          "deprecated: " + one.deprecated if one.deprecated is not None else ""]
         for one in found],
    )  # fmt: skip
    with reading_in_place(remote):
        show(dataset, latest_version(dataset, remote))
