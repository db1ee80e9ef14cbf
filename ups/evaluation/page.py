"""`report.html`: a report for people. One file, pictures inside, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ups import files
from ups.errors import CheckpointError, translated_os_errors
from ups.evaluation.protocol import Protocol
from ups.evaluation.report import Number, Report, Row

PAGE = "report.html"

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.summary { font-size: 1.1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #ddd;
         vertical-align: top; }
thead th { border-bottom: 2px solid #888; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
.trivial { color: #666; }
td { overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: #444; }
"""

_MEANING = {
    "nrmse": "nRMSE: RMSE over space / RMS of the reference over space",
    "relative_l2": "relative L2: ‖p − y‖ / ‖y‖ over space and time, per channel",
    "vrmse": "VRMSE: RMSE / standard deviation of the reference over space",
    "rmse": "RMSE, in the unit of the field",
    "max_error": "maximum error, in the unit of the field",
    "brmse": "bRMSE: RMSE on the boundary points",
    "crmse": "cRMSE: error of the spatial mean",
    "frmse_low": "fRMSE low: wave numbers 0 to 3",
    "frmse_mid": "fRMSE mid: wave numbers 4 to 11",
    "frmse_high": "fRMSE high: wave numbers from 12",
    "correlation_time": "correlation time: until the correlation falls below 0.8",
}


@dataclass(frozen=True)
class Picture:
    """A PNG file with a title and, where it needs one, an explanation."""

    path: Path
    title: str
    caption: str = ""


def write_page(report: Report, run_dir: Path, pictures: Sequence[Picture] = ()) -> Path:
    """Write `report.html`, or `report-<task>.html`, into the run's folder, whole or not at all.

    Raises:
        CheckpointError: A picture cannot be read, or the page cannot be written.
    """
    task = report.run.get("task")
    path = run_dir / (f"report-{task}.html" if task else PAGE)
    files.write_text(path, _page(report, pictures), CheckpointError)
    return path


def summary(report: Report) -> str:
    """The result in one sentence: headline, spread, and how it compares to doing nothing."""
    first = report.rows[0]
    value = first.value("nrmse")
    if value is None:
        return f"{_title(report)}: the rollout blew up, so there is no nRMSE."
    text = f"{_title(report)}: nRMSE {number(value)}"
    if (median := first.value("nrmse", "median")) is not None:
        text += f" (median {number(median)}, worst {number(first.value('nrmse', 'max'))})"
    trivial = _trivial(report.rows)
    floor = trivial.value("nrmse") if trivial else None
    if trivial and floor and trivial is not first:
        text += f", {number(value / floor)} of {trivial.name} ({number(floor)})"
    return text + "."


def _trivial(rows: Sequence[Row]) -> Row | None:
    """The predictor that all others are compared to."""
    return next((row for row in rows if row.name in ("persistence", "training mean")), None)


def number(value: Number) -> str:
    """Three significant digits; a dash where there is no number."""
    return "–" if value is None else f"{value:#.3g}".rstrip(".")


def _title(report: Report) -> str:
    name, task = report.run.get("name", "run"), report.run.get("task")
    return f"{name}, {task}" if task else str(name)


def _page(report: Report, pictures: Sequence[Picture]) -> str:
    title = escape(f"{_title(report)} on {report.protocol.dataset}")
    sections = [
        f"<h1>{title}</h1>",
        f'<p class="summary">{escape(summary(report))}</p>',
        f"<p>{escape(report.protocol.describe())}. Evaluated {escape(report.created)}.</p>",
        "<h2>nRMSE</h2>",
        f"<p>{escape(report.protocol.metric)}.</p>",
        _table(*_headline_table(report.rows)),
        *(_figure(picture) for picture in pictures),
        "<h2>All metrics</h2>",
        "<p>Mean over trajectories; of the maximum error, the maximum.</p>",
        _table(*_metrics_table(report.rows)),
        *_channel_section(report.rows[0]),
        "<h2>Protocol</h2>",
        _table(None, _protocol_rows(report.protocol)),
        "<h2>Run</h2>",
        _table(None, _flat(report.run)),
        "<h2>Environment</h2>",
        _table(None, _flat(report.environment)),
    ]
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    body = "\n".join(sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}{viewport}</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


