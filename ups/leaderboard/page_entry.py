"""The page of one entry: what was measured, how sure it is, at what cost, and how to rerun it."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from ups.evaluation.report import Row
from ups.leaderboard import wording
from ups.leaderboard.entries import Entry
from ups.leaderboard.lines import HEADLINE, Measure, lines_of
from ups.leaderboard.page_parts import Cell, TableRow, details, document, facts, link, table
from ups.leaderboard.wording import digits, interval

_REDUCTIONS = ("mean", "median", "p90", "max")


def entry_page(entry: Entry, *, superseded_by: str = "", report: str = "") -> str:
    """The page as text.

    Args:
        superseded_by: The id of the entry that corrects this one.
        report: Address of the report's page, relative to this one; empty without.
    """
    title = f"{entry.name} on {entry.task}"
    body = [
        f"<p>{link('Leaderboard', '../index.html')}</p>",
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_sentence(entry))}</p>",
        *_standing(entry, superseded_by),
        "<h2>What was measured</h2>",
        f"<p>{escape(entry.protocol.describe())}. Evaluated {escape(entry.created)}, protocol "
        f"<code>{entry.protocol.id}</code> ({escape(entry.protocol_name)}).</p>",
        f"<p>{escape(entry.protocol.metric)}.</p>",
        details("the whole protocol", facts(entry.protocol.to_dict())),
        "<h2>How good, and how sure</h2>",
        "<p>nRMSE over trajectories, with 95 % bootstrap intervals.</p>",
        _headline(entry),
        "<p>All metrics: the mean over trajectories, of the maximum error the maximum.</p>",
        _metrics(entry),
        *_gates(entry),
        *_sections(entry),
        *_provenance(entry),
        "<h2>How to rerun it</h2>",
        *_rerun(entry, report),
    ]
    return document(title, body)


def _sentence(entry: Entry) -> str:
    line = lines_of(entry, Measure())[0]
    if line.value is None:
        return "The rollout blew up, so there is no nRMSE."
    around = f" (95 % interval {interval(line.low, line.high)})" if line.low is not None else ""
    ratio = ""
    if line.vs_persistence is not None:
        ratio = f", {digits(line.vs_persistence, 3)} of the trivial predictor's"
    return f"nRMSE {digits(line.value, 4)}{around}{ratio}."


def _standing(entry: Entry, superseded_by: str) -> Iterator[str]:
    """Corrections, and why it is not ranked."""
    if superseded_by:
        newer = link(superseded_by, f"{superseded_by}.html")
        yield f'<p class="reason">A correction supersedes this entry: {newer}.</p>'
    if entry.supersedes:
        older = link(entry.supersedes.entry, f"{entry.supersedes.entry}.html")
        yield f"<p>Supersedes {older}: {escape(entry.supersedes.reason)}.</p>"
    for gate in entry.disqualified_by:
        yield (f'<p class="reason">Not ranked: {escape(gate.kind)} gate {escape(gate.name)}: '
               f"{escape(gate.detail)}.</p>")  # fmt: skip


def _headline(entry: Entry) -> str:
    heads = [Cell("", kind="run"), *(Cell(name) for name in _REDUCTIONS)]
    rows = []
    for row in entry.rows:
        cells = [Cell(escape(row.name), kind="run")]
        cells += [Cell(_with_interval(row, HEADLINE, name)) for name in _REDUCTIONS]
        rows.append(TableRow(cells, row.kind))
    return table(heads, rows)


def _metrics(entry: Entry) -> str:
    names = list(dict.fromkeys(name for row in entry.rows for name in row.metrics))
    heads = [Cell("", kind="run"), *(Cell(escape(row.name)) for row in entry.rows)]
    rows = []
    for name in names:
        reduction = "max" if name == "max_error" else "mean"
        cells = [_with_interval(row, name, reduction) for row in entry.rows]
        named = Cell(escape(wording.metric_name(name)), kind="run")
        rows.append(TableRow([named, *(Cell(cell) for cell in cells)]))
    return table(heads, rows)


def _with_interval(row: Row, metric: str, reduction: str) -> str:
    around = row.intervals.get(metric, {}).get(reduction)
    text = digits(row.value(metric, reduction), 4)
    return text if around is None else f'{text}<br><span class="quiet">{interval(*around)}</span>'


def _gates(entry: Entry) -> Iterator[str]:
    yield "<h2>Gates</h2>"
    if not entry.gates:
        yield "<p>None were set.</p>"
        return
    heads = [Cell(text, kind=kind) for text, kind in (
        ("gate", "run"), ("kind", ""), ("met", ""), ("what was found", "words"))]  # fmt: skip
    yield table(heads, [
        TableRow([
            Cell(escape(gate.name), kind="run"), Cell(escape(gate.kind), kind=""),
            Cell("yes" if gate.passed else "no", kind="" if gate.passed else "reason"),
            Cell(escape(gate.detail), kind="words"),
        ]) for gate in entry.gates
    ])  # fmt: skip


def _sections(entry: Entry) -> Iterator[str]:
    cost: dict[str, Any] = entry.sections.get("cost") or {}
    if cost:
        yield "<h2>At what cost</h2>"
        yield facts(cost)
    others = {name: part for name, part in entry.sections.items() if name != "cost" and part}
    if others:
        yield "<h2>What else was measured</h2>"
    for name, part in others.items():
        content = part if isinstance(part, dict) else {name: part}
        yield details(name.replace("_", " "), facts(content))


def _provenance(entry: Entry) -> Iterator[str]:
    shown = {key: value for key, value in entry.run.items() if key != "config"}
    yield "<h2>Where it comes from</h2>"
    yield facts({**shown, "recipe": entry.recipe, "environment": entry.environment})
    if isinstance(config := entry.run.get("config"), str):
        yield details("the whole config", f"<pre>{escape(config)}</pre>")


def _rerun(entry: Entry, report: str) -> Iterator[str]:
    seen = link("this entry's file", f"{entry.id}.json")
    yield f"<p>Take {seen} over into a leaderboard of yours, then:</p>"
    commands = (
        f"ups leaderboard pull --from entries    # the folder of this page's entries\n"
        f"ups reproduce {entry.id}         # data, training and evaluation from the entry alone\n"
        f"ups leaderboard verify {entry.id}  # with the checkpoint: are the numbers true?"
    )
    yield f"<pre>{escape(commands)}</pre>"
    if report:
        yield f"<p>{link('The report', report)} has the pictures.</p>"
