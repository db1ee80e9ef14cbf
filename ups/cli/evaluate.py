"""`ups eval`: judge a run in physical space."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Json
from ups.errors import GateError, UsageError

SPLITS = ("valid", "test", "all")


def evaluate(
    run: Annotated[
        str | None,
        typer.Argument(help="Folder, name/id or name of a run.", show_default="the newest"),
    ] = None,
    horizon: Annotated[
        int | None, typer.Option(min=1, help="Frames to predict.", show_default="to the end")
    ] = None,
    history: Annotated[
        int | None, typer.Option(min=1, help="True frames given.", show_default="from the config")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="test or valid; with --version also all.", show_default="from the config"
        ),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            help="Judge on another converted version, unseen in training.",
            show_default="the run's own",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Json = False,
) -> None:
    """Roll a run out on unseen trajectories, decode, and compare with the truth and persistence.

    Writes report.json and a page with pictures into the run's folder. Exits with 5 if the config
    sets gates and the result misses one.
    """
    from ups import runs
    from ups.evaluation.evaluate import evaluate as judge
    from ups.evaluation.evaluate import failed_gates
    from ups.evaluation.pictures import write_pictures
    from ups.training.session import find_device

    if split is not None and split not in SPLITS:
        raise UsageError(f"--split {split}: expected valid, test or all")
    folder = runs.find_run(run)
    experiment = runs.run_experiment_of(folder)
    given = {"history": history, "horizon": horizon, "split": split}
    settings = experiment.evaluation.model_copy(
        update={key: value for key, value in given.items() if value is not None}
    )
    with _output.Bars() as bars:
        result = judge(
            folder,
            settings=settings,
            version=version,
            device=find_device(device),
            progress=bars.of("eval"),
        )
        page = write_pictures(result, folder)
    if as_json:
        _output.print_json(result.report.to_dict())
    else:
        print_report(result.report)
        _output.summary("report", paths.display(page))
    failed = failed_gates(result.report, settings.gates)
    if failed:
        raise GateError("; ".join(failed), hint=f"the report: {paths.display(page)}")


def print_report(report: Any) -> None:
    """The report's rows as a table, with the protocol above it."""
    first = report.row("persistence").value("nrmse")
    rows = []
    for row in report.rows:
        values = [row.value("nrmse", part) for part in ("mean", "median", "p90", "max")]
        mean = values[0]
        ratio = f"{mean / first:.3g}" if mean is not None and first else "-"
        speed = f"{1e3 * row.seconds_per_step:.3f}" if row.seconds_per_step else "-"
        relative = row.value("relative_l2")
        rows.append([row.name, *map(_number, values), _number(relative), ratio, speed])
    heads = ["", ">nRMSE mean", ">median", ">p90", ">max", ">rel. L2", ">× pers.", ">ms/step"]
    _output.print_table(report.protocol.describe(), heads, rows)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
