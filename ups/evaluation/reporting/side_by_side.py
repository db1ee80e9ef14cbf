"""What came of several runs, as rows of numbers to be read across."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ups.evaluation.intervals import paired_difference
from ups.evaluation.report import OWN, Report, load_report, report_files
from ups.runs.summary import RunSummary

Values = tuple[float | None, ...]
_TRIVIAL = ("persistence", "training mean")


def outcomes(runs: Sequence[Path], summaries: Sequence[RunSummary]) -> dict[str, Values]:
    """Measure -> its value in each run, None where a run has none.

    Errors of every report that at least one run has, under its protocol's id; the best validation
    error and the seconds of each stage. `difference` is to the first run on the same trajectories,
    with the ends of its 95 % interval.

    Raises:
        CheckpointError: A report is damaged.
    """
    reports = [{_key(one): one for one in map(load_report, report_files(run))} for run in runs]
    found: dict[str, Values] = {}
    for key in dict.fromkeys(key for own in reports for key in own):
        for name, values in _errors([own.get(key) for own in reports]).items():
            found[f"{key} {name}"] = values
    stages = dict.fromkeys(stage.name for one in summaries for stage in one.stages)
    for stage in stages:
        own = [next((s for s in one.stages if s.name == stage), None) for one in summaries]
        metric = next((s.metric for s in own if s and s.metric), "best")
        found[f"{stage} {metric}"] = tuple(s.best if s else None for s in own)
        found[f"{stage} seconds"] = tuple(s.seconds if s else None for s in own)
    return {name: values for name, values in found.items() if any(v is not None for v in values)}


def _key(report: Report) -> str:
    """The task and what it was judged by; one line is one protocol."""
    named = "" if report.protocol_name == OWN else f" {report.protocol_name}"
    return f"{report.run.get('task') or report.protocol.dataset}{named} {report.protocol.id[:6]}"


def _errors(reports: Sequence[Report | None]) -> dict[str, Values]:
    found: dict[str, Values] = {
        f"nRMSE {part}": tuple(one.rows[0].value("nrmse", part) if one else None for one in reports)
        for part in ("mean", "median", "max")
    }
    found["/ trivial"] = tuple(_ratio(one) for one in reports)
    pairs = [_difference(reports[0], one) for one in reports]
    for index, name in enumerate(("difference", "difference low", "difference high")):
        found[name] = tuple(pair[index] if pair else None for pair in pairs)
    return found


def _ratio(report: Report | None) -> float | None:
    if report is None:
        return None
    floor = next((row.value("nrmse") for row in report.rows if row.name in _TRIVIAL), None)
    return report.headline / floor if report.headline is not None and floor else None


def _difference(first: Report | None, other: Report | None) -> tuple[float, ...] | None:
    """nRMSE of the other minus that of the first, paired by trajectory."""
    if first is None or other is None or first is other:
        return None
    ours, theirs = (_per_trajectory(one) for one in (other, first))
    if len(ours) < 2 or first.trajectories != other.trajectories or len(ours) != len(theirs):
        return None
    found = paired_difference(ours, theirs)
    return found if np.isfinite(found).all() else None


def _per_trajectory(report: Report) -> Any:
    return np.array(report.rows[0].per_trajectory.get("nrmse", []), dtype=np.float64)
