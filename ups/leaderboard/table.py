"""Entries as ranked tables, one for each protocol."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ups.evaluation.protocol import describe_protocol
from ups.leaderboard.entries import Entry

PERSISTENCE = "persistence"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One predictor in a table.

    Attributes:
        rank: 1 is best; None for trivial predictors and for rollouts that blew up.
        label: The run's name, told apart from others of its name; the row's name if trivial.
        kind: 'model', 'baseline' or 'trivial'.
        vs_persistence: nRMSE / nRMSE of persistence in the same report; below 1 is better.
        entry: The id of the entry the line is from.
    """

    rank: int | None = None
    label: str
    row: str
    kind: str
    nrmse_mean: float | None
    nrmse_median: float | None
    nrmse_p90: float | None
    nrmse_max: float | None
    relative_l2: float | None
    vrmse: float | None
    vs_persistence: float | None
    seconds_per_step: float | None
    num_parameters: int | None
    seed: int | None
    date: str
    run: str
    entry: str


@dataclass(frozen=True)
class Ranking:
    """All predictors measured under one protocol, best first."""

    protocol: Mapping[str, Any]
    lines: tuple[Line, ...]

    @property
    def title(self) -> str:
        """The protocol in one line of words."""
        return describe_protocol(self.protocol)


def rank(
    entries: Iterable[Entry],
    *,
    dataset: str | None = None,
    split: str | None = None,
    protocol: str | None = None,
    run: str | None = None,
) -> list[Ranking]:
    """One ranking for each protocol by nRMSE mean, sorted by dataset, split and protocol id.

    A trivial predictor is listed once per protocol and value, wherever it was measured.

    Args:
        dataset, split: Keep protocols with exactly these.
        protocol: Keep protocols whose id begins so.
        run: Keep entries whose run name contains this.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        about = entry.protocol
        if (
            dataset in (None, about["dataset"])
            and split in (None, about["split"])
            and about["id"].startswith(protocol or "")
            and (run or "") in str(entry.run.get("name", ""))
        ):
            groups.setdefault(about["id"], []).append(entry)
    rankings = [Ranking(group[0].protocol, _ranked(group)) for group in groups.values()]
    return sorted(rankings, key=lambda one: [one.protocol[k] for k in ("dataset", "split", "id")])


def _ranked(entries: Sequence[Entry]) -> tuple[Line, ...]:
    lines = _told_apart(_once([line for entry in entries for line in _lines(entry)]))
    lines.sort(key=lambda line: (_or_infinity(line.nrmse_mean), line.date, line.entry, line.row))
    out, place = [], 0
    for line in lines:
        if line.kind != "trivial" and line.nrmse_mean is not None:
            place += 1
            line = replace(line, rank=place)
        out.append(line)
    return tuple(out)


def _lines(entry: Entry) -> list[Line]:
    persistence = next((r for r in entry.rows if r["name"] == PERSISTENCE), None)
    floor = _number(persistence, "nrmse", "mean") if persistence else None
    lines = []
    for row in entry.rows:
        mean, model = _number(row, "nrmse", "mean"), row["kind"] == "model"
        lines.append(
            Line(
                label=_label(entry, row),
                row=row["name"],
                kind=row["kind"],
                nrmse_mean=mean,
                nrmse_median=_number(row, "nrmse", "median"),
                nrmse_p90=_number(row, "nrmse", "p90"),
                nrmse_max=_number(row, "nrmse", "max"),
                relative_l2=_number(row, "relative_l2", "mean"),
                vrmse=_number(row, "vrmse", "mean"),
                vs_persistence=mean / floor if mean is not None and floor else None,
                seconds_per_step=row["seconds_per_step"],
                num_parameters=entry.run.get("num_parameters") if model else None,
                seed=entry.run.get("seed") if model else None,
                date=entry.created[:10],
                run=str(entry.run.get("name", "")),
                entry=entry.id,
            )
        )
    return lines


def _label(entry: Entry, row: Mapping[str, Any]) -> str:
    run, name = str(entry.run.get("name", "")), str(row["name"])
    if row["kind"] != "model":
        return name
    return run if name in ("model", run) else f"{run}: {name}"


def _once(lines: Iterable[Line]) -> list[Line]:
    """Trivial lines only the first time: a difference of rounding is none."""
    kept: list[Line] = []
    trivial: list[Line] = []
    for line in lines:
        if line.kind == "trivial":
            if any(_same(line, other) for other in trivial):
                continue
            trivial.append(line)
        kept.append(line)
    return kept


def _same(one: Line, other: Line) -> bool:
    if one.row != other.row:
        return False
    if one.nrmse_mean is None or other.nrmse_mean is None:
        return one.nrmse_mean is other.nrmse_mean
    return math.isclose(one.nrmse_mean, other.nrmse_mean, rel_tol=1e-5)


def _told_apart(lines: Sequence[Line]) -> list[Line]:
    """Add the seed to labels that occur twice, and the entry's id where that is not enough."""
    with_seed = _suffixed(
        lines, lambda line: f" (seed {line.seed})" if line.seed is not None else ""
    )
    return _suffixed(with_seed, lambda line: f" [{line.entry[:6]}]")


