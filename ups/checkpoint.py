"""Checkpoints: weights, normalisation, options and the identity of everything they came from.

A checkpoint is one `torch.save` file of plain values and tensors (it loads with
`weights_only=True`), written under a temporary name and renamed: docs/adr/0003. It stands alone: a
later stage's checkpoint holds the frozen modules of the earlier ones too, and names their files by
hash.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ups import files, runs
from ups.codec.coded import Codec
from ups.codec.grid import GridCodec, GridGeometry
from ups.codec.points import PointCodec, PointGeometry
from ups.config.base import validated
from ups.config.models import GridCodecConfig, PointCodecConfig
from ups.config.schema import Experiment
from ups.config.stages import STAGES, StageName
from ups.errors import CheckpointError, did_you_mean, translated_os_errors
from ups.models.layout import TokenLayout
from ups.models.saved import MODULES, described, rebuilt
from ups.models.surrogate import Surrogate
from ups.registry import Parameter

FORMAT = "ups-checkpoint-2"


@dataclass(frozen=True)
class Identity:
    """Which code and which earlier stages made a checkpoint.

    Attributes:
        commit: Of the checkout, with `-dirty` when it had changes; empty outside a checkout.
        earlier: SHA-256 of the checkpoint of each earlier stage that this one stands on.
    """

    commit: str
    ups_version: str
    seed: int
    earlier: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskIdentity:
    """Which data one task was trained on, and what its models need of the dataset's card.

    Attributes:
        dt: The time that one step advances; None for a steady problem.
    """

    dataset: str
    version: str
    data_sha256: str
    split_hash: str
    stride: int
    codec_fingerprint: str
    parameters: tuple[Parameter, ...]
    dt: float | None


@dataclass
class Checkpoint:
    """Everything that one stage leaves behind.

    Attributes:
        stage: Which stage wrote it.
        step: Optimizer steps taken.
        tasks: By name, in the order of the experiment.
        codecs: One for each task.
        modules: Trained so far: 'operator', 'residual', 'flow_map', 'prior'.
        metrics: Of the validation that chose these weights, for example `valid_nrmse`.
        training: Optimizer, averages and random state; only where a run can be resumed from.
    """

    stage: str
    step: int
    experiment: Experiment
    identity: Identity
    tasks: dict[str, TaskIdentity]
    codecs: dict[str, Codec]
    layouts: dict[str, TokenLayout] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] | None = None

    def task_name(self, task: str | None = None) -> str:
        """The name of a task; None is the only one.

        Raises:
            CheckpointError: There is no such task, or several and none was named.
        """
        names = list(self.tasks)
        if task is None and len(names) == 1:
            return names[0]
        if task not in self.tasks:
            problem = (
                "holds several tasks" if task is None
                else f"holds no task '{task}'{did_you_mean(task, names)}"
            )  # fmt: skip
            raise CheckpointError(f"this checkpoint {problem}: {', '.join(names)}",
                                  hint="--task NAME")  # fmt: skip
        return task

    def codec(self, task: str | None = None) -> Codec:
        return self.codecs[self.task_name(task)]

    def surrogate(self, task: str | None = None) -> Surrogate:
        """Codec and models of one task, ready to roll out."""
        name = self.task_name(task)
        operator, prior = self.modules.get("operator"), self.modules.get("prior")
        if operator is None and prior is None:
            raise CheckpointError(
                f"this checkpoint of stage '{self.stage}' holds no model that predicts",
                hint="ups train --stage operator, or steady_prior",
            )
        known = self.tasks[name]
        residual = self.modules.get("flow_map", self.modules.get("residual"))
        return Surrogate(
            self.codecs[name], operator, name, self.layouts[name], known.parameters, known.dt,
            residual=residual, prior=prior,
        ).eval()  # fmt: skip


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically."""
    content = {
        "format": FORMAT,
        "stage": checkpoint.stage,
        "step": checkpoint.step,
        "experiment": checkpoint.experiment.model_dump(mode="json"),
        "identity": asdict(checkpoint.identity),
        "tasks": {name: _task_content(task) for name, task in checkpoint.tasks.items()},
        "codecs": {name: _codec_content(codec) for name, codec in checkpoint.codecs.items()},
        "layouts": {name: asdict(layout) for name, layout in checkpoint.layouts.items()},
        "modules": {name: described(module) for name, module in checkpoint.modules.items()},
        "metrics": checkpoint.metrics,
        "training": checkpoint.training,
    }
    with files.atomic_path(path, CheckpointError) as temporary:
        torch.save(content, temporary)


