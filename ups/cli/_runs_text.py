"""How runs are printed: two lines each in a list, a page for one of them, 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ups import paths
from ups.cli import _output
from ups.runs.history import Curve, sparkline
from ups.runs.summary import RunSummary, StageSummary

WIDTH = 80
_SPARKS = 32


def list_lines(run: RunSummary, now: datetime) -> list[str]:
    """The name with age and size at the right; below it data, stages and the best number."""
    when, size = age(run.began, now), _output.size(run.size_bytes)
    right = f"{when:>11} {size:>9}"
    parts = [", ".join(run.datasets), stages_text(run.stages), best_text(run)]
    if run.state != "finished":
        parts.insert(0, run.state)
    head = f"{run.id:<{WIDTH - len(right) - 1}} {right}"
    if len(head) > WIDTH:
        head, parts = run.id, [*parts, when, size]
    text = " | ".join(part for part in parts if part)
    return [head, *textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")]


def stages_text(stages: Sequence[StageSummary]) -> str:
    """`codec ✓ 600, operator 400/8000`."""
    return ", ".join(f"{stage.name} {steps_text(stage)}" for stage in stages)


def steps_text(stage: StageSummary) -> str:
    """`✓ 600`, `400/8000`, `400`."""
    if stage.finished:
        return f"✓ {stage.step}" if stage.step else "✓"
    return f"{stage.step}/{stage.steps}" if stage.steps else str(stage.step)


def best_text(run: RunSummary) -> str:
    """The report's number, else the best validation of the last stage that has one."""
    if run.score is not None:
        return f"nRMSE {run.score:.4f} ({run.score_of or 'report'})"
    for stage in reversed(run.stages):
        if stage.best is not None:
            return f"{stage.name}/{stage.metric} {stage.best:.4g}"
    return ""


def age(began: str, now: datetime) -> str:
    """`2 h ago`; the day once it is more than a month ago."""
    when = datetime.strptime(began, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    seconds = (now - when).total_seconds()
    if seconds < 0 or seconds > 31 * 86400:
        return f"{when:%Y-%m-%d}"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def print_run(run: RunSummary, details: Mapping[str, Any]) -> None:
    """Everything that `ups runs show` knows.

    Args:
        details: `config` (one line for each part), `checkpoints`, `report`, `codec`, `sync`.
    """
    _output.summary("run", f"{run.id}, {run.state}, {_output.size(run.size_bytes)}")
    _output.summary("began", run.began.replace("T", " ").replace("Z", " UTC"))
    _output.summary("folder", paths.display(run.folder))
    for name, text in details["config"].items():
        _output.summary(name, text)
    if run.url:
        _output.summary("tracking", run.url)
    if details["sync"]:
        _output.summary("tracking", f"offline; send it with: {details['sync']}")
    if run.stages:
        heads = ["stage", ">steps", ">loss", "best", ">", ">at step", ">time"]
        _output.print_table("", heads, [_stage_row(stage) for stage in run.stages])
    if details["checkpoints"]:
        rows = [
            [item["name"], _output.size(item["size_bytes"]), item["sha256"][:16]]
            for item in details["checkpoints"]
        ]
        _output.print_table("", ["checkpoint", ">size", "sha256"], rows)
    _print_numbers("report, nRMSE", {row.pop("name"): row for row in details["report"]}, ".4f")
    _print_numbers("codec card", details["codec"], ".1e")


def print_curves(name: str, curves: Sequence[Curve]) -> None:
    """A run's metrics as a line of blocks each, with first, last and smallest value."""
    _output.stdout().print(name, markup=False, overflow="fold")
    for curve in curves:
        best = curve.best
        smallest = f"min {best[1]:.3g} at {best[0]}" if best else "never finite"
        line = f"  {curve.metric[:22]:<22} {sparkline(curve.values, _SPARKS):<{_SPARKS}}"
        room = WIDTH - len(line) - 1
        _output.stdout().print(f"{line} {smallest:>{room}}", markup=False, soft_wrap=True)


def print_comparison(
    names: Sequence[str],
    settings: Mapping[str, Sequence[Any]],
    outcomes: Mapping[str, Sequence[float | None]],
) -> None:
    """Runs as columns A, B, ...: in which settings they differ, and what came of it."""
    letters = [chr(ord("A") + index) if index < 26 else str(index) for index in range(len(names))]
    for letter, name in zip(letters, names, strict=True):
        _output.summary(letter, name)
    longest = max(map(len, settings), default=0)
    room = max(8, (WIDTH - longest) // len(names) - 2)
    if settings:
        rows = [[key, *(_cut(value, room) for value in row)] for key, row in settings.items()]
        _output.print_table("", ["setting", *letters], rows)
    else:
        _output.summary("settings", "the same everywhere")
    lines = [
        [name, *("-" if value is None else f"{value:.4g}" for value in row)]
        for name, row in outcomes.items()
    ]
    if lines:
        _output.print_table("", ["outcome", *(f">{letter}" for letter in letters)], lines)


def _cut(value: Any, room: int) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= room else text[: room - 1] + "…"


def config_lines(config: Mapping[str, Any], datasets: Sequence[str]) -> dict[str, str]:
    """What the run was asked to do, in a few words for each part."""
    found = {"data": ", ".join(datasets)} if datasets else {}
    for part in ("codec", "operator"):
        values = config.get(part)
        if isinstance(values, dict):
            found[part] = ", ".join(
                f"{key} {value}" if key != "kind" else str(value)
                for key, value in values.items()
                if isinstance(value, str | int | float) and not isinstance(value, bool)
            )
    if "seed" in config:
        found["seed"] = str(config["seed"])
    return found


def default_picture(runs: Sequence[Path]) -> Path:
    """In the folder of a single run, else here."""
    return runs[0] / "curves.png" if len(runs) == 1 else Path("runs.png")


def _stage_row(stage: StageSummary) -> list[str]:
    return [
        stage.name,
        steps_text(stage),
        "-" if stage.loss is None else f"{stage.loss:.3g}",
        stage.metric or "-",
        "-" if stage.best is None else f"{stage.best:.4g}",
        "-" if stage.best_step is None else str(stage.best_step),
        "-" if stage.seconds is None else _output.duration(stage.seconds),
    ]


def _print_numbers(title: str, rows: Mapping[str, Mapping[str, Any]], form: str) -> None:
    """A table of numbers with one row for each name."""
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    cells = [
        [name, *("-" if row.get(key) is None else format(row[key], form) for key in keys)]
        for name, row in rows.items()
    ]
    if cells:
        _output.print_table("", [title, *(f">{key}" for key in keys)], cells)
