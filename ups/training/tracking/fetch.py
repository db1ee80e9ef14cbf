"""Bring the history of a W&B run into a run folder, where `ups runs` reads it as its own."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from ups import files, paths, runs
from ups.errors import CheckpointError, RemoteError, UsageError
from ups.runs.history import TIME
from ups.training.tracking.weights_and_biases import name_in_record
from ups.transfer.wandb_access import failures, has_key

_PATH = re.compile(r"[\w.-]+(?: [\w.-]+)*/[\w.-]+(?: [\w.-]+)*/[\w.-]+")
_STEP, _WHEN = "_step", "_timestamp"
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")  # as W&B writes them


def fetch(path: str, progress: Callable[[int, int], None] | None = None) -> Path:
    """Fetch `ENTITY/PROJECT/RUNID` into `runs/wandb-PROJECT/<utc>-<RUNID>/`.

    A run that was fetched before is brought up to date. Only numbers are kept: records take the
    stage and the step that `ups` logged them with; what another program logged has the first part
    of its name as stage, and W&B's own step.

    Args:
        progress: Called with (rows read, rows in all).
    Returns:
        The run's folder.
    Raises:
        UsageError: `path` is not of that form.
        RemoteError: No key, no such run, or the server does not answer.
    """
    if not _PATH.fullmatch(path):
        raise UsageError(f"{path}: expected ENTITY/PROJECT/RUNID, as in the run's address")
    if not has_key():
        raise RemoteError(
            f"{path}: no W&B key on this machine", hint="wandb login, or set WANDB_API_KEY"
        )
    import wandb

    try:
        source = wandb.Api().run(path)
        rows = _counted(source.scan_history(), source.lastHistoryStep + 1, progress)
        records = [record for row in rows for record in records_of(row)]
        config, began = dict(source.config), _time(source.created_at)
        context: dict[str, Any] = {
            "id": source.id, "project": source.project, "entity": source.entity,
            "url": source.url, "mode": "fetched", "unsynced": [], "name": source.name,
        }  # fmt: skip
    except failures() as error:
        reason = " ".join(str(error).split())
        raise RemoteError(
            f"{path}: not fetched from W&B: {reason}",
            hint="compare with the address of the run's page; is the key of the right account?",
        ) from error
    folder = paths.runs_dir() / f"wandb-{context['project']}" / f"{began}-{context['id']}"
    _write(folder, config, context, records)
    return folder


def records_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One history row as records of `metrics.jsonl`, one for each stage in it."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in row.items():
        if name.startswith("_") or not (_is_number(value) or value in _NOT_FINITE):
            continue
        stage, key = name_in_record(name)
        if key == "step":
            continue
        step = row.get(f"{stage}/step", row.get(_STEP, 0))
        record = found.setdefault(stage, {"stage": stage, "step": int(step)})
        record[key] = value if _is_number(value) and math.isfinite(value) else None
    if _WHEN in row:
        for record in found.values():
            record[TIME] = round(float(row[_WHEN]), 3)
    return list(found.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _counted(
    rows: Iterable[Mapping[str, Any]], total: int, progress: Callable[[int, int], None] | None
) -> Iterable[Mapping[str, Any]]:
    for count, row in enumerate(rows, 1):
        yield row
        if progress:
            progress(min(count, total), total)


def _time(created: str) -> str:
    when = datetime.fromisoformat(created.replace("Z", "+00:00"))
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return f"{aware.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def _write(
    folder: Path, config: Mapping[str, Any], context: Mapping[str, Any], records: list[Any]
) -> None:
    """The files of a run folder; its config, by which it is found, comes last."""
    lines = "".join(json.dumps(record) + "\n" for record in records)
    files.write_text(folder / runs.METRICS, lines, CheckpointError)
    files.write_json(folder / runs.TRACKING, dict(context), CheckpointError)
    plan = {"stages": [], "stands_on": {}, "fetched_from": context["url"]}
    files.write_json(folder / runs.ENVIRONMENT, plan, CheckpointError)
    text = yaml.safe_dump(json.loads(json.dumps(dict(config), default=str)), sort_keys=False)
    files.write_text(folder / runs.CONFIG, text, CheckpointError)
