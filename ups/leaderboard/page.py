"""The leaderboard as a folder of static pages; nothing is loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

import ups
from ups import files, paths
from ups.errors import CheckpointError, UpsError, translated_os_errors
from ups.evaluation.protocol import Protocol
from ups.evaluation.report import load_report, report_path
from ups.leaderboard import entries as entry_files
from ups.leaderboard import references as reference_files
from ups.leaderboard import wording
from ups.leaderboard.entries import Entry
from ups.leaderboard.page_entry import entry_page
from ups.leaderboard.page_parts import details, document, facts
from ups.leaderboard.page_plots import plots
from ups.leaderboard.page_tables import (
    MEANINGS,
    published_table,
    ranking_table,
    seeds_table,
    tasks_table,
)
from ups.leaderboard.references import Reference
from ups.leaderboard.table import Ranking, rank
from ups.leaderboard.tasks import TaskRanking, rank_tasks

INDEX = "index.html"
_ENTRIES, _REPORTS = "entries", "reports"


def write_site(folder: Path, out: Path) -> Path:
    """Write the pages of the leaderboard in `folder` into `out`.

    Every entry, superseded ones too, gets a page and a copy of its file, and the page of its report
    where the run is on this machine.

    Returns:
        The first page.
    Raises:
        CheckpointError: An entry is damaged, or `out` cannot be written.
    """
    known = entry_files.load_all(folder)
    published = reference_files.load_all(folder)
    gone = entry_files.superseded(known)
    reports = {entry.id: _copied_report(entry, out) for entry in known}
    for entry in known:
        by = gone[entry.id].id if entry.id in gone else ""
        report = f"../{reports[entry.id]}" if reports[entry.id] else ""
        text = entry_page(entry, superseded_by=by, report=report)
        files.write_text(out / _ENTRIES / f"{entry.id}.html", text, CheckpointError)
        _copy(entry.path(folder), out / _ENTRIES / f"{entry.id}.json")
    page = out / INDEX
    files.write_text(page, index_page(known, published, reports), CheckpointError)
    return page


def index_page(
    known: Sequence[Entry], published: Sequence[Reference], reports: dict[str, str]
) -> str:
    """The first page as text.

    Args:
        reports: Entry id -> address of its report's page, empty where there is none.
    """
    rankings, tasks = rank(known), rank_tasks(known)
    joined = {one.protocol.id: one for one in rank(known, group_by="run")}
    body = [*_opening(known, rankings, tasks)]
    for ranking in rankings:
        body += _section(ranking, joined[ranking.protocol.id], published, reports)
    for task_ranking in tasks:
        body += _task_section(task_ranking)
    body += _closing()
    return document("Leaderboard", body, is_sortable=True)


def _opening(
    known: Sequence[Entry], rankings: Sequence[Ranking], tasks: Sequence[TaskRanking]
) -> Iterator[str]:
    yield "<h1>Leaderboard</h1>"
    if not rankings:
        yield "<p>No entries yet: <code>ups eval RUN</code>, then <code>ups leaderboard add RUN"
        yield "</code>.</p>"
        return
    current = entry_files.current(known)
    names = {str(entry.run.get("id", entry.name)) for entry in current}
    yield (
        f"<p>{_number(len(current), 'entry', 'entries')} of {_number(len(names), 'run', 'runs')} "
        f"under {_number(len(rankings), 'protocol', 'protocols')}; the newest is of "
        f"{escape(current[-1].created[:10])}. Written by ups {escape(ups.__version__)}.</p>"
    )
    yield (
        "<p>A protocol is everything that decides whether two numbers may be compared: data, "
        "split, grid, frames given and predicted, metric. Ranks are given within one protocol "
        'only. Below: <a href="#columns">what each column means</a> and '
        '<a href="#rerun">how to rerun an entry</a>.</p>'
    )
    yield "<ul class=contents>"
    for ranking in rankings:
        best = next((line for line in ranking.lines if line.rank == 1), None)
        found = f": best {escape(best.label)}, nRMSE {wording.digits(best.value, 3)}" if best else (
            ": nothing is ranked")  # fmt: skip
        yield f'<li><a href="#p{ranking.protocol.id}">{escape(ranking.title)}</a>{found}</li>'
    for index, one in enumerate(tasks):
        yield f'<li><a href="#{_anchor(one)}">{escape(one.title)}</a> ({index + 1})</li>'
    yield "</ul>"


def _section(
    ranking: Ranking, joined: Ranking, published: Sequence[Reference], reports: dict[str, str]
) -> Iterator[str]:
    names = ", ".join(name for name in ranking.names if name)
    yield f'<h2 id="p{ranking.protocol.id}">{escape(ranking.title)}</h2>'
    yield f'<p class="quiet">Protocol <code>{ranking.protocol.id}</code> ({escape(names)}).</p>'
    yield details("the whole protocol", facts(_protocol_facts(ranking.protocol)))
    yield ranking_table(ranking, reports)
    yield from _notes(ranking)
    yield from seeds_table(joined)
    yield from published_table(ranking.protocol, published)
    yield from plots(ranking)


def _protocol_facts(protocol: Protocol) -> dict[str, object]:
    content = protocol.to_dict()
    content["domain"] = " x ".join(f"[{low:g}, {high:g}]" for low, high in protocol.domain)
    return content


def _notes(ranking: Ranking) -> Iterator[str]:
    """Why lines are not ranked, and which gates ranked ones missed."""
    notes = []
    for line in ranking.lines:
        if line.unranked:
            notes.append(f"<b>{escape(line.label)}</b> is not ranked: {escape(line.unranked)}.")
        elif line.missed:
            notes.append(f"<b>{escape(line.label)}</b> missed: {escape('; '.join(line.missed))}.")
    if notes:
        yield '<ul class="reason">' + "".join(f"<li>{note}</li>" for note in notes) + "</ul>"


def _task_section(ranking: TaskRanking) -> Iterator[str]:
    yield f'<h2 id="{_anchor(ranking)}">{escape(ranking.title)}</h2>'
    yield "<p>Runs that were judged on all of these tasks, ranked by the average over them.</p>"
    yield tasks_table(ranking)
    yield from (
        f'<p class="reason">{escape(line.label)} is not ranked: {escape(line.unranked)}.</p>'
        for line in ranking.lines if line.unranked
    )  # fmt: skip


def _anchor(ranking: TaskRanking) -> str:
    return "t" + "-".join(one.id for one in ranking.protocols)


def _closing() -> Iterable[str]:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in MEANINGS)
    yield f'<h2 id="columns">What each column means</h2><dl>{items}</dl>'
    yield (
        '<h2 id="rerun">How to rerun an entry</h2>'
        "<p>An entry's page, behind its name, holds its config, seed, hashes and numbers. With the "
        "folder <code>entries</code> of these pages:</p>"
        "<pre>ups leaderboard pull --from entries\n"
        "ups reproduce ENTRY             # data, training, evaluation: within the interval?\n"
        "ups leaderboard verify ENTRY    # with its checkpoint: are the numbers true?\n"
        "ups leaderboard compare A B     # is the difference real?</pre>"
    )


def _copied_report(entry: Entry, out: Path) -> str:
    """The address of the page of an entry's report, copied beside it; empty where there is none.

    The run may have been judged again since: only the page of this very report counts.
    """
    run = paths.runs_dir() / str(entry.run.get("id") or entry.name)
    source = report_path(run, entry.run.get("task"), entry.protocol_name)
    page = source.with_suffix(".html")
    if not (source.is_file() and page.is_file()):
        return ""
    try:
        is_it = Entry.of(load_report(source), entry.supersedes).id == entry.id
    except UpsError:
        return ""  # written by another version of ups
    if not is_it:
        return ""
    _copy(page, out / _REPORTS / f"{entry.id}.html")
    return f"{_REPORTS}/{entry.id}.html"


def _copy(source: Path, target: Path) -> None:
    with translated_os_errors(source, "reading", CheckpointError):
        text = source.read_text(encoding="utf-8")
    files.write_text(target, text, CheckpointError)


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
