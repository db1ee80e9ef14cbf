"""Each stage from an experiment and the checkpoints of the stages before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ups import checkpoint as checkpoints
from ups import files, runs
from ups.checkpoint import Checkpoint
from ups.codec.coded import Codec
from ups.codec.grid import GridCodec
from ups.config.models import BackboneConfig
from ups.config.stages import StageName, TrainingConfig
from ups.data.points import PointStore
from ups.data.store import TrajectoryStore
from ups.errors import CheckpointError, ConfigError, GateError
from ups.models.corrector import ResidualModel
from ups.models.flow_map import FlowMap
from ups.models.layout import TokenLayout
from ups.models.operator import build_operator
from ups.models.steady import SteadyPrior
from ups.training.building import build_codec, make_checkpoint
from ups.training.cache_source import CacheUse, provide_caches
from ups.training.curriculum import Curriculum, spans, steps_of
from ups.training.latents import Progress, codecs_for, find_codec, latent_tasks, matching
from ups.training.loop import Stage
from ups.training.scales import fit_scales
from ups.training.session import Session
from ups.training.stages.codec import (
    CodecStage,
    Frames,
    GridFrames,
    MakeCheckpoint,
    PointFrames,
)
from ups.training.stages.consistency import ConsistencyStage
from ups.training.stages.diff_residual import DiffResidualStage
from ups.training.stages.fresh import MovedWindows
from ups.training.stages.operator import OperatorStage
from ups.training.stages.steady import SteadyPriorStage
from ups.training.tasks import LatentTask, mixture_of

AnyConfig = TypeVar("AnyConfig", bound=TrainingConfig)
_NEEDED: dict[StageName, tuple[StageName, ...]] = {
    "codec": (),
    "operator": ("codec",),
    "diff_residual": ("codec", "operator"),
    "consistency_distill": ("codec", "operator", "diff_residual"),
    "steady_prior": ("codec",),
}


def needed_by(stage: StageName) -> tuple[StageName, ...]:
    """The stages that must have been trained before."""
    return _NEEDED[stage]


@dataclass
class Foundation:
    """Checkpoints of earlier stages that the stages of a run stand on.

    Attributes:
        has_caches: Whether the tokens are known to be cached.
        caches: Those that were found, pulled or built for it.
    """

    files: dict[StageName, Path] = field(default_factory=dict)
    has_caches: bool = False
    caches: list[CacheUse] = field(default_factory=list)

    @classmethod
    def of(cls, paths: Mapping[str, str]) -> Foundation:
        """As a run's record names them."""
        return cls({stage: Path(paths[stage]) for stage in _NEEDED if stage in paths})


