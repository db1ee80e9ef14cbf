"""How fast a run trained, and which other runs would train as fast: from its small files alone.

What a step costs is decided by the data, the models and the settings of its stage, not by a run's
name, seed or learning rate. Runs that agree in these have the same key.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from ups import files
from ups.runs.folders import METRICS, device_of, run_id
from ups.runs.history import TIME, read_metrics, stages_of
from ups.runs.summary import read_config

_NOT_THE_COST = ("seed", "name", "device", "threads", "evaluation", "tracking", "cache", "stages")
_NOT_OF_A_STEP = ("steps", "optimizer", "schedule", "log_every", "checkpoint_every", "max_skipped",
                  "grad_clip", "curriculum", "early_bias")  # fmt: skip
_LEAST_STEPS = 2
_PAUSE = 20


@dataclass(frozen=True)
class Speed:
    """What one stage of a run took.

    Attributes:
        key: Of data, models and stage; `loose_key` leaves the data out.
        seconds_per_step: With validation, without pauses.
        steps: That were recorded.
        device: What it trained on, as the driver calls it; empty where that is not known.
        run: `name/id`.
    """

    stage: str
    key: str
    loose_key: str
    seconds_per_step: float
    steps: int
    device: str
    run: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Speed:
        """Raises `TypeError` or `KeyError` for what is none."""
        texts = {name: str(content[name]) for name in
                 ("stage", "key", "loose_key", "device", "run")}  # fmt: skip
        return cls(
            seconds_per_step=float(content["seconds_per_step"]), steps=int(content["steps"]),
            **texts,
        )  # fmt: skip


def keys_of(config: Mapping[str, Any], stage: str) -> tuple[str, str]:
    """Hashes of what decides a step's cost: with the data, and without them.

    Args:
        config: A resolved config, as plain values.
    """
    kept = {key: value for key, value in config.items() if key not in _NOT_THE_COST}
    settings = copy.deepcopy((config.get("stages") or {}).get(stage) or {})
    for name in _NOT_OF_A_STEP:
        settings.pop(name, None)
    kept["stage"] = {stage: settings}
    without_data = {key: value for key, value in kept.items() if key != "data"}
    return files.sha256_json(kept)[:16], files.sha256_json(without_data)[:16]


def speeds_of(run: Path) -> list[Speed]:
    """How fast each stage of a run went; those with too few records are left out."""
    config, records = read_config(run), read_metrics(run / METRICS, timed=True)
    device = device_of(run)
    found = []
    for stage in stages_of(records):
        own = [record for record in records if record["stage"] == stage and TIME in record]
        took, steps = _active_seconds(own), _steps(own)
        if took > 0 and steps >= _LEAST_STEPS:
            keys = keys_of(config, stage)
            found.append(Speed(stage, *keys, took / steps, steps, device, run_id(run)))
    return found


def _steps(records: Sequence[Mapping[str, Any]]) -> int:
    numbers = [int(record["step"]) for record in records]
    return max(numbers) - min(numbers) if numbers else 0


def _active_seconds(records: Sequence[Mapping[str, Any]]) -> float:
    """Between the first and the last record, without gaps in which nothing ran."""
    times = [float(record[TIME]) for record in records]
    gaps = [max(after - before, 0.0) for before, after in pairwise(times)]
    usual = median(gaps) if gaps else 0.0
    return float(sum(gap for gap in gaps if gap <= _PAUSE * max(usual, 1.0)))
