"""Rankings for a terminal of 80 columns, and as CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ups.leaderboard import wording
from ups.leaderboard.lines import HEADLINE, TRIVIAL, Line
from ups.leaderboard.references import Beside, Reference, beside
from ups.leaderboard.table import Ranking
from ups.leaderboard.tasks import TaskLine, TaskRanking
from ups.leaderboard.wording import digits, interval

_ID = 8
_NOTE = (
    "mean, median, p90 and max are over trajectories; below a name: its entry and the 95 % "
    "interval, of several seeds their range. × pers.: nRMSE / nRMSE of persistence, of steady "
    "problems of the training mean; below 1 is better."
)


def render(rankings: Sequence[Ranking], references: Sequence[Reference] = ()) -> RenderableType:
    """The few numbers that decide; published figures of the same protocol below."""
    if not rankings:
        return Text("no entries")
    parts: list[RenderableType] = []
    for ranking in rankings:
        parts += [_heading(ranking), _grid(ranking), *_reasons(ranking.lines)]
        parts += [*_published(beside(ranking.protocol, references)), Text("")]
    return Lines(*parts, Text(_NOTE, style="dim"))


def _heading(ranking: Ranking) -> Text:
    """The protocol in words, and enough of its id to filter by."""
    return Text.assemble((ranking.title, "bold"), (f"  {ranking.protocol.id[:_ID]}", "dim"))


def _grid(ranking: Ranking) -> Table:
    measure = ranking.measure
    names = [name for line in ranking.lines for name in line.statistics]
    statistics = [name for name in dict.fromkeys(names) if name != measure.statistic]
    grid = _empty_grid()
    grid.add_column(wording.metric_name(measure.metric), justify="right", no_wrap=True)
    for heading in (*statistics, "× pers."):
        grid.add_column(heading, justify="right", no_wrap=True)
    for line in ranking.lines:
        grid.add_row(
            wording.place(line),
            _named(line.label, _below(line)),
            digits(line.value, 4),
            *(digits(line.statistics.get(name), 3) for name in statistics),
            digits(line.vs_persistence, 3),
            style="dim" if line.kind == TRIVIAL else None,
        )
    return grid


def _empty_grid() -> Table:
    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    grid.add_column("#", justify="right", no_wrap=True)
    grid.add_column("run", overflow="fold", ratio=1, min_width=16)
    return grid


def _named(label: str, below: str) -> Text:
    return Text.assemble(label, (f"\n{below}" if below else "", "dim"))


def _below(line: Line) -> str:
    if line.kind == TRIVIAL:
        return ""
    around = interval(line.low, line.high)
    several = f" +{len(line.members) - 1}" if len(line.members) > 1 else ""
    return f"{line.entry[:_ID]}{several}{'  ' + around if around else ''}"


def _reasons(lines: Iterable[Line | TaskLine]) -> list[Text]:
    """Why a line has no rank, and which gates ranked ones missed."""
    found = []
    for line in lines:
        missed = "; ".join(line.missed) if isinstance(line, Line) and not line.unranked else ""
        if line.unranked or missed:
            what = f"not ranked: {line.unranked}" if line.unranked else missed
            found.append(Text(f"  {line.label}: {what}", style="yellow"))
    return found


def _published(found: Sequence[Beside]) -> list[Text]:
    """Figures of the same protocol; of others only how many there are."""
    same = [one for one in found if not one.differences]
    lines = [Text(f"  published: {_figure(one.reference)}", style="dim") for one in same]
    if others := len(found) - len(same):
        lines.append(Text(f"  published by other protocols: {others}, --references", style="dim"))
    return lines


def render_published(
    rankings: Sequence[Ranking], references: Sequence[Reference]
) -> RenderableType:
    """Every published figure of the shown datasets, and in what its protocol differs."""
    parts: list[RenderableType] = []
    for ranking in rankings:
        found = beside(ranking.protocol, references)
        if found:
            parts.append(_heading(ranking))
        for one in found:
            other = "; ".join(one.differences) or "the same protocol, as far as it is stated"
            parts += [Text(f"  {_figure(one.reference)}"), Text(f"    {other}", style="dim")]
    return Lines(*parts) if parts else Text("no published figures for these datasets")


def _figure(one: Reference) -> str:
    cost = f"; training {one.cost}" if one.cost else ""
    note = f"; {one.note}" if one.note else ""
    name = wording.metric_name(one.metric)
    about = f"{one.model}, {one.source}; {one.protocol.selection}{cost}{note}"
    return f"{name} {digits(one.value, 3)}  {about}"


def render_tasks(rankings: Sequence[TaskRanking]) -> RenderableType:
    """Runs of several tasks: the averages, and each task's number below the name."""
    if not rankings:
        return Text("no run of several tasks is entered")
    parts: list[RenderableType] = []
    for ranking in rankings:
        grid = _empty_grid()
        metric = wording.metric_name(ranking.measure.metric)
        for heading in (f"average {metric}", "over seeds", "× pers."):
            grid.add_column(heading, justify="right", no_wrap=True)
        for line in ranking.lines:
            each = ", ".join(
                f"{name} {digits(line.tasks[key].value, 3)}"
                for key, name in ranking.headings.items()
            )
            rank = "·" if line.kind == TRIVIAL else str(line.rank or wording.DASH)
            around = interval(line.low, line.high)
            grid.add_row(rank, _named(line.label, each), digits(line.macro, 4), around,
                         digits(line.vs_persistence, 3))  # fmt: skip
        described = [Text(f"  {one.describe()}", style="dim") for one in ranking.protocols]
        parts += [Text(ranking.title, style="bold"), *described, grid]
        parts += [*_reasons(ranking.lines), Text("")]
    note = "averages: each task counts the same. × pers.: mean over tasks of the ratios."
    return Lines(*parts, Text(note, style="dim"))


