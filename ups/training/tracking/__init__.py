"""Where the numbers of a run go: metrics.jsonl always, Weights & Biases by `tracking`.

    with open_tracking(run, experiment) as tracking:
        tracking.log({"stage": "operator", "step": 20, "loss": 0.1})
        tracking.media("operator", 20, "fields", picture)
        tracking.finished("operator", 20, {"valid_nrmse": 0.01})

`metrics.jsonl` is the source of truth; nothing that W&B does can stop a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ups import runs
from ups.config.schema import Experiment
from ups.training.tracking.base import (
    Board,
    Droppable,
    JsonLines,
    Medium,
    Record,
    Table,
    Tracker,
    Tracking,
    forget_after,
)
from ups.training.tracking.weights_and_biases import WandbRun, mode_of
from ups.transfer.wandb_access import failures

__all__ = [
    "Board",
    "JsonLines",
    "Medium",
    "Record",
    "Table",
    "Tracker",
    "Tracking",
    "forget_after",
    "log_report",
    "open_tracking",
]


def open_tracking(run: Path, experiment: Experiment, *, resume: bool = False) -> Tracking:
    """Open the trackers of a run; a W&B run that it had before is continued.

    Args:
        resume: Only continue, as an evaluation does: where training used no W&B, none is used.
    """
    trackers: list[Tracker] = [JsonLines(run / runs.METRICS)]
    mode = mode_of(experiment.tracking)
    if mode != "disabled" and not (resume and runs.read_tracking(run) is None):
        trackers.append(Droppable(partial(WandbRun, run, experiment, mode), failures()))
    return Tracking(run, trackers)


def log_report(tracking: Tracking, report: Mapping[str, Any], pictures: Iterable[Path]) -> None:
    """Put an evaluation into the summary of the run, with its table and pictures.

    Args:
        report: The content of `report.json`: `protocol` with `split`, and `rows` with `name` and
            `metrics[name][reduction]`; `run` names the `task`, where there are several.
    """
    rows = report["rows"]
    metrics = list(dict.fromkeys(
        (metric, part) for row in rows for metric, parts in row["metrics"].items() for part in parts
    ))  # fmt: skip
    table = tuple(
        (row["name"], *(row["metrics"].get(metric, {}).get(part) for metric, part in metrics))
        for row in rows
    )
    task = report.get("run", {}).get("task")
    stage = str(report["protocol"]["split"]) + (f"/{task}" if task else "")
    tracking.summary({
        f"{stage}/{metric}_{part}": value
        for (metric, part), value in zip(metrics, table[0][1:], strict=True)
    })  # fmt: skip
    heads = ("predictor", *(f"{metric} {part}" for metric, part in metrics))
    tracking.media(stage, 0, "report", Table(heads, table))
    for picture in pictures:
        tracking.media(stage, 0, picture.stem, picture)
