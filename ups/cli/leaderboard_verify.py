"""`ups leaderboard verify`: is an entry true?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Json
from ups.errors import CheckpointError, GateError, UsageError

if TYPE_CHECKING:
    from ups.leaderboard.entries import Entry
    from ups.pipeline.verify import Verification

_SHOWN = 12


def verify(
    entry: Annotated[
        str | None, typer.Argument(help="The beginning of an entry's id.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every current entry.")] = False,
    tolerance: Annotated[float, typer.Option(min=0, help="Relative, of every number.")] = 1e-3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Json = False,
) -> None:
    """Judge an entry's checkpoint again, and confirm or refute the numbers that it states.

    The checkpoint is found among the runs here by its hash, and the data by theirs. Exits with 0
    if all is confirmed, 5 if a number is refuted, 4 if it cannot be checked.
    """
    from ups.pipeline.verify import verify as judge_again
    from ups.training.distributed import local_device

    chosen, place = _chosen(entry, every=every), local_device(device)
    results = []
    with _output.Bars() as bars:
        for one in chosen:
            result = judge_again(
                one, tolerance=tolerance, device=place, progress=bars.of(f"verify {one.id[:8]}")
            )
            results.append(result)
            if not as_json:
                _tell(result, tolerance)
    if as_json:
        _output.print_json([result.to_dict() for result in results])
    _leave(results)


def _chosen(wanted: str | None, *, every: bool) -> list[Entry]:
    from ups.leaderboard import entries

    if (wanted is None) is not every:
        raise UsageError("name one entry, or --all", hint="their ids: ups leaderboard show --all")
    known = entries.load_all(paths.leaderboard_dir())
    return [entries.find(known, wanted)] if wanted is not None else entries.current(known)


def _tell(result: Verification, tolerance: float) -> None:
    """One line; of a refuted entry every number that is wrong, the worst first."""
    about = f"{result.entry.id[:8]} {result.entry.name}"
    if result.missing:
        _output.summary("unchecked", f"{about}: {result.missing}")
        return
    count = len(result.checks)
    within = f"within {tolerance:g}"
    if result.state == "confirmed":
        _output.summary("confirmed", f"{about}: {count} numbers agree {within}")
    else:
        wrong = len(result.refuted)
        _output.summary("refuted", f"{about}: {wrong} of {count} numbers do not agree {within}")
    for line in result.wrong:
        _output.summary("", line)
    if result.refuted:
        rows = [
            [one.row, one.metric, one.what, _number(one.stored), _number(one.found)]
            for one in result.refuted[:_SHOWN]
        ]
        _output.print_table("", ["row", "metric", "", ">stored", ">found"], rows)
    if result.unchecked:
        _output.summary("", f"not measured again: {'; '.join(result.unchecked)}")


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6g}"


def _leave(results: list[Verification]) -> None:
    """The exit code: 5 where one is refuted, else 4 where one could not be checked."""
    refuted = [one.entry.id[:8] for one in results if one.state == "refuted"]
    unchecked = [one.entry.id[:8] for one in results if one.state == "unchecked"]
    if refuted:
        raise GateError(
            f"refuted: {', '.join(refuted)}",
            hint='a correction: ups leaderboard add RUN --supersedes ENTRY --reason "..."',
        )
    if unchecked:
        raise CheckpointError(
            f"cannot be checked: {', '.join(unchecked)}", hint="ups reproduce ENTRY"
        )
