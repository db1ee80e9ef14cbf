"""`ups pipeline`: from a config to a champion."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Overrides
from ups.errors import GateError


class Source(StrEnum):
    auto = "auto"
    generate = "generate"
    download = "download"


def pipeline(
    config: Annotated[str, typer.Argument(help="YAML file, or the name of one in configs/.")],
    benchmark: Annotated[
        str | None, typer.Option(help="Promote on it: a name in configs/benchmarks/, or a file.")
    ] = None,
    overrides: Overrides = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STEP",
            help="Do this step and those after it again: data, train, small-eval, full-eval, "
            "promote.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is there and what would be done.")
    ] = False,
    reason: Annotated[str, typer.Option(help="For the history of champions.")] = "",
    source: Annotated[
        Source, typer.Option(help="Of data that are not here; auto: as the card allows.")
    ] = Source.auto,
    trajectories: Annotated[
        int | None,
        typer.Option(min=1, help="To generate (512), or the first of each file to download."),
    ] = None,
    points: Annotated[int | None, typer.Option(min=8, help="Points per axis to generate.")] = None,
    frames: Annotated[int | None, typer.Option(min=2, help="Frames to generate.")] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Of the files to download, e.g. nu=0.001."),
    ] = None,
) -> None:
    """Validate, get data, train, judge a little, judge in full, promote: each step once.

    Killed or stopped, the same command goes on where it was. What is done is looked at, and done
    again only where it is gone or has changed. Exits with 5 when a gate says no.
    """
    from ups.pipeline.chain import Chain
    from ups.pipeline.outlook import outlook
    from ups.pipeline.sources import DataSource

    wanted = DataSource(source.value, trajectories, points, frames, variant=tuple(variant or ()))
    chain = Chain.of(config, overrides or [], benchmark=benchmark, source=wanted)
    if dry_run:
        for step, text in outlook(chain, start):
            _output.summary(step, text)
        return
    with _output.Bars() as bars:

        def told(step: Any) -> None:
            bars.close(step.name)
            _tell(step)

        result = chain.run(start=start, reason=reason, progress=bars, told=told)
    _output.summary("total", _output.duration(sum(step.seconds for step in result.steps)))
    if result.failed:
        raise GateError(
            "; ".join(f"{gate.name}: {gate.detail}" for gate in result.failed),
            hint="what was trained and judged is kept; after a change: the same command, or "
            "--from STEP",
        )


def _tell(step: Any) -> None:
    from ups.cli.promote import print_gates, tell_outcome
    from ups.cli.quickstart import describe

    match step.name:
        case "validate":
            _output.summary("validate", f"ok; state in {paths.display(step.outcome.folder)}")
        case "data":
            store = step.outcome
            text = f"{store.name}, {store.num_trajectories} trajectories"
            _output.summary("data", f"found: {text} -> {paths.display(store.path)}")
        case "download":
            state = "unchanged, reused: " if step.reused else ""
            _output.summary("download", f"{state}{len(step.outcome)} files")
        case "small eval":
            _output.summary("small eval", f"done {_time(step)}")
        case "gate":
            print_gates("gate" + " (asked before)" * step.reused, step.outcome)
        case "full eval":
            _output.summary("full eval", _full(step))
        case "promote":
            if step.outcome.gates:
                print_gates("gates of the benchmark", step.outcome.gates)
            tell_outcome(step.outcome, dry_run=False)
        case name:
            _output.summary(name, describe(step))


def _full(step: Any) -> str:
    report = step.outcome
    found = f"{report.headline:.4f}" if report.headline is not None else "not finite"
    text = (
        f"{report.protocol.dataset}, {report.protocol_name}: nRMSE {found} over "
        f"{report.protocol.num_trajectories} trajectories"
    )
    return f"unchanged, reused: {text}" if step.reused else f"{text} {_time(step)}"


def _time(step: Any) -> str:
    return f"[dim]({_output.duration(step.seconds)})[/dim]"
