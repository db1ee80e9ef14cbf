"""`ups data du` and `ups data prune`: what uses the disk, and removing what is safe to remove."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Json

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
) -> None:
    """Remove leftovers older than a day; with --older-than or --keep-last also old versions."""
    from ups.data import disk

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


def _print_items(items: Any) -> None:
    _output.print_table(
        "",
        [">size", ">age", "what", "dataset", "used by", "comes back", "name~"],
        [[_output.size(item.size_bytes), _output.age(item.age_s), item.kind, item.dataset,
          str(len(item.used_by) or "-"), (item.again.split() or [*3 * ["never"]])[2],
          item.path.name] for item in items],
    )  # fmt: skip
