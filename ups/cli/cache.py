"""`ups cache`: tokens, encoded once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._app import group
from ups.cli._options import Dataset, Json, Overrides, Version
from ups.errors import CacheError

app = group("Build, list and verify latent caches.")


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
) -> None:
    """Encode a dataset version with a trained codec. A build that was stopped continues."""
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
    experiment = load_experiment(run / runs.CONFIG, overrides or [])
    data = DataConfig(dataset=dataset, version=version)
    with together(experiment.device) as device, _output.Bars() as bars:
        session = open_session(experiment.model_copy(update={"data": data}), device=device)
        (outcome,) = latents.build_caches(
            session,
            runs.checkpoint_path(run, "codec"),
            splits=split or ("train", "valid"),
            progress=bars,
        )
        first = is_main()
    if first:
        _output.summary("cache", describe_cache(outcome))


@app.command("list")
def list_all(as_json: Json = False) -> None:
    """List the caches on this machine."""
    from ups.cache.format import MANIFEST, Manifest, list_caches

    rows: list[dict[str, Any]] = []
    for folder in list_caches():
        done = (folder / MANIFEST).is_file()
        manifest = Manifest.read(folder / MANIFEST) if done else None
        rows.append({
            "dataset": f"{folder.parent.parent.name}/{folder.parent.name}",
            "cache": folder.name,
            "splits": list(manifest.splits) if manifest else [],
            "size_bytes": manifest.size_bytes if manifest else None,
            "state": "complete" if done else "unfinished",
        })  # fmt: skip
    if as_json:
        _output.print_json(rows)
        return
    if not rows:
        _output.summary("cache", f"none in {paths.display(paths.caches_dir())}")
        return
    _output.print_table(
        "", ["dataset", "cache", "splits", ">size", "state"],
        [[r["dataset"], r["cache"], ",".join(r["splits"]),
          _output.size(r["size_bytes"]) if r["size_bytes"] else "-", r["state"]] for r in rows],
    )  # fmt: skip


@app.command()
def verify(
    dataset: Annotated[
        str | None, typer.Argument(help="Only this dataset.", show_default="all")
    ] = None,
) -> None:
    """Read every byte of every cache and compare with its manifest."""
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