def load(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint and rebuild its modules, in evaluation mode and frozen.

    Raises:
        CheckpointError: The file is missing, cut off, damaged or not a checkpoint.
    """
    content = _read(path)
    try:
        experiment = validated(Experiment, content["experiment"], str(path))
        layouts = {name: _layout(one) for name, one in content["layouts"].items()}
        return Checkpoint(
            stage=content["stage"],
            step=content["step"],
            experiment=experiment,
            identity=Identity(**content["identity"]),
            tasks={name: _task(one) for name, one in content["tasks"].items()},
            codecs={name: _codec(one).to(device) for name, one in content["codecs"].items()},
            layouts=layouts,
            modules={
                name: rebuilt(name, content["modules"][name], layouts).to(device)
                for name in MODULES
                if name in content["modules"]
            },
            metrics=content["metrics"],
            training=content["training"],
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: does not fit this version of ups: {first}") from error


def codec_fingerprints(path: Path) -> frozenset[str]:
    """Fingerprints of the codecs that a checkpoint holds; no weights are read.

    Raises:
        CheckpointError: As `load`.
    """
    content = _read(path, mapped=True)
    try:
        return frozenset(str(task["codec_fingerprint"]) for task in content["tasks"].values())
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: does not fit this version of ups: {error}") from error


def task_identities(path: Path) -> dict[str, TaskIdentity]:
    """Which data the tasks of a checkpoint were trained on; no module is rebuilt.

    Raises:
        CheckpointError: As `load`.
    """
    try:
        return {name: _task(one) for name, one in _read(path)["tasks"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: does not fit this version of ups: {error}") from error


def load_run(
    run: str | Path | None = None,
    device: torch.device | str = "cpu",
    *,
    task: str | None = None,
    stage: StageName | None = None,
) -> Surrogate:
    """The finished surrogate of a run, ready to predict.

    Args:
        run: Its folder, `name/id`, or `name` for its newest; None is the newest of all.
        task: Which of several tasks.
        stage: Whose checkpoint; None is the last stage that the run has finished.
    """
    folder = runs.find_run(run, with_stage=stage or runs.MODEL)
    path = runs.checkpoint_path(folder, stage or last_stage(folder))
    return load(path, device).surrogate(task).to(device)


def last_stage(run: Path) -> StageName:
    """The last stage of which a run holds a checkpoint that predicts.

    Raises:
        CheckpointError: There is none.
    """
    for stage in reversed(STAGES):
        if stage != "codec" and runs.checkpoint_path(run, stage).is_file():
            return stage
    raise CheckpointError(
        f"{run}: holds no trained operator yet", hint=f"ups train --resume {runs.run_id(run)}"
    )


def _read(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint", hint="ups train")
    with translated_os_errors(path, "reading", CheckpointError):
        path.open("rb").close()
    damaged = CheckpointError(
        f"{path}: cut off or damaged, torch cannot read it",
        hint="use another checkpoint of the run, or train again: ups train",
    )
    if not zipfile.is_zipfile(path):  # torch would try its old format, with any kind of error
        raise damaged
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise damaged from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of format '{FORMAT}'")
    return content


def _task_content(task: TaskIdentity) -> dict[str, Any]:
    content = {key: value for key, value in vars(task).items() if key != "parameters"}
    return {**content, "parameters": [item.model_dump(mode="json") for item in task.parameters]}


def _task(content: Mapping[str, Any]) -> TaskIdentity:
    parameters = tuple(Parameter(**item) for item in content["parameters"])
    return TaskIdentity(**{**content, "parameters": parameters})


def _layout(content: Mapping[str, Any]) -> TokenLayout:
    found: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
    }
    found["boundaries"] = tuple(tuple(pair) for pair in found["boundaries"])
    return TokenLayout(**found)


def _codec_content(codec: Codec) -> dict[str, Any]:
    return {
        "config": codec.config.model_dump(mode="json"),
        "geometry": asdict(codec.geometry),
        "state": codec.state_dict(),
    }


def _codec(content: Mapping[str, Any]) -> Codec:
    geometry: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in content["geometry"].items()
    }
    codec: Codec
    if content["config"]["kind"] == "grid":
        codec = GridCodec(GridCodecConfig(**content["config"]), GridGeometry(**geometry))
    else:
        geometry["bounds"] = tuple(tuple(pair) for pair in geometry["bounds"])
        codec = PointCodec(PointCodecConfig(**content["config"]), PointGeometry(**geometry))
    codec.load_state_dict(content["state"])
    return codec.eval().requires_grad_(False)
