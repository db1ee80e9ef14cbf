"""What a result cost: training time, and time and memory of a prediction."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ups import runs
from ups.evaluation.context import Context
from ups.evaluation.report import Report, Section

_REPEATS = 5


def cost_section(context: Context, report: Report) -> Section:
    """The price of the numbers beside them.

    Content:
        train_seconds (stage -> wall seconds), train_hours, train_device ('cpu' or the GPU's name),
        num_parameters, latency_seconds (one step of one trajectory, encode and decode included,
        median of five), trajectories_per_second and steps_per_second (of the evaluation),
        peak_memory_bytes (of this process, or of the GPU), device.
    """
    per_step = report.rows[0].seconds_per_step
    horizon = context.horizon.steps
    stages = training_seconds(context.run)
    is_cuda = context.device.type == "cuda"
    name = torch.cuda.get_device_name(context.device) if is_cuda else "cpu"
    content: dict[str, Any] = {
        "train_seconds": stages,
        "train_hours": sum(stages.values()) / 3600,
        "train_device": runs.device_of(context.run),
        "num_parameters": report.run["num_parameters"],
        "latency_seconds": _latency(context),
        "steps_per_second": 1 / per_step if per_step else None,
        "trajectories_per_second": 1 / (per_step * horizon) if per_step else None,
        "peak_memory_bytes": _peak_memory(context.device),
        "device": name,
    }
    return Section(name="cost", content=content)


def training_seconds(run: Path) -> dict[str, float]:
    """Wall seconds of each stage of a run, between its first and last record.

    A pause between a stop and its resumption counts; stages of earlier runs do not.
    """
    spans: dict[str, list[float]] = {}
    for record in runs.read_metrics(run / runs.METRICS, timed=True):
        moment = record.get(runs.TIME)
        if moment is not None:
            spans.setdefault(str(record["stage"]), []).append(float(moment))
    return {stage: max(times) - min(times) for stage, times in spans.items()}


def _latency(context: Context) -> float:
    """Seconds from the last given frame of one trajectory to the next, on this device."""
    member = context.members[:1]
    found = []
    for _ in range(_REPEATS + 1):  # the first one warms up
        began = time.perf_counter()
        batch = next(context.predict(member, batch_size=1))
        spent = batch.seconds or time.perf_counter() - began
        found.append(spent / context.horizon.steps)
    return statistics.median(found[1:])


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
