"""Run folders: `runs/<name>/<utc>-<hash>/`, made, found and described."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import ups
from ups import files, paths
from ups.config.loading import load_experiment, to_yaml
from ups.config.schema import Experiment
from ups.config.stages import STAGES
from ups.errors import CheckpointError, ConfigError, did_you_mean, translated_os_errors

CONFIG, ENVIRONMENT = "config.yaml", "env.json"
METRICS, REPORT = "metrics.jsonl", "report.json"
TRACKING, CODEC_CARD = "tracking.json", "codec_card.json"
FOUNDATION = "stands_on"
"""Folder of a run from another machine: earlier stages' checkpoints that its own runs hold there.
"""
MODEL = "model"
"""In place of a stage: any that leaves a model that predicts."""


def create_run(
    experiment: Experiment,
    *,
    stages: Sequence[str] = (),
    stands_on: Mapping[Any, Path] | None = None,
    device: str = "",
    run_id: str | None = None,
) -> Path:
    """Make a new run folder with its resolved config and its environment.

    Two runs that start in the same second with the same config get different folders.

    Args:
        stages: What the run will train, in order; a resumed run reads them back.
        stands_on: Checkpoints of earlier stages that the run does not train itself.
        device: Name of what it trains on: 'cpu', 'NVIDIA H200'.
        run_id: Name of its folder; None makes one of the time and the config.
    """
    text = to_yaml(experiment)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    parent = paths.runs_dir() / experiment.name
    with translated_os_errors(parent, "creating a run", CheckpointError):
        parent.mkdir(parents=True, exist_ok=True)
        if run_id is None:
            folder = _claim(parent, f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{digest}")
        else:
            folder = parent / run_id
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    files.write_text(folder / CONFIG, text, CheckpointError)
    below = {stage: str(path.absolute()) for stage, path in (stands_on or {}).items()}
    plan = {"stages": list(stages), "stands_on": below, "device": device}
    files.write_json(folder / ENVIRONMENT, {**environment(), **plan}, CheckpointError)
    return folder


@dataclass(frozen=True)
class Plan:
    """What a run was started with.

    Attributes:
        stages: In order.
        stands_on: Checkpoints of earlier stages that it does not train itself.
    """

    stages: tuple[str, ...]
    stands_on: dict[str, str]


def planned(run: Path) -> Plan:
    """The stages a run was started with, and what they stand on."""
    try:
        content = json.loads((run / ENVIRONMENT).read_text(encoding="utf-8"))
        stages = tuple(content["stages"])
        below: dict[str, str] = dict(content["stands_on"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{run / ENVIRONMENT}: not the record of a run: {error}") from error
    brought = {path.stem: str(path.absolute()) for path in (run / FOUNDATION).glob("*.pt")}
    return Plan(stages, {stage: brought.get(stage, path) for stage, path in below.items()})


def device_of(run: Path) -> str:
    """What a run was started on, as `create_run` was told; empty where it was not."""
    try:
        content = json.loads((run / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(content.get("device", "")) if isinstance(content, dict) else ""


def _claim(parent: Path, name: str) -> Path:
    """Create `name` under `parent`, or `name.2`, `name.3` where others were faster."""
    attempt = 1
    while True:
        folder = parent / (name if attempt == 1 else f"{name}.{attempt}")
        try:
            folder.mkdir()
        except FileExistsError:
            attempt += 1
        else:
            return folder


def checkpoint_path(run: Path, stage: str) -> Path:
    """Where the best weights of a stage are."""
    return run / "checkpoints" / f"{stage}.pt"


def list_runs(name: str | None = None, *, with_stage: str | None = None) -> list[Path]:
    """Run folders, newest first; only those that hold a checkpoint of `with_stage`, or `MODEL`."""
    found = [path.parent for path in paths.runs_dir().glob(f"{name or '*'}/*/{CONFIG}")]
    if with_stage:
        found = [run for run in found if _has(run, with_stage)]
    return sorted(found, key=_age, reverse=True)


def _has(run: Path, stage: str) -> bool:
    stages = [one for one in STAGES if one != "codec"] if stage == MODEL else [stage]
    return any(checkpoint_path(run, one).is_file() for one in stages)


def _age(run: Path) -> tuple[str, int]:
    """When a run began: the second in its name, and within it the time of its config."""
    return run.name.partition("-")[0], (run / CONFIG).stat().st_mtime_ns


def find_run(run: str | Path | None, *, with_stage: str | None = MODEL) -> Path:
    """The folder of a run given as a path, `name/id`, `name` (its newest), or None (the newest).

    Args:
        with_stage: Only a run with a checkpoint of this stage; `MODEL` is any stage that leaves a
            model that predicts, and None asks for nothing.

    Raises:
        CheckpointError: There is no such run, or it has no checkpoint of `with_stage`.
    """
    hint = f"ups train --stage {with_stage or 'all'}"
    what = f"checkpoint of stage '{with_stage}'"
    if with_stage == MODEL:
        hint, what = "ups train --stage operator, or steady_prior", "model that predicts"
    if run is None:
        runs = list_runs(with_stage=with_stage)
        if not runs:
            raise CheckpointError(
                f"{paths.display(paths.runs_dir())}: no run with a {what}",
                hint=hint,
            )
        return runs[0]
    for folder in (Path(run), paths.runs_dir() / run):
        if (folder / CONFIG).is_file():
            if with_stage and not _has(folder, with_stage):
                raise CheckpointError(
                    f"{folder}: has no {what} yet",
                    hint=f"ups train --resume {run}, or {hint}",
                )
            return folder
    if runs := list_runs(str(run), with_stage=with_stage):
        return runs[0]
    known = [run_id(path) for path in list_runs()] + [path.parent.name for path in list_runs()]
    raise CheckpointError(f"{run}: no such run{did_you_mean(str(run), known)}", hint=hint)


def run_id(run: Path) -> str:
    """`name/id`, as commands print and accept it."""
    return f"{run.parent.name}/{run.name}"


def run_experiment_of(run: Path) -> Experiment:
    """The resolved config that the run was made with."""
    return load_experiment(run / CONFIG)


def readable_experiment_of(run: Path) -> Experiment | None:
    """As `run_experiment_of`; None for a config that this version of ups does not understand."""
    try:
        return run_experiment_of(run)
    except ConfigError:
        return None


def read_tracking(run: Path) -> dict[str, Any] | None:
    """Which W&B run takes the metrics of `run`: id, project, entity, url, unsynced folders.

    Raises:
        CheckpointError: `tracking.json` is damaged.
    """
    path = run / TRACKING
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _no_record(path, error) from error
    if not isinstance(content, dict) or not content.get("id"):
        raise _no_record(path, "it has no id")
    return content


def _no_record(path: Path, reason: object) -> CheckpointError:
    return CheckpointError(
        f"{path}: not the record of a W&B run: {reason}",
        hint=f"delete it to begin a new W&B run: rm '{path}'",
    )


def environment() -> dict[str, Any]:
    """What the numbers of a run depend on besides its config; no secrets, no host name."""
    return {
        "ups": ups.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in ("torch", "numpy", "h5py")},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def commit() -> str:
    """The checkout's commit, with `-dirty` when files differ; of a remote job's wheel that which it
    was built from; else empty.
    """
    root = paths.checkout()
    if root is None:
        return paths.packaged_commit()
    if not (root / ".git").exists():
        return ""
    try:
        result = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
