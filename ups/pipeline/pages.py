"""The page of a run, with what the leaderboard holds beside it; PDF and trackers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ups import paths, runs
from ups.evaluation.report import Report, Row
from ups.evaluation.reporting.page import load_reports, pictures_of, task_of, write_page
from ups.leaderboard.entries import Entry, current, read_folder
from ups.training.tracking import log_report, open_tracking


def publish(run: Path) -> Path:
    """Draw all that was judged of a run, write its page, and tell the trackers that the run was
    trained with.

    Returns:
        The page.
    """
    page = write_run_page(run)
    pictures = pictures_of(run)
    with open_tracking(run, runs.run_experiment_of(run), resume=True) as tracking:
        for report in load_reports(run):
            own = pictures.get((task_of(report), report.protocol_name), [])
            log_report(tracking, report.to_dict(), own)
    return page


def write_run_page(run: Path, out: Path | None = None) -> Path:
    """Write the page of a run beside the leaderboard's entries of the same protocols.

    Raises:
        CheckpointError: The run was not judged, or a file of it or of the leaderboard is damaged.
    """
    return write_page(run, others=rows_beside(load_reports(run)), out=out)


def rows_beside(reports: Sequence[Report]) -> dict[str, list[Row]]:
    """Protocol id -> the models and baselines of other runs that the leaderboard has of it.

    Damaged entries are left out: `ups leaderboard show` names them.
    """
    ours = {str(report.run.get("id")) for report in reports}
    wanted = {report.protocol.id for report in reports}
    found: dict[str, list[Row]] = {}
    entries, _ = read_folder(paths.leaderboard_dir())
    for entry in current(entries):
        protocol = entry.protocol.id
        if protocol in wanted and str(entry.run.get("id")) not in ours:
            found.setdefault(protocol, []).extend(_rows_of(entry))
    return found


def _rows_of(entry: Entry) -> Iterator[Row]:
    """The rows that learned something, named by their run."""
    for row in entry.rows:
        if row.kind != "trivial":
            label = entry.name if row.name in ("model", entry.name) else f"{entry.name}: {row.name}"
            yield replace(row, name=f"{label} (seed {entry.run.get('seed')})")
