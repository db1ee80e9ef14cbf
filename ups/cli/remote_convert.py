"""`ups remote convert`: raw data converted by a job array on a Slurm cluster."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Dataset
from ups.cli._remote_options import parsed
from ups.errors import DataError

_POLL_S = 5.0


def convert(
    dataset: Dataset,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- OPTIONS]", help="Of ups data convert: -- --stride-t 2"),
    ] = None,
    shards: Annotated[int, typer.Option(min=1, help="Jobs that convert a share each.")] = 8,
    workers: Annotated[int, typer.Option(min=1, help="Processes and cores of each job.")] = 4,
    hours: Annotated[float, typer.Option(min=0.02, help="Time limit of each job.")] = 2.0,
    memory: Annotated[
        str | None,
        typer.Option(help="Of each job, as Slurm writes it.", show_default="by the workers"),
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Jobs at a time.", show_default="all")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Of sbatch: partition=cpu, account=..., qos=..."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when all is merged.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the two scripts.")] = False,
) -> None:
    """Convert raw data with many jobs of a Slurm cluster, and merge their shares in the end.

    Run it on a login node. All nodes must see this folder, UPS_HOME and the raw files. The result
    is byte for byte that of ups data convert. A run that failed continues when it is run again.
    """
    from ups.remote.drivers import slurm_convert as conversions

    wanted = conversions.Conversion(
        dataset, tuple(arguments or ()), shards, workers, hours, memory, parallel, parsed(option)
    )
    if dry_run:
        for script in conversions.render_conversion(wanted, conversions.new_logs(dataset)):
            typer.echo(script)
        return
    submitted = conversions.submit_conversion(wanted)
    _output.summary(
        "submitted",
        f"{shards} shares as job {submitted.shares}, the merge as {submitted.merge}; "
        f"they print to {paths.display(submitted.logs)}",
    )
    if not wait:
        return
    while conversions.unfinished(submitted):
        time.sleep(_POLL_S)
    if not submitted.has_merged:
        said = conversions.complaints(submitted) or [f"see {paths.display(submitted.logs)}"]
        raise DataError(
            f"{dataset}: not converted: {said[0]}",
            hint="mend it and run the same command again; what is done is kept",
        )
    _output.summary("merged", f"{dataset}: ups data show {dataset}")
