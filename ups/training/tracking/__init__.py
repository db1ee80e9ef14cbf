"""Where metrics go: metrics.jsonl always, Weights & Biases when asked for."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ups import files, runs
from ups.config.schema import Experiment
from ups.errors import CheckpointError, translated_os_errors

Record = Mapping[str, Any]


@runtime_checkable
class Tracker(Protocol):
    """Takes one record at a time."""

    def log(self, record: Record) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """Appends each record as one line; records of steps that are run again are dropped first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with translated_os_errors(path, "writing", CheckpointError):
            self._file = path.open("a", encoding="utf-8", buffering=1)

    def log(self, record: Record) -> None:
        with translated_os_errors(self.path, "writing", CheckpointError):
            self._file.write(json.dumps(_plain(record), allow_nan=False) + "\n")

    def close(self) -> None:
        self._file.close()


def _plain(record: Record) -> dict[str, Any]:
    """The record with None for what is NaN or infinite, which JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }


class WandbRun:
    """Sends each record to one Weights & Biases run.

    With mode 'online' the key comes from WANDB_API_KEY or an earlier `wandb login`.
    """

    def __init__(self, experiment: Experiment, run_dir: Path) -> None:
        import wandb

        self._run = wandb.init(
            project=experiment.tracking.project,
            name=f"{run_dir.parent.name}/{run_dir.name}",
            mode=experiment.tracking.wandb,
            dir=str(run_dir),
            config=experiment.model_dump(mode="json"),
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, record: Record) -> None:
        stage = record["stage"]
        numbers = {k: v for k, v in record.items() if isinstance(v, int | float) and k != "step"}
        values = {f"{stage}/{key}": value for key, value in numbers.items()}
        self._run.log({**values, f"{stage}/step": record["step"]})

    def close(self) -> None:
        self._run.finish()


def build_trackers(experiment: Experiment, run_dir: Path) -> list[Tracker]:
    """The trackers that the config asks for; metrics.jsonl is always one."""
    trackers: list[Tracker] = [JsonLines(run_dir / "metrics.jsonl")]
    if experiment.tracking.wandb != "disabled":
        os.environ.setdefault("WANDB_SILENT", "true")
        trackers.append(WandbRun(experiment, run_dir))
    return trackers


def forget_after(path: Path, stage: str, step: int) -> None:
    """Drop the records of `stage` beyond `step`, which a resumed run will write again."""
    kept: Iterable[dict[str, Any]] = [
        record
        for record in runs.read_metrics(path)
        if record["stage"] != stage or record["step"] <= step
    ]
    files.write_text(path, "".join(json.dumps(record) + "\n" for record in kept), CheckpointError)