def to_json(rankings: Sequence[Ranking | TaskRanking], references: Sequence[Reference] = ()) -> str:
    """Everything, with the published figures of each protocol's dataset."""
    content = [one.to_dict() | _with_published(one, references) for one in rankings]
    return json.dumps(content, indent=2, allow_nan=False)


def _with_published(
    ranking: Ranking | TaskRanking, references: Sequence[Reference]
) -> dict[str, Any]:
    if isinstance(ranking, TaskRanking):
        return {}
    return {"published": [
        {**one.reference.model_dump(mode="json"), "differences": list(one.differences)}
        for one in beside(ranking.protocol, references)
    ]}  # fmt: skip


def to_csv(rankings: Sequence[Ranking]) -> str:
    """One row per line; the first columns say under which protocol. Empty where no number is."""
    about = ("dataset", "version", "split", "history", "horizon", "stride", "mode")
    columns = [field.name for field in fields(Line) if field.name != "statistics"]
    metric = rankings[0].measure.metric if rankings else HEADLINE
    reductions = list(dict.fromkeys(
        name for one in rankings for line in one.lines for name in line.statistics
    ))  # fmt: skip
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    named = [f"{metric}_{name}" for name in reductions if f"{metric}_{name}" not in columns]
    writer.writerow(["protocol", *about, *columns, *named])
    for one in rankings:
        protocol = one.protocol.to_dict()
        head = [one.protocol.id, *(protocol[key] for key in about)]
        for line in one.lines:
            cells = [_cell(getattr(line, name)) for name in columns]
            rest = [line.statistics.get(name.removeprefix(f"{metric}_")) for name in named]
            writer.writerow([*head, *cells, *rest])
    return out.getvalue()


def _cell(value: Any) -> Any:
    return "; ".join(map(str, value)) if isinstance(value, tuple) else value


_MARKDOWN = {"relative L2": "relative_l2", "VRMSE": "vrmse", "× persistence": "vs_persistence",
             "s/step": "seconds_per_step"}  # fmt: skip


def to_markdown(rankings: Sequence[Ranking], references: Sequence[Reference] = ()) -> str:
    """A heading and a table for each protocol, and the published figures below."""
    parts = []
    for one in rankings:
        names = list(dict.fromkeys(name for line in one.lines for name in line.statistics))
        metric = wording.metric_name(one.measure.metric)
        heads = ["#", "run", *(f"{metric} {name}" for name in names), "interval", *_MARKDOWN]
        heads += ["params", "training", "seed", "date", "entry"]
        rows = [heads, ["---:", ":---", *["---:"] * (len(heads) - 2)]]
        rows += [_markdown_row(line, names) for line in one.lines]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        notes = [f"- {text.plain.strip()}" for text in (
            *_reasons(one.lines), *_published(beside(one.protocol, references)))]  # fmt: skip
        below = "\n" + "\n".join(notes) + "\n" if notes else ""
        parts.append(f"### {one.title}\n\nProtocol `{one.protocol.id}`.\n\n{table}\n{below}")
    return "\n".join(parts)


def _markdown_row(line: Line, names: Sequence[str]) -> list[str]:
    numbers = [digits(line.statistics.get(name), 4) for name in names]
    others = [digits(getattr(line, name), 4) for name in _MARKDOWN.values()]
    label = line.label.replace("|", "\\|")
    return [
        wording.place(line), label, *numbers, interval(line.low, line.high), *others,
        wording.count(line.num_parameters), wording.hours(line.train_hours),
        "" if line.seed is None else str(line.seed), line.date, f"`{line.entry[:_ID]}`",
    ]  # fmt: skip