Cells = Sequence[str]


def _headline_table(rows: Sequence[Row]) -> tuple[Cells, list[tuple[str, Cells]]]:
    trivial = _trivial(rows)
    floor = trivial.value("nrmse") if trivial else None
    against = f"× {trivial.name if trivial else 'persistence'}"
    head = ["", "mean", "median", "p90", "max", against, "relative L2", "s/step"]
    body: list[tuple[str, Cells]] = []
    for row in rows:
        value = row.value("nrmse")
        ratio = value / floor if value is not None and floor else None
        reduced = [row.value("nrmse", name) for name in ("mean", "median", "p90", "max")]
        others = [ratio, row.value("relative_l2"), row.seconds_per_step]
        body.append((row.kind, [row.name, *map(number, [*reduced, *others])]))
    return head, body


def _metrics_table(rows: Sequence[Row]) -> tuple[Cells, list[tuple[str, Cells]]]:
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    known = [name for name in _MEANING if name in names]
    others = [name for name in names if name not in _MEANING]
    body: list[tuple[str, Cells]] = [
        ("", [_MEANING.get(name, name), *(number(_typical(row, name)) for row in rows)])
        for name in known + others
    ]
    return ["", *(row.name for row in rows)], body


def _typical(row: Row, metric: str) -> Number:
    """The maximum of the maximum error, the mean of everything else."""
    return row.value(metric, "max" if metric == "max_error" else "mean")


def _channel_section(row: Row) -> list[str]:
    """Per field, where there is more than one."""
    channels = list(row.per_channel.get("nrmse", {}))
    if len(channels) < 2:
        return []
    body: list[tuple[str, Cells]] = [
        ("", [_MEANING.get(name, name), *(number(values.get(field)) for field in channels)])
        for name, values in row.per_channel.items()
    ]
    return [f"<h2>By field: {escape(row.name)}</h2>", _table(["", *channels], body)]


def _protocol_rows(protocol: Protocol) -> list[tuple[str, Cells]]:
    content = {"id": protocol.id, **protocol.to_dict()}
    content["resolution"] = " x ".join(str(size) for size in protocol.resolution)
    content["domain"] = " x ".join(f"[{low:g}, {high:g}]" for low, high in protocol.domain)
    return _flat(content)


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Cells]]:
    """A nested mapping as rows of dotted keys and values."""
    rows: list[tuple[str, Cells]] = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            rows.append(("", [f"{prefix}{key}", " ".join(map(str, value))]))
        else:
            rows.append(("", [f"{prefix}{key}", "–" if value is None else str(value)]))
    return rows


def _table(head: Cells | None, rows: Iterable[tuple[str, Cells]]) -> str:
    """A table; with a head, all columns but the first are numbers."""
    kind = ' class="number"' if head else ""
    parts = ['<div class="wide"><table>']
    if head:
        cells = "".join(f"<th{kind if i else ''}>{escape(c)}</th>" for i, c in enumerate(head))
        parts.append(f"<thead><tr>{cells}</tr></thead>")
    for css, row in rows:
        first, *rest = (escape(cell) for cell in row)
        cells = f'<th scope="row">{first}</th>' + "".join(f"<td{kind}>{c}</td>" for c in rest)
        parts.append(f'<tr class="{escape(css)}">{cells}</tr>' if css else f"<tr>{cells}</tr>")
    return "\n".join([*parts, "</table></div>"])


def _figure(picture: Picture) -> str:
    with translated_os_errors(picture.path, "reading", CheckpointError):
        data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    title, caption = escape(picture.title), escape(picture.caption)
    image = f'<img alt="{title}" src="data:image/png;base64,{data}">'
    return f"<h2>{title}</h2>\n<figure>{image}<figcaption>{caption}</figcaption></figure>"
