"""Runs: their folders, the history of their metrics, and what can be said about them."""

from __future__ import annotations

from ups.runs.folders import (
    CODEC_CARD,
    CONFIG,
    ENVIRONMENT,
    METRICS,
    MODEL,
    REPORT,
    TRACKING,
    checkpoint_path,
    commit,
    create_run,
    device_of,
    environment,
    find_run,
    list_runs,
    planned,
    read_tracking,
    readable_experiment_of,
    run_experiment_of,
    run_id,
)
from ups.runs.history import TIME, read_metrics

__all__ = [
    "CODEC_CARD",
    "CONFIG",
    "ENVIRONMENT",
    "METRICS",
    "MODEL",
    "REPORT",
    "TIME",
    "TRACKING",
    "checkpoint_path",
    "commit",
    "create_run",
    "device_of",
    "environment",
    "find_run",
    "list_runs",
    "planned",
    "read_metrics",
    "read_tracking",
    "readable_experiment_of",
    "run_experiment_of",
    "run_id",
]
