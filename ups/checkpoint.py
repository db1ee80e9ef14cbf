"""Checkpoints: weights, normalisation, options and the identity of everything they came from.

A checkpoint is one `torch.save` file of plain values and tensors (it loads with
`weights_only=True`), written under a temporary name and renamed: docs/adr/0003.
"""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ups import files, runs
from ups.codec.grid import GridCodec, GridGeometry
from ups.config.base import validated
from ups.config.models import GridCodecConfig, LatentOperatorConfig
from ups.config.schema import Experiment
from ups.errors import CheckpointError, translated_os_errors
from ups.models.operator import LatentOperator, TokenLayout
from ups.models.surrogate import Surrogate
from ups.registry import Parameter

FORMAT = "ups-checkpoint-1"


@dataclass(frozen=True)
class Identity:
    """Which data, code and earlier stages made a checkpoint.

    Attributes:
        codec_fingerprint: Of the frozen codec that a later stage stands on.
        commit: Of the checkout, with `-dirty` when it had changes; empty outside a checkout.
    """

    dataset: str
    version: str
    data_sha256: str
    split_hash: str
    codec_fingerprint: str
    commit: str
    ups_version: str
    seed: int


@dataclass
class Checkpoint:
    """Everything that one stage leaves behind.

    Attributes:
        stage: Which stage wrote it.
        step: Optimizer steps taken.
        metrics: Of the validation that chose these weights, for example `valid_nrmse`.
        training: Optimizer, averages and random state; only where a run can be resumed from.
    """

    stage: str
    step: int
    experiment: Experiment
    identity: Identity
    codec: GridCodec
    operator: LatentOperator | None = None
    parameters: tuple[Parameter, ...] = ()
    dt: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] | None = None

    def surrogate(self) -> Surrogate:
        """Codec and operator, ready to roll out."""
        if self.operator is None or self.dt is None:
            raise CheckpointError(
                f"this checkpoint of stage '{self.stage}' holds no operator",
                hint="ups train --stage operator",
            )
        return Surrogate(self.codec, self.operator, self.parameters, self.dt).eval()


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically."""
    content = {
        "format": FORMAT,
        "stage": checkpoint.stage,
        "step": checkpoint.step,
        "experiment": checkpoint.experiment.model_dump(mode="json"),
        "identity": asdict(checkpoint.identity),
        "codec": _codec_content(checkpoint.codec),
        "operator": _operator_content(checkpoint.operator),
        "parameters": [item.model_dump(mode="json") for item in checkpoint.parameters],
        "dt": checkpoint.dt,
        "metrics": checkpoint.metrics,
        "training": checkpoint.training,
    }
    with files.atomic_path(path, CheckpointError) as temporary:
        torch.save(content, temporary)


def load(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint and rebuild its modules.

    Raises:
        CheckpointError: The file is missing, cut off, damaged or not a checkpoint.
    """
    content = _read(path)
    try:
        experiment = validated(Experiment, content["experiment"], str(path))
        return Checkpoint(
            stage=content["stage"],
            step=content["step"],
            experiment=experiment,
            identity=Identity(**content["identity"]),
            codec=_build_codec(content["codec"]).to(device),
            operator=_build_operator(content["operator"], device),
            parameters=tuple(Parameter(**item) for item in content["parameters"]),
            dt=content["dt"],
            metrics=content["metrics"],
            training=content["training"],
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: does not fit this version of ups: {first}") from error


def load_run(run: str | Path | None = None, device: torch.device | str = "cpu") -> Surrogate:
    """The finished surrogate of a run, ready to predict.

    Args:
        run: Its folder, `name/id`, or `name` for its newest; None is the newest of all.
    """
    path = runs.checkpoint_path(runs.find_run(run), "operator")
    return load(path, device).surrogate().to(device)


def _read(path: Path) -> dict[str, Any]:
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
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise damaged from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of format '{FORMAT}'")
    return content


def _codec_content(codec: GridCodec) -> dict[str, Any]:
    return {
        "config": codec.config.model_dump(mode="json"),
        "geometry": asdict(codec.geometry),
        "state": codec.state_dict(),
    }


def _build_codec(content: dict[str, Any]) -> GridCodec:
    geometry = GridGeometry(**{key: tuple(value) for key, value in content["geometry"].items()})
    codec = GridCodec(GridCodecConfig(**content["config"]), geometry)
    codec.load_state_dict(content["state"])
    return codec.eval().requires_grad_(False)


def _operator_content(operator: LatentOperator | None) -> dict[str, Any] | None:
    if operator is None:
        return None
    return {
        "config": operator.config.model_dump(mode="json"),
        "layout": asdict(operator.layout),
        "state": operator.state_dict(),
    }


def _build_operator(
    content: dict[str, Any] | None, device: torch.device | str
) -> LatentOperator | None:
    if content is None:
        return None
    layout = content["layout"]
    for key in ("anchors", "periodic", "conserved"):
        layout[key] = tuple(layout[key])
    operator = LatentOperator(LatentOperatorConfig(**content["config"]), TokenLayout(**layout))
    operator.load_state_dict(content["state"])
    return operator.to(device)
