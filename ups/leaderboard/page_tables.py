"""The tables of the leaderboard's first page, and what their columns mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape

from ups.evaluation.protocol import Protocol
from ups.leaderboard import wording
from ups.leaderboard.lines import TRIVIAL, Line
from ups.leaderboard.page_parts import Cell, TableRow, link, table
from ups.leaderboard.references import Beside, Reference, beside
from ups.leaderboard.table import Ranking
from ups.leaderboard.tasks import TaskLine, TaskRanking
from ups.leaderboard.wording import digits, interval

MEANINGS = (
    ("nRMSE", "RMSE over space divided by the RMS of the reference over space, mean over "
     "trajectories, predicted frames and fields. 0 is perfect, 1 is as bad as predicting zero."),
    ("below nRMSE", "95 % bootstrap interval of that mean over test trajectories. It says how much "
     "the test set leaves open, not how much another seed of training would change."),
    ("median, p90, max", "Of nRMSE over trajectories: a mean alone can hide one bad trajectory."),
    ("× pers.", "nRMSE divided by that of repeating the last given frame; of steady "
     "problems, of the mean of the training data. Below 1 is better."),
    ("rel. L2", "‖p − y‖ / ‖y‖ over space and time of each field, mean over trajectories. To be "
     "read beside nRMSE, which explodes where a field is near zero."),
    ("VRMSE", "RMSE divided by the standard deviation of the reference over space; 1 is as bad as "
     "predicting the spatial mean."),
    ("parameters", "Trained numbers of the model, codec included."),
    ("training", "Wall time of all stages, and the device."),
    ("one step", "Wall time from one frame of one trajectory to the next, encoding and decoding "
     "included, on the device of the evaluation."),
    ("traj./s", "Whole test rollouts per second, in batches."),
    ("memory", "Largest memory in use during the evaluation."),
    ("gates", "Requirements that the result met. An entry that missed a health or data gate is "
     "listed, not ranked: its number means nothing."),
    ("#", "Rank within this table. A dot: a trivial predictor. A dash: not ranked, with the reason "
     "below the table."),
)  # fmt: skip


def ranking_table(ranking: Ranking, reports: dict[str, str]) -> str:
    """One protocol; every column sorts."""
    heads = [Cell("#"), Cell("run", kind="run")] + [Cell(name) for name in (
        "nRMSE", "median", "p90", "max", "× pers.", "rel. L2", "VRMSE", "parameters", "training",
        "one step", "traj./s", "memory", "date", "gates",
    )]  # fmt: skip
    rows = [TableRow(_cells(line, reports), _kind(line)) for line in ranking.lines]
    return table(heads, rows, is_sortable=True)


def _kind(line: Line | TaskLine) -> str:
    return TRIVIAL if line.kind == TRIVIAL else "unranked" if line.unranked else ""


def _cells(line: Line, reports: dict[str, str]) -> list[Cell]:
    trained = line.train_hours is not None and line.train_device
    training = wording.hours(line.train_hours) + (
        f'<br><span class="quiet">{escape(wording.device(line.train_device))}</span>'
        if trained else "")  # fmt: skip
    statistics = [line.statistics.get(name) for name in ("median", "p90", "max")]
    missed = len(line.missed)
    gates = "" if line.kind == TRIVIAL else f"{missed} missed" if missed else "met"
    return [
        _rank(line.rank, line.kind),
        _name(line, reports.get(line.entry, "")),
        _value(line, 4),
        *(_numeric(value, _three) for value in statistics),
        _numeric(line.vs_persistence, _three),
        _numeric(line.relative_l2, _three),
        _numeric(line.vrmse, _three),
        Cell(wording.count(line.num_parameters), _sortable(line.num_parameters)),
        Cell(training if line.train_hours is not None else "", _sortable(line.train_hours)),
        _numeric(line.latency_seconds or line.seconds_per_step, wording.milliseconds),
        _numeric(line.trajectories_per_second, _three),
        _numeric(line.peak_memory_bytes, lambda value: wording.memory(int(value))),
        Cell(line.date),
        Cell(gates, kind="number reason" if missed else "number"),
    ]


def _three(value: int | float) -> str:
    return digits(value, 3)


def _numeric(value: int | float | None, said: Callable[[int | float], str]) -> Cell:
    return Cell(said(value) if value is not None else "", _sortable(value))


def _sortable(value: int | float | None) -> int | float | str:
    return "" if value is None else value


def _value(line: Line, number: int) -> Cell:
    """What is ranked by, its interval below."""
    around = interval(line.low, line.high)
    below = f'<br><span class="quiet">{around}</span>' if around else ""
    return Cell(digits(line.value, number) + below, _sortable(line.value))


def _interval(line: Line) -> Cell:
    return Cell(interval(line.low, line.high), _sortable(line.low))


def _rank(rank: int | None, kind: str) -> Cell:
    shown = str(rank) if rank is not None else "·" if kind == TRIVIAL else wording.DASH
    return Cell(shown, _sortable(rank))


def _name(line: Line, report: str) -> Cell:
    """The run with links to its entry and, where it is at hand, its report."""
    if line.kind == TRIVIAL:
        return Cell(escape(line.label), kind="run")
    about = " · ".join(escape(part) for part in (line.model, line.entry[:8]) if part)
    about += f" · {link('report', report)}" if report else ""
    named = link(line.label, f"entries/{line.entry}.html")
    return Cell(f'{named} <span class="quiet">{about}</span>', line.label, kind="run")


def seeds_table(joined: Ranking) -> Iterator[str]:
    """Seeds of one config in one line each, where a config has several."""
    lines = [line for line in joined.lines if len(line.members) > 1]
    if not lines:
        return
    heads = [Cell("config", kind="run"), Cell("nRMSE, mean over seeds"), Cell("range over seeds"),
             Cell("× pers."), Cell("seeds"), Cell("entries", kind="words")]  # fmt: skip
    rows = []
    for line in lines:
        members = ", ".join(link(one[:8], f"entries/{one}.html") for one in line.members)
        rows.append(TableRow([
            Cell(escape(line.label), kind="run"), _numeric(line.value, lambda v: digits(v, 4)),
            _interval(line), _numeric(line.vs_persistence, _three),
            Cell(", ".join(map(str, line.seeds))), Cell(members, kind="words"),
        ]))  # fmt: skip
    yield "<h3>Several seeds of one config</h3>"
    yield table(heads, rows, is_sortable=True)


def published_table(protocol: Protocol, references: Sequence[Reference]) -> Iterator[str]:
    """Figures from the literature for these data, with what sets their protocols apart."""
    found = beside(protocol, references)
    if not found:
        return
    heads = [Cell("published", kind="run"), Cell("value"), Cell("metric", kind=""),
             Cell("source", kind="words"), Cell("protocol, compared with this one's", kind="words"),
             Cell("training", kind="")]  # fmt: skip
    yield "<h3>Published figures</h3>"
    yield "<p>Other groups' numbers, as they stand in the source. Never ranked.</p>"
    yield table(heads, [_published_row(one) for one in found])


def _published_row(one: Beside) -> TableRow:
    figure = one.reference
    differs = "; ".join(one.differences) or "the same, as far as it is stated"
    chosen = figure.protocol.selection
    source = link(figure.source, figure.url) + (f"; {escape(figure.note)}" if figure.note else "")
    return TableRow([
        Cell(escape(figure.model), kind="run"), Cell(digits(figure.value, 3)),
        Cell(escape(wording.metric_name(figure.metric)), kind=""), Cell(source, kind="words"),
        Cell(escape(f"{differs}; {chosen}"), kind="words"), Cell(escape(figure.cost), kind=""),
    ])  # fmt: skip


def tasks_table(ranking: TaskRanking) -> str:
    """A column for each task, beside the averages."""
    heads = [Cell("#"), Cell("run", kind="run"), Cell("average nRMSE"), Cell("range over seeds"),
             Cell("average × pers.")]  # fmt: skip
    heads += [Cell(escape(name)) for name in ranking.headings.values()]
    rows = []
    for line in ranking.lines:
        shown = [line.tasks[key] for key in ranking.headings]
        cells = [
            _rank(line.rank, line.kind), Cell(escape(line.label), kind="run"),
            _numeric(line.macro, lambda value: digits(value, 4)),
            Cell(interval(line.low, line.high), _sortable(line.low)),
            _numeric(line.vs_persistence, _three),
        ]  # fmt: skip
        cells += [_value(one, 3) for one in shown]
        rows.append(TableRow(cells, _kind(line)))
    return table(heads, rows, is_sortable=True)