def _suffixed(lines: Sequence[Line], suffix: Callable[[Line], str]) -> list[Line]:
    count = Counter(line.label for line in lines)
    return [
        replace(line, label=line.label + suffix(line)) if count[line.label] > 1 else line
        for line in lines
    ]


def render(rankings: Sequence[Ranking]) -> RenderableType:
    """For a terminal of 80 columns or more: the few numbers that decide."""
    if not rankings:
        return Text("no entries")
    parts: list[RenderableType] = []
    for ranking in rankings:
        parts += [_heading(ranking), _grid(ranking), Text("")]
    note = (
        "nRMSE: mean, median, 90th percentile and maximum over trajectories.\n"
        "× pers.: mean / mean of persistence, below 1 is better."
    )
    return Lines(*parts, Text(note, style="dim"))


def _heading(ranking: Ranking) -> Text:
    """The protocol in words, and enough of its id to filter by."""
    return Text.assemble((ranking.title, "bold"), (f"  {ranking.protocol['id'][:8]}", "dim"))


def _grid(ranking: Ranking) -> Table:
    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    grid.add_column("#", justify="right", no_wrap=True)
    grid.add_column("run", overflow="fold", ratio=1, min_width=16)
    for heading in ("nRMSE", "median", "p90", "max", "× pers."):
        grid.add_column(heading, justify="right", no_wrap=True)
    for line in ranking.lines:
        numbers = (line.nrmse_mean, line.nrmse_median, line.nrmse_p90, line.nrmse_max)
        grid.add_row(
            _rank(line),
            Text(line.label),
            _digits(line.nrmse_mean, 4),
            *(_digits(number, 3) for number in numbers[1:]),
            _digits(line.vs_persistence, 3),
            style="dim" if line.kind == "trivial" else None,
        )
    return grid


def to_dicts(rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
    """Everything, as plain JSON values."""
    return [
        {"protocol": dict(one.protocol), "lines": [asdict(line) for line in one.lines]}
        for one in rankings
    ]


def to_json(rankings: Sequence[Ranking]) -> str:
    return json.dumps(to_dicts(rankings), indent=2, allow_nan=False)


def to_csv(rankings: Sequence[Ranking]) -> str:
    """One row per line; the first columns say under which protocol. Empty where no number is."""
    about = ("id", "dataset", "version", "split", "history", "horizon", "stride", "mode")
    columns = [field.name for field in fields(Line)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["protocol", *about[1:], *columns])
    for one in rankings:
        head = [one.protocol[key] for key in about]
        writer.writerows([*head, *(getattr(line, name) for name in columns)] for line in one.lines)
    return out.getvalue()


_MARKDOWN = {
    "nRMSE mean": "nrmse_mean", "median": "nrmse_median", "p90": "nrmse_p90", "max": "nrmse_max",
    "relative L2": "relative_l2", "VRMSE": "vrmse", "× persistence": "vs_persistence",
    "s/step": "seconds_per_step",
}  # fmt: skip


def to_markdown(rankings: Sequence[Ranking]) -> str:
    """A heading and a table for each protocol."""
    parts = []
    for one in rankings:
        heads = ["#", "run", *_MARKDOWN, "params", "seed", "date"]
        rows = [heads, ["---:", ":---", *["---:"] * (len(heads) - 2)]]
        for line in one.lines:
            numbers = [_digits(getattr(line, name), 4) for name in _MARKDOWN.values()]
            label = line.label.replace("|", "\\|")
            tail = [_count(line.num_parameters), "" if line.seed is None else str(line.seed)]
            rows.append([_rank(line), label, *numbers, *tail, line.date])
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        parts.append(f"### {one.title}\n\nProtocol `{one.protocol['id']}`.\n\n{table}\n")
    return "\n".join(parts)


def _rank(line: Line) -> str:
    if line.rank is not None:
        return str(line.rank)
    return "·" if line.kind == "trivial" else "–"


def _number(row: Mapping[str, Any], metric: str, reduction: str) -> float | None:
    return row["metrics"].get(metric, {}).get(reduction)


def _or_infinity(value: float | None) -> float:
    return float("inf") if value is None else value


def _digits(value: float | None, digits: int) -> str:
    """`value` with so many significant digits; a dash where there is none."""
    return "–" if value is None else f"{value:#.{digits}g}".rstrip(".")


def _count(value: int | None) -> str:
    if value is None:
        return ""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)
