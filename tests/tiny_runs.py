"""Experiments of a few steps on the small datasets of `tests/unit/conftest.py`."""

from __future__ import annotations

import torch

from ups import runs
from ups.config.loading import merged
from ups.config.schema import Experiment
from ups.training.building import build_codec
from ups.training.latents import build_task_cache, latent_tasks
from ups.training.session import open_session
from ups.training.stages.build import stage_on

STAGE = {
    "batch_size": 4, "log_every": 1, "validate_every": 2, "checkpoint_every": 2,
    "schedule": {"warmup_steps": 1},
}  # fmt: skip
SMALL = {
    "name": "small",
    "device": "cpu",
    "threads": 1,
    "codecs": {
        "grid1d": {"patch_size": 8, "width": 8, "depth": 1},
        "grid2d": {"patch_size": 8, "coefficients": 24, "width": 8, "depth": 1, "gate": 1},
        "mesh": {"anchors": [4, 4], "width": 8, "supernodes": 8, "gate": 1},
        "particles": {"anchors": [4, 4], "width": 8, "supernodes": 8, "gate": 1},
    },
    "operator": {"mixer": "attention", "width": 16, "depth": 1, "heads": 2},
    "stages": {
        "codec": STAGE | {"steps": 2},
        "operator": STAGE | {"steps": 6, "unroll": [{"start": 0, "steps": 2}]},
        "diff_residual": STAGE | {"steps": 2, "ensemble": 2, "validation_trajectories": 2},
        "steady_prior": STAGE | {"steps": 4},
    },
}


def small_experiment(*tasks, **changes):
    """An experiment on these datasets."""
    return Experiment.model_validate(merged(SMALL | {"data": {"task": list(tasks)}}, changes))


def no_checkpoint(*args, **modules):
    raise AssertionError("this stage is not to be saved")


def operator_stage(*tasks, **changes):
    """The operator's stage as it begins, on caches made by untrained codecs of these datasets."""
    session = open_session(small_experiment(*tasks, **changes))
    torch.manual_seed(0)
    codecs = {task.name: build_codec(session, task).eval() for task in session.tasks}
    return stage_on(session, "operator", cached(session, codecs), {}, no_checkpoint)


def cached(session, codecs):
    """Tasks with their caches, of codecs that no checkpoint holds."""
    for task in session.tasks:
        build_task_cache(task, codecs[task.name], session.experiment.cache)
    return latent_tasks(session, codecs)


def losses_of(run, stage, key="loss"):
    records = runs.read_metrics(run / runs.METRICS)
    return [record[key] for record in records if record["stage"] == stage and key in record]
