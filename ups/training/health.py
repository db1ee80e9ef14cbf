"""What must hold of a run before its numbers count: gradients, one batch, answers, data."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from ups import files
from ups.config.baselines import is_trivial
from ups.config.stages import StageName
from ups.data.audit import audit_splits
from ups.errors import CheckpointError
from ups.evaluation.context import Context, open_context
from ups.evaluation.evaluate import persistence_ratio
from ups.evaluation.gates import Gate
from ups.evaluation.report import Report, Section
from ups.training.health_answers import ASKED, Outcome, ask, beats_persistence
from ups.training.health_data import check_normalisation, check_splits
from ups.training.health_model import check_gradients, check_overfitting

NAME = "health"
_FORMAT = 1


def check_health(
    run: Path,
    task: str | None = None,
    *,
    device: torch.device | str = "cpu",
    report: Report | None = None,
    stage: StageName | None = None,
) -> Section:
    """Gates that catch what errors alone do not show; kept in the run's folder.

    `dead_parameters`: every weight of every trained model receives a gradient, from a batch in
    which what a sample is told varies. `overfits_one_batch`: a new model of the config learns one
    batch of its own loss. `beats_persistence`. `hears_parameters`: with the PDE parameters of
    other trajectories the error rises. `not_constant`: predictions differ between inputs.
    `split`: no state that is tested is trained on. `normalisation`: the codec's units are those of
    the training split. What cannot be asked is in the content's `skipped`, with the reason.

    Args:
        task: Which of several tasks.
        report: Of this checkpoint: whose figures decide on persistence; without it a few
            trajectories of the validation split do.
        stage: Whose checkpoint; None is the last stage that the run has finished.
    Returns:
        Content: `skipped` (gate -> reason), `overfit`, `shuffled`, `seconds`,
        `checkpoint_sha256`.
    Raises:
        CheckpointError: The run holds no usable operator.
        DataError: The run's data are not here, or have changed since.
    """
    context = open_context(run, task=task, stage=stage, device=device)
    sha256 = files.sha256_file(context.checkpoint_path)
    path = _path(run, context)
    section = _kept(path, sha256)
    if section is None:
        section = _measured(context, sha256)
        files.write_json(path, {"format": _FORMAT, **asdict(section)}, CheckpointError)
    if report is None or is_trivial(context.checkpoint.experiment):
        return section
    decided = beats_persistence(persistence_ratio(report))
    gates = tuple(decided if gate.name == decided.name else gate for gate in section.gates)
    return Section(name=NAME, content=section.content, gates=gates)


def _path(run: Path, context: Context) -> Path:
    of_task = f"-{context.task}" if len(context.checkpoint.tasks) > 1 else ""
    return run / f"health{of_task}.json"


def _kept(path: Path, sha256: str) -> Section | None:
    """What was found of this checkpoint before; None where that cannot be read."""
    try:
        content = json.loads(path.read_bytes())
        if content.pop("format") != _FORMAT or content["content"]["checkpoint_sha256"] != sha256:
            return None
        gates = TypeAdapter(tuple[Gate, ...]).validate_python(content["gates"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError):
        return None
    return Section(name=NAME, content=content["content"], gates=gates)


def _measured(context: Context, sha256: str) -> Section:
    began = time.perf_counter()
    outcomes = list(_outcomes(context))
    content: dict[str, Any] = {
        "skipped": {one.name: one.skipped for one in outcomes if one.skipped},
        **{key: value for one in outcomes for key, value in one.content.items()},
        "seconds": round(time.perf_counter() - began, 2),
        "checkpoint_sha256": sha256,
    }
    gates = tuple(one.gate for one in outcomes if one.gate is not None)
    return Section(name=NAME, content=content, gates=gates)


def _outcomes(context: Context) -> Iterator[Outcome]:
    experiment = context.checkpoint.experiment
    if is_trivial(experiment):
        reason = f"'{experiment.operator.kind}' has learned nothing"
        for name in ("dead_parameters", "overfits_one_batch", *ASKED):
            yield Outcome(name, skipped=reason)
    else:
        with torch.random.fork_rng(devices=[]):
            yield check_gradients(context.checkpoint, context.device)
            yield check_overfitting(context.checkpoint, context.device)
        yield from ask(context)
    yield check_splits(audit_splits(context.store, context.card))
    yield check_normalisation(context)
