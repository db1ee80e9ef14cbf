"""`ups reproduce`: a leaderboard entry made again, from nothing but the entry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Json
from ups.errors import GateError, UsageError


def reproduce(
    entry: Annotated[str, typer.Argument(help="File of an entry, or the beginning of its id.")],
    data_only: Annotated[
        bool, typer.Option("--data-only", help="Make and check the data, train nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be made and compared.")
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option(min=0, help="Share beyond the entry's interval that other hardware may add."),
    ] = 0.05,
    raw: Annotated[
        list[Path] | None,
        typer.Option(help="Raw files that can be neither generated nor downloaded."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or cuda:N.", show_default="the entry's")
    ] = None,
    as_json: Json = False,
) -> None:
    """Get the entry's data, check their hashes, train with its config, evaluate, compare.

    Generated data are generated again, published files are downloaded and MD5-verified. Reproduced
    (exit 0) is what comes back to the entry's 95 % interval, widened by the tolerance; everything
    else exits with 5 and says what differs.
    """
    from ups.pipeline.reproduce import outlook
    from ups.pipeline.reproduce import reproduce as run

    found = _find(entry)
    if dry_run:
        for what, text in outlook(found):
            _output.summary(what, text)
        return
    with _output.Bars() as bars:

        def told(step: Any) -> None:
            bars.close(step.name)
            if not as_json:
                _tell(step)

        result = run(
            found, raw=raw or (), data_only=data_only, tolerance=tolerance, device=device,
            progress=bars, told=told,
        )  # fmt: skip
    _verdict(result, as_json=as_json)


def _find(entry: str) -> Any:
    from ups.leaderboard import entries

    if Path(entry).is_file():
        return entries.load(Path(entry))
    folder = paths.leaderboard_dir()
    if not folder.is_dir():
        raise UsageError(f"{entry}: no such file, and no leaderboard in {paths.display(folder)}")
    return entries.find(entries.load_all(folder), entry)


def _tell(step: Any) -> None:
    from ups.cli.quickstart import describe

    if step.name == "data":
        found = "found here: " if step.reused else ""
        _output.summary("data", f"{found}{step.outcome.name} -> {paths.display(step.outcome.path)}")
    elif step.name == "download":
        names = ", ".join(path.name for path in step.outcome)
        _output.summary("download", f"{'unchanged, reused: ' * step.reused}{names}")
    else:
        _output.summary(step.name, describe(step))


def _verdict(result: Any, *, as_json: bool) -> None:
    from ups.cli.promote import print_gates

    verdict = "not reproduced" if result.failed else _agreement(result)
    if as_json:
        _output.print_json(_plain(result, verdict))
    else:
        print_gates("", result.gates)
        _output.summary("verdict", f"{result.entry.id}: {verdict}")
    if result.failed:
        raise GateError(
            f"{result.entry.id} is not reproduced: "
            + "; ".join(f"{gate.name}: {gate.detail}" for gate in result.failed),
            hint="ups reproduce ENTRY --dry-run says what it is compared with",
        )


def _agreement(result: Any) -> str:
    if result.report is None:
        return "data reproduced; nothing was trained"
    if result.is_equal:
        return "reproduced, to the last stored digit of every trajectory"
    return (
        "reproduced within the interval; not digit for digit: half of the trajectories differ by "
        f"{result.median_change:.1e} of their nRMSE or less"
    )


def _plain(result: Any, verdict: str) -> dict[str, Any]:
    from ups import runs
    from ups.pipeline.champion import plain

    return {
        "entry": result.entry.id,
        "verdict": verdict,
        "reproduced": not result.failed,
        "equal": result.is_equal,
        "run": runs.run_id(result.run) if result.run else None,
        "nrmse": result.report.headline if result.report else None,
        "gates": [plain(gate) for gate in result.gates],
    }
