"""`ups eval export`: a run as programs that run without ups."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import RunArgument, StageOption


def export(
    run: RunArgument = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write.", show_default="RUN/export")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="One task of several.", show_default="the only one")
    ] = None,
    stage: StageOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Write codec and operator as torch.export programs that run without ups.

    A folder: encode, step (of a steady problem solve) and decode as .pt2 files for any batch size,
    with their shapes and units in model.json, an example, and a README whose code runs. The
    programs are loaded again and must roll out as the run itself does. Runs on grids only.
    """
    from ups import runs
    from ups.evaluation.export import TOLERANCE, export_run
    from ups.training.run import stage_name

    chosen = None if stage is None else stage_name(stage)
    folder = runs.find_run(run, with_stage=chosen or runs.MODEL)
    made = export_run(folder, out, task=task, stage=chosen, force=force)
    _output.summary("programs", ", ".join(made.programs))
    _output.summary(
        "checked", f"{made.difference:.1e} from the run's own rollout, {TOLERANCE:g} allowed"
    )
    _output.summary("export", f"{paths.display(made.folder)} ({_output.size(made.num_bytes)})")
