"""The last parts of a page: how the run was trained, what it cost, and how to have it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ups import runs
from ups.evaluation.report import Report
from ups.evaluation.reporting import charts
from ups.evaluation.reporting.markup import (
    Cells,
    Picture,
    code,
    folded,
    gallery,
    number,
    pairs,
    paragraph,
    part,
    table,
)
from ups.runs.summary import codec_cards

_HOUR, _MINUTE = 3600, 60
_ERRORS = {"nrmse": "nRMSE"}
_PLACES = {
    "native": "at the points of the data",
    "floor": "at the points of the data, without the learned parts",
    "double": "at twice as many points",
    "double_linear": "at twice as many points, interpolated between decoded ones",
    "quadruple": "at four times as many points",
}


def training_part(run: Path, folder: Path) -> str:
    """Losses and validation errors of each stage."""
    records = runs.read_metrics(run / runs.METRICS)
    pictures = [
        Picture(path, f"Stage {stage}") for stage, path in charts.loss_charts(folder, records)
    ] if records else []  # fmt: skip
    said = (
        "Above: the training loss. Below: the validation error on decoded fields, whose minimum, "
        "marked by a ring, chose the checkpoint. Test data were not looked at in training."
    )
    return part("training", "Training", paragraph(said, "note") if pictures else "",
                gallery(pictures))  # fmt: skip


def codec_part(run: Path) -> str:
    """How well the codec alone reconstructs: no prediction can be better."""
    cards = codec_cards(run)
    names = list(dict.fromkeys(name for card in cards.values() for name in card))
    rows: list[tuple[str, Cells]] = [
        ("", [_place(where), *(number(card.get(name)) for name in names)])
        for where, card in cards.items()
    ]
    said = (
        "Reconstruction error of unseen frames by the codec alone, relative to the field's RMS: a "
        "floor for every prediction. Bands are wave numbers per domain: low below 4, mid below "
        "12, high from 12."
    )
    return part("codec", "Codec", paragraph(said, "note") if rows else "",
                table(["", *(_ERRORS.get(name, name) for name in names)], rows)
                if rows else "")  # fmt: skip


def _place(where: str) -> str:
    """`burgers1d, at twice as many points` for `burgers1d/double`."""
    task, _, place = where.rpartition("/")
    words = _PLACES.get(place, place)
    return f"{task}, {words}" if task else words


def cost_part(reports: Sequence[Report]) -> str:
    """Training time, speed and memory; one column for each task."""
    found = [(report.run.get("task", ""), report.sections["cost"]) for report in reports
             if report.sections.get("cost")]  # fmt: skip
    if not found:
        return ""
    rows: list[tuple[str, Cells]] = [
        ("", [label, *(say(content.get(key)) for _, content in found)])
        for key, (label, say) in _COSTS.items()
        if any(content.get(key) is not None for _, content in found)
    ]
    stages = {name: seconds for _, content in found
              for name, seconds in content.get("train_seconds", {}).items()}  # fmt: skip
    rows += [("", [f"training, {name}", duration(seconds)]) for name, seconds in stages.items()]
    heads = ["", *(task for task, _ in found)] if len(found) > 1 else None
    return part("cost", "Cost", table(heads, rows))


def provenance_part(run: Path, reports: Sequence[Report]) -> str:
    """What was run, on what, and the commands that run it again."""
    first = reports[0]
    about = {key: value for key, value in first.run.items() if key not in ("config", "task")}
    data = {}
    for report in reports:
        protocol = report.protocol
        data[f"{protocol.dataset} ({protocol.version})"] = {
            "data_sha256": protocol.data_sha256, "split_hash": protocol.split_hash,
        }  # fmt: skip
    config = first.run.get("config")
    return part(
        "provenance", "Provenance, and how to run it again",
        code(rerun_commands(run, first)),
        pairs(about), pairs(data),
        folded("Configuration, resolved", code(str(config))) if config else "",
        folded("Environment", pairs(first.environment)),
        folded("Environment of training", pairs(_environment(run))),
    )  # fmt: skip


def rerun_commands(run: Path, report: Report) -> str:
    """Check out, install, train, judge: lines for a shell."""
    about = report.run
    lines = []
    if commit := about.get("commit"):
        clean = str(commit).removesuffix("+dirty").removesuffix("-dirty")
        lines.append(f"git checkout {clean}   # ups {about.get('version', '')}".rstrip())
    lines += [
        "# save the configuration below as config.yaml",
        f"ups data show {report.protocol.dataset} --version {report.protocol.version}"
        "   # is it here? else: ups data download, generate, convert",
        "ups train --config config.yaml",
        f"ups eval {about.get('name', run.name)}",
        f"ups report {about.get('name', run.name)}",
    ]
    return "\n".join(lines)


def duration(seconds: int | float | None) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds is None:
        return "–"
    if seconds < _MINUTE:
        return f"{number(seconds)} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min {seconds % _MINUTE:02.0f} s"
    return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:02.0f} min"


def _size(num_bytes: int | float | None) -> str:
    return "–" if num_bytes is None else f"{num_bytes / 1e9:.3g} GB"


def _milliseconds(seconds: int | float | None) -> str:
    return "–" if seconds is None else f"{number(1e3 * seconds)} ms"


def count(value: int | float | None) -> str:
    """`1 234 567`."""
    return "–" if value is None else f"{value:,.0f}".replace(",", "\u202f")


_COSTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "num_parameters": ("parameters", count),
    "train_hours": ("training", lambda hours: duration(3600 * hours)),
    "train_device": ("trained on", str),
    "latency_seconds": ("one step of one trajectory", _milliseconds),
    "steps_per_second": ("steps per second, in batches", number),
    "trajectories_per_second": ("trajectories per second", number),
    "peak_memory_bytes": ("peak memory", _size),
    "device": ("judged on", str),
}


def _environment(run: Path) -> Mapping[str, Any]:
    try:
        content = json.loads((run / runs.ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
