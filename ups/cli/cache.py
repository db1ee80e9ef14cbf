"""`ups cache`: tokens, encoded once."""

from __future__ import annotations

import sys
from enum import StrEnum
from itertools import groupby
from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output, cache_remote, cache_travel
from ups.cli._app import group
from ups.cli._options import Dataset, Json, OnRemote, Overrides, Version
from ups.errors import CacheError

app = group("Build, list, verify, prune, push and pull latent caches.")
app.command("push")(cache_travel.push)
app.command("pull")(cache_travel.pull)


class DtypeChoice(StrEnum):
    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"


@app.command()
def build(
    dataset: Dataset,
    version: Version = "latest",
    codec: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Run whose codec encodes.", show_default="the newest that fits"
        ),
    ] = None,
    overrides: Overrides = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Splits to encode.", show_default="train, valid")
    ] = None,
    dtype: Annotated[
        DtypeChoice | None,
        typer.Option(help="Number type: --set cache.dtype=...", show_default="the run's"),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Encode the training split N times, moved by the card's symmetries but for the "
            "first: --set cache.repeats=N.",
            show_default="the run's",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that encode on this machine; or use torchrun.")
    ] = 1,
) -> None:
    """Encode a dataset version with a trained codec. A build that was stopped continues.

    Prints what each number type would cost: the error of decoded fields, against float32 tokens.
    """
    from ups.training.processes import find_place, launch, told_by_main

    if workers > 1 and find_place().world_size == 1:
        raise typer.Exit(launch(workers, sys.argv[1:]))
    changes = [*(overrides or []), *([f"cache.dtype={dtype.value}"] if dtype else []),
               *([f"cache.repeats={repeats}"] if repeats else [])]  # fmt: skip
    with told_by_main():
        _build(dataset, version, codec, changes, split or ["train", "valid"])


def _build(
    dataset: str, version: str, codec: str | None, changes: list[str], splits: list[str]
) -> None:
    from ups import runs
    from ups.cli.train import describe_cache
    from ups.config.loading import load_experiment
    from ups.config.schema import DataConfig, TaskConfig
    from ups.training import latents
    from ups.training.distributed import is_main, together
    from ups.training.session import open_session, open_task

    if codec:
        run = runs.find_run(codec, with_stage="codec")
    else:
        task = open_task(TaskConfig(dataset=dataset, version=version))
        run = latents.find_codec([task]).parent.parent
    experiment = load_experiment(run / runs.CONFIG, changes)
    data = DataConfig(dataset=dataset, version=version)
    with together(experiment.device) as device, _output.Bars() as bars:
        session = open_session(experiment.model_copy(update={"data": data}), device=device)
        (outcome,) = latents.build_caches(
            session,
            runs.checkpoint_path(run, "codec"),
            splits=splits,
            progress=bars,
            with_costs=True,
        )
        first = is_main()
    if first:
        _output.summary("cache", describe_cache(outcome))
        units = {field.name: field.unit for field in session.tasks[0].card.fields}
        _print_costs(outcome, units)


def _print_costs(outcome: Any, units: dict[str, str]) -> None:
    """What each number type costs; of many fields the first three."""
    fields = list(units)[:3]
    rows = [
        [cost.dtype + " *" * (cost.dtype == outcome.identity.dtype), _output.size(cost.size_bytes),
         f"{cost.nrmse:.1e}", *(f"{cost.largest[name]:.1e}" for name in fields)]
        for cost in outcome.costs
    ]  # fmt: skip
    heads = [f">max {name}" + f" ({units[name]})" * (units[name] != "1") for name in fields]
    title = "decoded error by type (* this one)"
    _output.print_table(title, ["tokens", ">size", ">nRMSE", *heads], rows)


@app.command("list")
def list_all(
    dataset: Annotated[
        str | None, typer.Argument(help="Only this dataset.", show_default="all")
    ] = None,
    source: OnRemote = None,
    as_json: Json = False,
) -> None:
    """List the caches on this machine, with the runs that hold their codec; or a remote's."""
    if source is not None:
        cache_remote.list_there(dataset, source, as_json=as_json)
        return
    from ups.training.cache_list import caches_here

    entries = caches_here(dataset)
    if as_json:
        _output.print_json([entry.to_dict() for entry in entries])
        return
    if not entries:
        _output.summary("cache", f"none in {paths.display(paths.caches_dir())}")
        return
    for name, some in groupby(entries, key=lambda one: f"{one.dataset}/{one.version}"):
        _print_entries(name, list(some))


def _print_entries(title: str, entries: list[Any]) -> None:
    rows = []
    for entry in entries:
        told, manifest = entry.to_dict(), entry.manifest
        codec = f"{told['codec']}-{told['fingerprint'][:6]}" if manifest else entry.folder.name
        splits = [
            f"{split} x{told['repeats']}" if split == "train" and told["repeats"] > 1 else split
            for split in told["splits"]
        ]
        rows.append([
            _output.size(entry.size_bytes), _output.age(entry.age_s), entry.state,
            told["dtype"] or "-", ",".join(splits) or "-", str(len(entry.runs) or "-"), codec,
        ])  # fmt: skip
    heads = [">size", ">age", "state", "dtype", "splits", ">runs", "codec~"]
    _output.print_table(title, heads, rows)


@app.command()
def prune(
    dataset: Annotated[
        str | None, typer.Argument(help="Only this dataset.", show_default="all")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only what is older: 30d, 12h, 2w.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Also what a run refers to.")] = False,
) -> None:
    """Remove caches that no run refers to or that are deprecated, and old unfinished ones.

    A run refers to a cache if it holds its codec. Unfinished ones go after a day, or --older-than.
    """
    from ups.data import disk
    from ups.training.cache_list import caches_here, plan_pruning

    plan = plan_pruning(
        caches_here(dataset, strict=True),
        older_than_s=disk.parse_age(older_than) if older_than else None,
        force=force,
    )
    verb = "would remove" if dry_run else "removed"
    for item in plan.remove:
        if not dry_run:
            disk.remove(item)
        typer.echo(f"{verb} {paths.display(item.path)}: {_output.size(item.size_bytes)}")
    for item, reason in plan.keep:
        typer.echo(f"kept {paths.display(item.path)}: {reason}")
    total = _output.size(sum(item.size_bytes for item in plan.remove))
    _output.summary("prune", f"{verb} {len(plan.remove)} caches, {total}")


@app.command()
def verify(
    dataset: Annotated[
        str | None, typer.Argument(help="Only this dataset.", show_default="all")
    ] = None,
    source: OnRemote = None,
) -> None:
    """Read every byte of every cache, here or on a remote, and compare with its manifest."""
    if source is not None:
        cache_remote.verify_there(dataset, source)
        return
    from ups.cache.format import MANIFEST, list_caches
    from ups.cache.format import verify as check

    broken = []
    for folder in list_caches(dataset):
        name = paths.display(folder)
        if not (folder / MANIFEST).is_file():
            _output.summary("unfinished", f"{name}: ups cache build continues it")
            continue
        problems = [(shard.file, problem) for shard, problem in check(folder) if problem]
        for file, problem in problems:
            _output.summary("broken", f"{name}/{file}: {problem}")
        if not problems:
            _output.summary("ok", name)
        broken += problems
    if broken:
        raise CacheError(
            f"{len(broken)} shards are broken, first {broken[0][0]}: {broken[0][1]}",
            hint="delete the shards named above and run: ups cache build",
        )
