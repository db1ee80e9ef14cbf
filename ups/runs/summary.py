"""What can be said about a run from its small files alone: no weights are read, no torch needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from ups import files, paths
from ups.errors import CheckpointError
from ups.runs.folders import (
    CODEC_CARD,
    CONFIG,
    ENVIRONMENT,
    METRICS,
    REPORT,
    checkpoint_path,
    read_tracking,
    run_id,
)
from ups.runs.history import FINISHED, TIME, curve, headline, read_metrics, stages_of

State = Literal["running", "finished", "stopped", "fetched"]
_STAMP = "%Y%m%dT%H%M%SZ"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class StageSummary:
    """How far a stage came, and how good it became.

    Attributes:
        step: Optimizer steps recorded.
        steps: Steps in all, None where the config counts epochs or phases.
        metric: What `best` is the smallest value of, and `best_step` where.
        loss: The last recorded training loss.
        seconds: Between its first and last record; a pause in between counts.
    """

    name: str
    step: int
    steps: int | None
    finished: bool
    metric: str | None
    best: float | None
    best_step: int | None
    loss: float | None
    seconds: float | None


@dataclass(frozen=True)
class RunSummary:
    """A run in a few numbers.

    Attributes:
        began: UTC, ISO 8601; from the folder's name, else from the age of its config.
        score: nRMSE mean of the model in the report; None before it was judged.
        score_of: The split of the report.
        url: Of its W&B run.
    """

    id: str
    folder: Path
    state: State
    datasets: tuple[str, ...]
    stages: tuple[StageSummary, ...]
    began: str
    size_bytes: int
    score: float | None
    score_of: str | None
    url: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "folder": str(self.folder)}


def summarise(run: Path) -> RunSummary:
    """Sum a run up; what is missing or damaged is left out."""
    config = read_config(run)
    records = read_metrics(run / METRICS, timed=True)
    environment = _json(run / ENVIRONMENT)
    tracking = _tracking(run)
    stages = _stages(run, config, environment, records)
    score, score_of = _score(_json(run / REPORT))
    state: State = "finished" if stages and all(stage.finished for stage in stages) else "stopped"
    if "fetched_from" in environment:
        state = "fetched"
    if files.is_locked(run):
        state = "running"
    return RunSummary(
        id=run_id(run),
        folder=run,
        state=state,
        datasets=datasets_of(config),
        stages=stages,
        began=_began(run),
        size_bytes=sum(path.stat().st_size for path in run.rglob("*") if path.is_file()),
        score=score,
        score_of=score_of,
        url=tracking.get("url"),
    )


def read_config(run: Path) -> dict[str, Any]:
    """The run's config as it stands, also one that this version of ups would not accept."""
    try:
        content = yaml.load((run / CONFIG).read_text(encoding="utf-8"), Loader=_LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def datasets_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """`dataset (version)` of each task."""
    data = _part(config, "data")
    tasks = data.get("task") or [data]
    found = [{"dataset": task} if isinstance(task, str) else task for task in tasks]
    return tuple(
        f"{task['dataset']} ({task['version']})" if task.get("version") else str(task["dataset"])
        for task in found
        if isinstance(task, dict) and task.get("dataset")
    )


def checkpoints_of(run: Path) -> list[dict[str, Any]]:
    """Name, size in bytes and SHA-256 of each checkpoint file."""
    return [
        {"name": path.name, "size_bytes": path.stat().st_size, "sha256": files.sha256_file(path)}
        for path in sorted((run / "checkpoints").glob("*.pt"))
    ]


def report_rows(run: Path) -> list[dict[str, Any]]:
    """Name and nRMSE (mean, median, p90, max) of each predictor in the report."""
    return [
        {"name": row.get("name"), **_part(_part(row, "metrics"), "nrmse")}
        for row in _json(run / REPORT).get("rows", [])
        if isinstance(row, dict)
    ]


def codec_cards(run: Path) -> dict[str, dict[str, float]]:
    """Reconstruction errors from the codec's report card: where -> error -> value."""
    found: dict[str, dict[str, float]] = {}

    def collect(content: Mapping[str, Any], name: str) -> None:
        if "nrmse" in content:
            found[name] = {k: v for k, v in content.items() if isinstance(v, int | float)}
            return
        for key, value in content.items():
            if isinstance(value, dict):
                collect(value, f"{name}/{key}" if name else key)

    collect(_json(run / CODEC_CARD), "")
    return found


def sync_command(run: Path) -> str | None:
    """How to send what was tracked offline; None where nothing was."""
    folders = _tracking(run).get("unsynced") or []
    if not any((run / folder).is_dir() for folder in folders):
        return None
    return f"wandb sync {paths.display(run)}/wandb/offline-run-*"


def _stages(
    run: Path,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
) -> tuple[StageSummary, ...]:
    recorded = stages_of(records)
    planned = [name for name in environment.get("stages", []) if isinstance(name, str)]
    names = list(dict.fromkeys([*planned, *recorded]))
    settings = _part(config, "stages")
    followed = {name for name in planned for later in planned[planned.index(name) + 1 :]
                if later in recorded}  # fmt: skip
    return tuple(
        _stage(run, name, _part(settings, name), records, name in followed) for name in names
    )


def _stage(
    run: Path,
    name: str,
    settings: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    followed: bool,
) -> StageSummary:
    own = [record for record in records if record["stage"] == name]
    step = max((int(record["step"]) for record in own), default=0)
    counted = settings.get("epochs") or settings.get("curriculum")
    steps = settings.get("steps") if not counted else None
    reached = isinstance(steps, int) and step >= steps
    said = any(record.get(FINISHED) for record in own)
    metric = headline(own, name)
    best = curve(own, metric).best if metric else None
    losses = [record["loss"] for record in own if record.get("loss") is not None]
    times = [record[TIME] for record in own if TIME in record]
    return StageSummary(
        name=name,
        step=step,
        steps=steps if isinstance(steps, int) else None,
        finished=(reached or said or followed) and checkpoint_path(run, name).is_file(),
        metric=metric.partition("/")[2] if metric else None,
        best=best[1] if best else None,
        best_step=best[0] if best else None,
        loss=losses[-1] if losses else None,
        seconds=times[-1] - times[0] if len(times) > 1 else None,
    )


def _score(report: Mapping[str, Any]) -> tuple[float | None, str | None]:
    rows = report.get("rows")
    if not isinstance(rows, list) or not rows:
        return None, None
    score = _part(_part(rows[0], "metrics"), "nrmse").get("mean")
    return score, _part(report, "protocol").get("split")


def _began(run: Path) -> str:
    try:
        when = datetime.strptime(run.name.partition("-")[0], _STAMP).replace(tzinfo=UTC)
    except ValueError:
        when = datetime.fromtimestamp((run / CONFIG).stat().st_mtime, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"


def _tracking(run: Path) -> dict[str, Any]:
    try:
        return read_tracking(run) or {}
    except CheckpointError:
        return {}


def _json(path: Path) -> dict[str, Any]:
    """The content of a small JSON file; empty where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _part(content: Any, key: str) -> dict[str, Any]:
    """A mapping inside a mapping; empty where it is not one."""
    part = content.get(key) if isinstance(content, Mapping) else None
    return part if isinstance(part, dict) else {}
