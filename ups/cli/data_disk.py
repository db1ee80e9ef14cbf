"""`ups data du` and `ups data prune`: what uses the disk, and removing what is safe to remove."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Json
from ups.errors import UsageError

Datasets = Annotated[list[str] | None, typer.Argument(help="Keys; all by default.")]


def du(datasets: Datasets = None, as_json: Json = False) -> None:
    """Show what uses the disk, who refers to it, and what brings it back."""
    from ups.data import disk

    items = disk.disk_usage(datasets or [])
    if as_json:
        _output.print_json([{**vars(item), "path": str(item.path)} for item in items])
        return
    if not items:
        _output.summary("du", f"no data in {paths.display(paths.home())}")
        return
    _print_items(items)
    total = sum(item.size_bytes for item in items)
    typer.echo(
        f"\n{_output.size(total)} in all. used by: runs and caches that refer to it (--json lists "
        "them).\ncomes back: by which ups data command. To make room: ups data prune"
    )


def prune(
    datasets: Datasets = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Older than this: 30d, 12h, 2w.")
    ] = None,
    keep_last: Annotated[
        int | None, typer.Option(min=0, help="Keep the newest N versions of each dataset.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Also raw files that a command brings back.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also what a run or cache refers to.")
    ] = False,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="REMOTE", help="Deprecated versions on a remote instead."),
    ] = None,
) -> None:
    """Remove leftovers older than a day; with --older-than or --keep-last also old versions.

    With --on, nothing here is touched: deprecated versions go from that remote.
    """
    from ups.data import disk

    if on is not None:
        if raw or force:
            raise UsageError("--on goes without --raw and --force: they are about this disk")
        age = disk.parse_age(older_than) if older_than else None
        _prune_remote(on, datasets or [], age, keep_last, dry_run)
        return
    plan = disk.plan_pruning(
        disk.disk_usage(datasets or []),
        older_than_s=disk.parse_age(older_than) if older_than else None,
        keep_last=keep_last,
        raw=raw,
        force=force,
    )
    for item in plan.remove:
        if not dry_run:
            disk.remove(item)
    if plan.remove:
        _print_items(plan.remove)
    for item, reason in plan.keep:
        typer.echo(f"kept {paths.display(item.path)}: {reason}")
    total = _output.size(sum(item.size_bytes for item in plan.remove))
    verb = "would remove" if dry_run else "removed"
    _output.summary("prune", f"{verb} {len(plan.remove)} things, {total}")


def _prune_remote(
    on: str, datasets: list[str], older_than_s: float | None, keep_last: int | None, dry_run: bool
) -> None:
    from ups.transfer.datasets import prune_datasets
    from ups.transfer.remotes import find_remote

    remote = find_remote(on)
    done = prune_datasets(
        remote, datasets, older_than_s=older_than_s, keep_last=keep_last, dry_run=dry_run
    )
    for listing in done.removed:
        typer.echo(f"{_output.size(listing.size):>9}  {listing.folder}")
    for listing, reason in done.kept:
        typer.echo(f"kept {listing.folder}: {reason}")
    total = _output.size(sum(listing.size for listing in done.removed))
    verb = "would remove" if dry_run else "removed"
    things = f"{len(done.removed)} deprecated versions, {total}"
    _output.summary("prune", f"{verb} {things} on {remote.describe()}")


def _print_items(items: Any) -> None:
    _output.print_table(
        "",
        [">size", ">age", "what", "dataset", "used by", "comes back", "name~"],
        [[_output.size(item.size_bytes), _output.age(item.age_s), item.kind, item.dataset,
          str(len(item.used_by) or "-"), (item.again.split() or [*3 * ["never"]])[2],
          item.path.name] for item in items],
    )  # fmt: skip
