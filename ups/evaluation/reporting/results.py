"""The first parts of a page: how good, how sure, beside what, and which gates were met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ups.evaluation.gates import Gate, failed
from ups.evaluation.report import OWN, Report, Row
from ups.evaluation.reporting import charts
from ups.evaluation.reporting.markup import (
    Cells,
    Picture,
    between,
    folded,
    gallery,
    number,
    pairs,
    paragraph,
    part,
    table,
)

MEANING = {
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
CLOCK = "time after the last given frame"
_TRIVIAL = ("persistence", "training mean")
_MOST_BESIDE = 12


def summary(report: Report) -> str:
    """The result in a sentence or two: headline, how sure, spread, and against doing nothing."""
    first = report.rows[0]
    value = first.value("nrmse")
    if value is None:
        return f"{title(report)}: the rollout blew up, so there is no nRMSE."
    text = f"{title(report)}: nRMSE {number(value)}"
    told = []
    if interval := first.intervals.get("nrmse", {}).get("mean"):
        told.append(f"95 % interval {between(interval)}")
    if (median := first.value("nrmse", "median")) is not None:
        told.append(f"median {number(median)}, worst {number(first.value('nrmse', 'max'))}")
    if told:
        text += f" ({'; '.join(told)})"
    trivial = trivial_row(report.rows)
    floor = trivial.value("nrmse") if trivial else None
    if trivial and floor and trivial is not first:
        text += f", {number(value / floor)} of {trivial.name} ({number(floor)})"
    if report.gates:
        missed = len(failed(report.gates))
        text += f". {len(report.gates) - missed} of {len(report.gates)} gates met"
    return text + "."


def title(report: Report) -> str:
    """`name, task`; the name alone where there is one task."""
    name, task = report.run.get("name", "run"), report.run.get("task")
    return f"{name}, {task}" if task else str(name)


def trivial_row(rows: Sequence[Row]) -> Row | None:
    """The predictor that all others are compared to."""
    return next((row for row in rows if row.name in _TRIVIAL), None)


def result_part(
    report: Report, others: Sequence[Row], folder: Path, prefix: str, clock: str = CLOCK
) -> str:
    """The table of errors, with a picture of how sure they are.

    Args:
        others: Models and baselines of the leaderboard under the same protocol.
        clock: What the time axis is, with its unit.
    """
    beside = sorted(others, key=lambda row: _or_infinite(row.value("nrmse")))[:_MOST_BESIDE]
    learned = [row for row in report.rows if row.kind != "trivial"]
    rows = [*learned, *beside, *(row for row in report.rows if row.kind == "trivial")]
    shown = [
        (row.name if row is not report.rows[0] else title(report), value,
         row.intervals.get("nrmse", {}).get("mean"))
        for row in rows if (value := row.value("nrmse")) is not None
    ]  # fmt: skip
    pictures = []
    ours = 0 if report.headline is not None else None
    if shown:
        pictures.append(Picture(
            charts.interval_chart(folder / "ranking.png", shown, across="nRMSE", strong=ours),
            "Beside others",
            "Means; bars are 95 % bootstrap intervals over trajectories."
            + (" Others are leaderboard entries of the same protocol." if beside else ""),
        ))  # fmt: skip
    pictures += _error_pictures(report, folder, clock)
    where = f"Protocol {report.protocol.id}: {report.protocol.describe()}."
    return part(
        f"{prefix}result", "Result",
        paragraph(where, "note"),
        _headline_table(report, rows),
        gallery(pictures),
        folded("Every metric", _metrics_table(report)),
        folded("By field", _channel_table(report.rows[0])),
        folded("This protocol in full", pairs({"id": report.protocol.id,
                                              **report.protocol.to_dict()})),
        level=3,
    )  # fmt: skip


def protocols_part(reports: Sequence[Report], prefix: str) -> str:
    """The same checkpoint under several protocols; nothing where there is one."""
    if len(reports) < 2:
        return ""
    rows: list[tuple[str, Cells]] = []
    for report in reports:
        first, protocol = report.rows[0], report.protocol
        trivial = trivial_row(report.rows)
        floor, value = trivial.value("nrmse") if trivial else None, first.value("nrmse")
        rows.append((
            "ours" if report.protocol_name == OWN else "",
            [
                f"{report.protocol_name} ({protocol.id}){_whose(report, reports[0])}",
                f"{protocol.history} → {protocol.horizon}",
                str(protocol.stride),
                number(value),
                between(first.intervals.get("nrmse", {}).get("mean")),
                number(first.value("nrmse", "median")),
                number(first.value("nrmse", "max")),
                number(value / floor if value is not None and floor else None),
            ],
        ))  # fmt: skip
    against = f"× {trivial.name}" if trivial else "× persistence"
    heads = ["protocol", "frames", "stride", "nRMSE", "95 % interval", "median", "max", against]
    return part(
        f"{prefix}protocols", "By protocol",
        paragraph("Numbers under different protocols answer different questions: compare them "
                  "down a column of the same protocol only.", "note"),
        table(heads, rows), level=3,
    )  # fmt: skip


def _whose(report: Report, first: Report) -> str:
    """Said where two reports are not of one checkpoint."""
    same = report.run.get("checkpoint_sha256") == first.run.get("checkpoint_sha256")
    return "" if same else ", of another checkpoint"


def gates_part(reports: Sequence[Report], prefix: str) -> str:
    """What the result had to meet; what it misses comes first."""
    found = {(gate.name, report.protocol_name): gate for report in reports for gate in report.gates}
    ordered = sorted(found.items(), key=lambda item: item[1].passed)
    several = len({name for _, name in found}) > 1
    items = "".join(
        _gate(gate, protocol if several else "") for (_, protocol), gate in ordered
    )  # fmt: skip
    return part(f"{prefix}gates", "Gates", f'<ul class="gates">{items}</ul>' if items else "",
                level=3)  # fmt: skip


def _gate(gate: Gate, protocol: str) -> str:
    css, word = ("passed", "met") if gate.passed else ("failed", "missed")
    kind = f"{gate.kind}, {protocol}" if protocol else gate.kind
    detail = gate.detail.removeprefix(f"{gate.name}: ")
    return (
        f'<li class="{css}"><b>{word}: {escape(gate.name)}</b> <span>({escape(kind)})</span> '
        f"{escape(detail)}</li>"
    )


def _error_pictures(report: Report, folder: Path, clock: str) -> list[Picture]:
    """Over time, and over trajectories."""
    found = []
    kept = {
        row.name: [value if value is not None else np.nan for value in values]
        for row in report.rows
        if (values := row.per_trajectory.get("nrmse"))
    }
    steps = {row.name: row.per_step for row in report.rows if row.per_step.get("nrmse_median")}
    if report.protocol.dt is not None and steps:
        found.append(Picture(
            _over_time(report, steps, folder / "error_over_time.png", clock), "Error over time",
            "Median over unseen trajectories; the band holds 10 to 90 % of them for the model.",
        ))  # fmt: skip
    if kept and max(map(len, kept.values())) > 1:
        found.append(Picture(
            charts.share_chart(folder / "error_shares.png", kept), "Error over trajectories",
            "How many unseen trajectories have an error of at most a value.",
        ))  # fmt: skip
    return found


def _over_time(
    report: Report, steps: Mapping[str, Mapping[str, Any]], path: Path, clock: str
) -> Path:
    dt = (report.protocol.dt or 1.0) * report.protocol.stride
    times = [dt * (step + 1) for step in range(report.protocol.horizon)]
    levels = {}
    one_step = report.sections.get("one_step", {}).get("metrics", {}).get("nrmse", {}).get("mean")
    if one_step:
        levels["one step from the truth"] = one_step
    return charts.line_chart(
        path,
        {name: (times, curve["nrmse_median"]) for name, curve in steps.items()},
        bands={name: (curve["nrmse_p10"], curve["nrmse_p90"])
               for name, curve in list(steps.items())[:1]},
        across=clock, up="nRMSE", levels=levels,
    )  # fmt: skip


def _headline_table(report: Report, rows: Sequence[Row]) -> str:
    trivial = trivial_row(report.rows)
    floor = trivial.value("nrmse") if trivial else None
    against = f"× {trivial.name if trivial else 'persistence'}"
    head = ["", "nRMSE", "95 % interval", "median", "p90", "max", against, "relative L2", "VRMSE",
            "s/step"]  # fmt: skip
    body: list[tuple[str, Cells]] = []
    for row in rows:
        value = row.value("nrmse")
        ratio = value / floor if value is not None and floor else None
        reduced = [row.value("nrmse", name) for name in ("median", "p90", "max")]
        others = [ratio, row.value("relative_l2"), row.value("vrmse"), row.seconds_per_step]
        ours = row is report.rows[0]
        name = f"{title(report)} (this run)" if ours else row.name
        interval = between(row.intervals.get("nrmse", {}).get("mean"))
        numbers = map(number, [*reduced, *others])
        body.append(("ours" if ours else row.kind, [name, number(value), interval, *numbers]))
    return table(head, body)


def _metrics_table(report: Report) -> str:
    names = dict.fromkeys(name for row in report.rows for name in row.metrics)
    known = [name for name in MEANING if name in names]
    others = [name for name in names if name not in MEANING]
    body: list[tuple[str, Cells]] = [
        ("", [MEANING.get(name, name), *(_typical(row, name) for row in report.rows)])
        for name in known + others
    ]
    said = "Mean over trajectories, with its 95 % interval; of the maximum error, the maximum."
    return paragraph(said, "note") + table(["", *(row.name for row in report.rows)], body)


def _typical(row: Row, metric: str) -> str:
    """The maximum of the maximum error, the mean of everything else."""
    which = "max" if metric == "max_error" else "mean"
    text = number(row.value(metric, which))
    interval = row.intervals.get(metric, {}).get(which)
    return f"{text} ({between(interval)})" if interval else text


def _channel_table(row: Row) -> str:
    """Per field, where there is more than one."""
    channels = list(row.per_channel.get("nrmse", {}))
    if len(channels) < 2:
        return ""
    body: list[tuple[str, Cells]] = [
        ("", [MEANING.get(name, name), *(number(values.get(field)) for field in channels)])
        for name, values in row.per_channel.items()
    ]
    return table(["", *channels], body)


def _or_infinite(value: float | None) -> float:
    return float("inf") if value is None else value
