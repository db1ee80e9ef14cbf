"""`ups promote`: who is the best run of a benchmark, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Json
from ups.errors import GateError


def promote(
    benchmark: Annotated[
        str, typer.Option(help="YAML file, or the name of one in configs/benchmarks/.")
    ],
    run: Annotated[
        str | None,
        typer.Argument(help="Folder, name/id or name of a run.", show_default="the newest"),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")
    ] = False,
    history: Annotated[
        bool, typer.Option("--history", help="Show the champion and those before it, and stop.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Json = False,
) -> None:
    """Make a run the champion of a benchmark, if it is better and meets every gate.

    A small evaluation first, then the full one, then the gates of the benchmark: accuracy against
    the current champion over the same trajectories, and the gates of the report that the benchmark
    names. The champion changes as a whole, with its history. Exits with 5 when a gate says no.
    """
    from ups import runs
    from ups.pipeline.champion import load_throne
    from ups.pipeline.promote import promote as try_to
    from ups.pipeline.rules import find_benchmark
    from ups.training.distributed import local_device

    rules = find_benchmark(benchmark)
    if history:
        tell_history(load_throne(rules.name), as_json=as_json)
        return
    folder = runs.find_run(run)
    with _output.Bars() as bars:

        def told(what: str, gates: Sequence[Any]) -> None:
            bars.close("small eval")
            if not as_json:
                print_gates(what, gates)

        result = try_to(
            folder, rules, reason=reason, dry_run=dry_run, device=local_device(device),
            progress=bars, told=told,
        )  # fmt: skip
    if as_json:
        _output.print_json(_plain(result))
    else:
        tell_outcome(result, dry_run=dry_run)
    refuse_failed(result.failed, rules.name)


def refuse_failed(failed: Sequence[Any], benchmark: str) -> None:
    """Leave with 5 where a gate says no; all of them are named."""
    if failed:
        raise GateError(
            "; ".join(f"{gate.name}: {gate.detail}" for gate in failed),
            hint=f"the champion stays: ups promote --benchmark {benchmark} --history",
        )


def print_gates(title: str, gates: Sequence[Any]) -> None:
    """A line for each gate: whether it is met, its name, what was found and asked."""
    marks = {True: "[green]ok[/]", False: "[red]NO[/]"}
    rows = [[marks[gate.passed], gate.name, gate.detail] for gate in gates]
    _output.print_table(title, ["", "gate", "finding"], rows)


def tell_outcome(result: Any, *, dry_run: bool) -> None:
    """One line on who is champion now."""
    from ups import runs
    from ups.pipeline.champion import throne_path

    name, who = result.benchmark.name, runs.run_id(result.run)
    before = f" after {result.before.run}" if result.before else ", the first one"
    match result.outcome:
        case "promoted":
            place = paths.display(throne_path(name))
            text = f"{who} is champion of {name}{before} -> {place}"
        case "would be promoted":
            text = f"dry run: {who} would become champion of {name}{before}"
        case "to be judged":
            text = (
                f"dry run: the full evaluation is next: {'; '.join(result.unjudged)}; then the "
                "gates: ups eval, then this command again"
            )
        case "champion already":
            text = f"unchanged: {who} is the champion of {name}"
        case _:
            text = f"{'dry run: ' * dry_run}{who} does not become champion of {name}"
    _output.summary("champion", text)


def tell_history(throne: Any, *, as_json: bool) -> None:
    """Champions of a benchmark, newest first."""
    from ups.pipeline.champion import plain

    if as_json:
        _output.print_json(plain(throne))
        return
    if throne.champion is None:
        _output.summary("champion", f"{throne.benchmark}: nobody yet")
        return
    rows = []
    for index, one in enumerate((throne.champion, *throne.history)):
        first = one.scores[0]
        mark = "now" if index == 0 else ""
        rows.append([mark, one.since[:16].replace("T", " "), one.run, first.place,
                     f"{first.value:.4g}", one.reason])  # fmt: skip
        rows += [["", "", "", score.place, f"{score.value:.4g}", ""] for score in one.scores[1:]]
    heads = ["", "since (UTC)", "run", "on", f">{throne.champion.metric}", "reason"]
    _output.print_table(f"Champions of {throne.benchmark}", heads, rows)


def _plain(result: Any) -> dict[str, Any]:
    from ups import runs
    from ups.pipeline.champion import plain

    return {
        "benchmark": result.benchmark.name,
        "run": runs.run_id(result.run),
        "outcome": result.outcome,
        "before": result.before.run if result.before else None,
        "small_evaluation": [plain(gate) for gate in result.small],
        "gates": [plain(gate) for gate in result.gates],
        "unjudged": list(result.unjudged),
    }
