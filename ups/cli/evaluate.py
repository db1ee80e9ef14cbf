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
    task: Annotated[
        str | None, typer.Option(help="One task of several.", show_default="all of them")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Whose checkpoint.", show_default="the last that finished")
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
    from ups.pipeline import publish
    from ups.training.distributed import crew, is_main, together
    from ups.training.run import stage_name

    if split is not None and split not in SPLITS:
        raise UsageError(f"--split {split}: expected valid, test or all")
    chosen = None if stage is None else stage_name(stage)
    folder = runs.find_run(run, with_stage=chosen or runs.MODEL)
    experiment = runs.run_experiment_of(folder)
    given = {"history": history, "horizon": horizon, "split": split}
    settings = experiment.evaluation.model_copy(
        update={key: value for key, value in given.items() if value is not None}
    )
    names = [one.key for one in experiment.data.tasks] if task is None else [task]
    results = []
    with together(device) as chosen_device, _output.Bars() as bars:
        for name in names:
            result = judge(
                folder,
                task=name,
                stage=chosen,
                settings=settings,
                version=version,
                device=chosen_device,
                crew=crew(),
                progress=bars.of("eval" if len(names) == 1 else f"eval {name}"),
            )
            if is_main():
                results.append((result, publish(result, folder)))
    if results:  # of several processes the first one tells
        tell(results, settings.gates, as_json=as_json)


def tell(results: list[tuple[Any, Any]], gates: Any, *, as_json: bool) -> None:
    """Print every report, and leave with an error where one misses a gate.

    Args:
        results: Evaluations with their pages.
    """
    from ups.evaluation.evaluate import failed_gates

    reports = [result.report for result, _ in results]
    if as_json:
        contents = [report.to_dict() for report in reports]
        _output.print_json(contents[0] if len(contents) == 1 else contents)
    else:
        for report, (_, page) in zip(reports, results, strict=True):
            print_report(report)
            _output.summary("report", paths.display(page))
        if len(reports) > 1:
            print_average(reports)
    failed = [line for report in reports for line in failed_gates(report, gates)]
    if failed:
        raise GateError("; ".join(failed), hint=f"the report: {paths.display(results[0][1])}")


def print_average(reports: list[Any]) -> None:
    """Macro averages over the tasks of a run."""
    from ups.evaluation.evaluate import persistence_ratio

    errors = [report.headline for report in reports]
    ratios = [persistence_ratio(report) for report in reports]
    if all(errors) and all(ratios):
        mean = sum(errors) / len(errors)
        share = sum(1 / ratio for ratio in ratios if ratio) / len(ratios)
        _output.summary("average", f"nRMSE {mean:.4f} over {len(reports)} tasks, "
                                   f"{share:.3g} of the trivial predictor's")  # fmt: skip
    else:
        _output.summary("average", "not finite")


def print_report(report: Any) -> None:
    """The report's rows as a table, with the protocol above it."""
    trivial = report.row("persistence") or report.row("training mean")
    first = trivial.value("nrmse") if trivial else None
    rows = []
    for row in report.rows:
        values = [row.value("nrmse", part) for part in ("mean", "median", "p90", "max")]
        mean = values[0]
        ratio = f"{mean / first:.3g}" if mean is not None and first else "-"
        speed = f"{1e3 * row.seconds_per_step:.3f}" if row.seconds_per_step else "-"
        relative = row.value("relative_l2")
        rows.append([row.name, *map(_number, values), _number(relative), ratio, speed])
    against = ">× pers." if report.row("persistence") else ">× mean"
    heads = ["", ">nRMSE mean", ">median", ">p90", ">max", ">rel. L2", against, ">ms/step"]
    _output.print_table(report.protocol.describe(), heads, rows)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
