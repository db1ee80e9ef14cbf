"""`ups data convert` and `ups data audit`: raw files into stores, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Dataset, Json, Version
from ups.errors import DataError, UsageError


def convert(
    dataset: Dataset,
    raw: Annotated[
        list[Path] | None,
        typer.Option(help="Raw files or folders.", show_default="the dataset's raw folder"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take the first N trajectories of each file.")
    ] = None,
    trajectories: Annotated[
        str | None,
        typer.Option(metavar="FIRST:END", help="Take these places of each file, END left out."),
    ] = None,
    stride_x: Annotated[int, typer.Option(min=1, help="Keep every n-th grid point.")] = 1,
    stride_t: Annotated[int, typer.Option(min=1, help="Keep every n-th frame.")] = 1,
    version: Annotated[
        str | None,
        typer.Option(help="Name of the version.", show_default="derived, e.g. nu0.01-x4-t5"),
    ] = None,
    exclude_invalid: Annotated[
        bool, typer.Option("--exclude-invalid", help="Keep NaN trajectories out of all splits.")
    ] = False,
    test_only: Annotated[
        bool, typer.Option("--test-only", help="All for judging, nothing to train on.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes.", show_default="by size and cores")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Convert share I of N only, for several machines."),
    ] = None,
    merge: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Make the version out of N shards.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a version that was made differently.")
    ] = False,
) -> None:
    """Turn raw files into a trajectory store with splits and statistics.

    Killed and run again, it continues where it was.
    """
    from ups import registry
    from ups.data.conversion.probing import Probe
    from ups.data.conversion.sources import find_raw

    if shard and merge:
        raise UsageError("--shard and --merge exclude each other")
    card = registry.load_card(dataset)
    found = find_raw(card, raw or [])
    probe = Probe(found, card)
    from ups.data import convert as conversion  # while the probe's process starts

    probe.wait()
    places = _places(trajectories)
    recipe = conversion.Recipe(limit, stride_x, stride_t, exclude_invalid, places, test_only)
    options: dict[str, Any] = {"recipe": recipe, "version": version}
    with _output.Bars() as bars:
        options["progress"] = bars.of("convert")
        result: Any
        if shard:
            part = _shard(shard)
            result = conversion.convert_shard(card, found, shard=part, workers=workers, **options)
        elif merge:
            result = conversion.merge_shards(card, found, count=merge, force=force, **options)
        else:
            result = conversion.convert(card, found, force=force, workers=workers, **options)
    _output.summary("convert", describe_shard(result) if shard else describe_conversion(result))


def _places(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, colon, end = text.partition(":")
    try:
        return (int(first or 0), int(end)) if colon else (0, int(first))
    except ValueError:
        raise UsageError(f"--trajectories {text}: expected FIRST:END, for example 0:200") from None


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    try:
        return int(index), int(count) if slash else int("")
    except ValueError:
        raise UsageError(f"--shard {text}: expected I/N, for example 1/8") from None


def describe_shard(made: Any) -> str:
    """One line on a converted share."""
    return f"{made.num_trajectories} trajectories of {made.version} -> {paths.display(made.folder)}"


def describe_conversion(result: Any) -> str:
    """One line on a converted version."""
    store = result.store
    counts = " / ".join(str(len(store.split(name))) for name in ("train", "valid", "test"))
    return (
        f"{'unchanged, reused: ' if result.reused else ''}{store.name}: "
        f"{store.num_trajectories} x {store.num_frames} frames x {store.extent}, "
        f"train / valid / test {counts} -> {paths.display(store.path)}"
    )


def audit(dataset: Dataset, version: Version = "latest", as_json: Json = False) -> None:
    """Look for what is wrong: NaN, leaks, constant fields, changed bytes, wrong statistics."""
    from ups import registry
    from ups.data import audit as auditing
    from ups.data.versions import open_store

    store = open_store(dataset, version)
    with _output.Bars() as bars:
        findings = auditing.audit(store, registry.load_card(dataset), bars.of("audit"))
    if as_json:
        _output.print_json([vars(finding) for finding in findings])
    else:
        marks = {"ok": "[green]ok[/]", "note": "note", "warn": "[yellow]warn[/]",
                 "fail": "[red]fail[/]"}  # fmt: skip
        rows = [[marks[f.verdict], f.check, f.detail] for f in findings]
        _output.print_table(f"{store.name}", ["", "check", "finding"], rows)
    failed = [finding.check for finding in findings if finding.verdict == "fail"]
    if failed:
        raise DataError(
            f"{store.path}: audit failed: {', '.join(failed)}",
            hint=f"mend or replace the raw files, then: ups data convert {dataset} --force",
        )