def foundation_of(
    session: Session,
    stages: Sequence[StageName],
    *,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> Foundation:
    """Find what the stages need and do not train themselves; tokens are pulled or built.

    Args:
        progress: Called with (what, done, in all, note) while tokens are pulled or built.
        dry_run: Only say where the tokens would come from.

    Raises:
        CheckpointError: An earlier stage was not trained to the end on exactly this data.
        GateError: A codec reconstructs worse than its gate allows.
        CacheError: The cache here is of other data or another codec.
        DataError: Tokens have to be built, and the training data are not here.
    """
    found = Foundation()
    missing = {one for stage in stages for one in needed_by(stage) if one not in stages}
    if "diff_residual" in missing:
        found.files["diff_residual"] = _find_stage(session, "diff_residual")
    if "operator" in missing:
        found.files["operator"] = _find_stage(session, "operator")
    if "codec" in missing:
        later = found.files.get("operator") or found.files.get("diff_residual")
        found.files["codec"] = later or find_codec(session.tasks, session.experiment)
        below = checkpoints.load(found.files["codec"])
        if below.stage == "codec":
            _check_gate(session, below, found.files["codec"])
        found.caches = provide_caches(
            session, found.files["codec"], progress=progress, dry_run=dry_run
        )
        found.has_caches = not dry_run
    return found


def _find_stage(session: Session, stage: StageName) -> Path:
    """The newest checkpoint of a stage trained to the end on the session's data."""
    for run in runs.list_runs(session.experiment.name, with_stage=stage):
        path = runs.checkpoint_path(run, stage)
        last = run / "checkpoints" / f"{stage}-last.pt"
        if not last.is_file():
            continue
        training = checkpoints.load(last).training
        if training is None or not training["finished"]:
            continue
        known = checkpoints.load(path)
        if all(matching(known, task) == task.name for task in session.tasks):
            return path
    names = ", ".join(task.store.name for task in session.tasks)
    raise CheckpointError(
        f"no finished stage '{stage}' of an experiment '{session.experiment.name}' on {names}",
        hint=f"ups train --stage {stage}, with the same --config and --set",
    )


def build_stage(session: Session, stage: StageName, stands_on: Foundation) -> Stage:
    """The stage, ready to be fitted.

    Raises:
        CheckpointError: A checkpoint that it stands on is missing.
        GateError: A codec reconstructs worse than its gate allows.
    """
    torch.manual_seed(session.experiment.seed + list(_NEEDED).index(stage))
    if stage == "codec":
        return codec_stage(session, {t.name: build_codec(session, t) for t in session.tasks})
    last = needed_by(stage)[-1]
    below = checkpoints.load(stands_on.files[last], session.device)
    if last == "codec":
        _check_gate(session, below, stands_on.files["codec"])
    codecs = codecs_for(session, below)
    earlier = {s: files.sha256_file(stands_on.files[s]) for s in needed_by(stage)}
    saving = partial(make_checkpoint, session, codecs, earlier)
    return stage_on(session, stage, latent_tasks(session, codecs), below.modules, saving)


def stage_on(
    session: Session,
    stage: StageName,
    tasks: Sequence[LatentTask],
    modules: Mapping[str, nn.Module],
    saving: MakeCheckpoint,
) -> Stage:
    """A stage on tokens.

    Args:
        modules: Trained by earlier stages.
    """
    match stage:
        case "operator":
            return _operator_stage(session, tasks, saving)
        case "diff_residual":
            return _residual_stage(session, tasks, modules["operator"], saving)
        case "consistency_distill":
            return _consistency_stage(session, tasks, modules, saving)
        case "steady_prior":
            return _steady_stage(session, tasks, saving)
        case "codec":
            raise ValueError("the codec stage is not on tokens")


def codec_stage(session: Session, codecs: dict[str, Codec]) -> CodecStage:
    """The stage that trains the codecs of all tasks."""
    experiment = session.experiment
    frames: list[Frames] = []
    for task in session.tasks:
        codec, store = codecs[task.name], task.store
        common = (experiment.stages.codec, session.device, experiment.seed)
        if isinstance(codec, GridCodec):
            assert isinstance(store, TrajectoryStore)
            names = experiment.data.augment
            moved = MovedWindows(task, names, experiment.seed) if names else None
            frames.append(GridFrames(task, store, codec, *common, moved))
        else:
            assert isinstance(store, PointStore)
            frames.append(PointFrames(task, store, codec, *common))
    config = experiment.stages.codec
    samples = sum(len(one) for one in frames)
    return CodecStage(
        config=config.model_copy(update={"steps": steps_of(config, samples)}),
        tasks=tuple(frames),
        seed=experiment.seed,
        make_checkpoint=partial(make_checkpoint, session, codecs, {}),
    )


def _layouts(tasks: Sequence[LatentTask]) -> dict[str, TokenLayout]:
    return {task.name: task.layout for task in tasks}


def _timed(config: AnyConfig, tasks: Sequence[LatentTask]) -> AnyConfig:
    """The config with its length in steps."""
    steps = steps_of(config, sum(len(task) for task in tasks))
    return config.model_copy(update={"steps": steps})


def _operator_stage(
    session: Session, tasks: Sequence[LatentTask], saving: MakeCheckpoint
) -> OperatorStage:
    experiment = session.experiment
    config, data = experiment.stages.operator, experiment.data
    operator = build_operator(experiment.operator, _layouts(tasks)).to(session.device)
    for task in tasks:
        fit_scales(operator, task)
    mixture = mixture_of(tasks, data.mixing, experiment.seed)
    phases = spans(config, sum(len(task) for task in tasks))
    return OperatorStage(
        config=_timed(config, tasks),
        data=data,
        mixture=mixture,
        curriculum=Curriculum(mixture, phases, data.mixing),
        operator=operator,
        device=session.device,
        seed=experiment.seed,
        given_frames=experiment.evaluation.history,
        make_checkpoint=saving,
    )


def _network(session: Session) -> BackboneConfig:
    """The operator's network, which models beside it have too unless they say otherwise."""
    operator = session.experiment.operator
    if not isinstance(operator, BackboneConfig):
        raise ConfigError(
            f"operator.kind '{operator.kind}' has no network in tokens for later stages",
            hint="name one: stages.<stage>.backbone, or operator.kind latent",
        )
    return operator


def _residual_stage(
    session: Session, tasks: Sequence[LatentTask], operator: nn.Module, saving: MakeCheckpoint
) -> DiffResidualStage:
    experiment, moving = session.experiment, _moving(tasks)
    config = experiment.stages.diff_residual
    model = config.model(config.backbone or _network(session))
    return DiffResidualStage(
        config=_timed(config, moving),
        mixture=mixture_of(moving, experiment.data.mixing, experiment.seed),
        operator=operator,
        residual=ResidualModel(model, _layouts(moving)).to(session.device),
        device=session.device,
        seed=experiment.seed,
        given_frames=experiment.evaluation.history,
        make_checkpoint=saving,
        augment=experiment.data.augment,
    )


def _consistency_stage(
    session: Session,
    tasks: Sequence[LatentTask],
    modules: Mapping[str, nn.Module],
    saving: MakeCheckpoint,
) -> ConsistencyStage:
    experiment, moving = session.experiment, _moving(tasks)
    config, teacher = experiment.stages.consistency_distill, modules["residual"]
    assert isinstance(teacher, ResidualModel)
    student = FlowMap.from_teacher(teacher, config.student_steps).to(session.device)
    return ConsistencyStage(
        config=_timed(config, moving),
        mixture=mixture_of(moving, experiment.data.mixing, experiment.seed),
        operator=modules["operator"],
        teacher=teacher,
        student=student.requires_grad_(True),
        device=session.device,
        seed=experiment.seed,
        given_frames=experiment.evaluation.history,
        make_checkpoint=saving,
        augment=experiment.data.augment,
    )


def _steady_stage(
    session: Session, tasks: Sequence[LatentTask], saving: MakeCheckpoint
) -> SteadyPriorStage:
    experiment = session.experiment
    steady = [task for task in tasks if task.layout.is_steady]
    config = experiment.stages.steady_prior
    model = config.model(config.backbone or _network(session))
    return SteadyPriorStage(
        config=_timed(config, steady),
        mixture=mixture_of(steady, experiment.data.mixing, experiment.seed),
        prior=SteadyPrior(model, _layouts(steady)).to(session.device),
        device=session.device,
        seed=experiment.seed,
        make_checkpoint=saving,
        augment=experiment.data.augment,
    )


def _moving(tasks: Sequence[LatentTask]) -> list[LatentTask]:
    return [task for task in tasks if not task.layout.is_steady]


def _check_gate(session: Session, found: Checkpoint, path: Path) -> None:
    """Refuse to build on a codec that loses more than the models are meant to."""
    if found.stage != "codec":
        return  # asked when the stage after the codec was trained
    for task in session.tasks:
        name = matching(found, task)
        gate = session.experiment.codec_for(task.family).gate
        error = found.metrics[f"{name}/nrmse_native"]
        if error > gate:
            raise GateError(
                f"{path}: {task.name}: reconstruction nRMSE {error:.2e} is above codec.gate "
                f"{gate:.2e}",
                hint="train the codec longer, keep more of it (codec.compression), or raise "
                "codec.gate",
            )
