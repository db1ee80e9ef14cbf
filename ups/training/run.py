"""Train an experiment: make the run, find what each stage stands on, run the stages in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

import ups
from ups import checkpoint as checkpoints
from ups import files, runs
from ups.cache.format import open_cache
from ups.checkpoint import Checkpoint, Identity
from ups.codec.grid import GridCodec
from ups.codec.report_card import ReportCard, report_card
from ups.config.schema import Experiment
from ups.errors import CheckpointError, GateError, UsageError
from ups.models.operator import LatentOperator
from ups.models.surrogate import Surrogate
from ups.training.latents import (
    CacheOutcome,
    Progress,
    build_codec_cache,
    cache_identity,
    find_codec,
)
from ups.training.loop import Fit, FitResult, Stage
from ups.training.session import (
    Session,
    geometry_of,
    normalisation,
    open_session,
    step_time,
    token_layout,
)
from ups.training.stages import CodecStage, OperatorStage, validation_frames
from ups.training.tracking import build_trackers, forget_after

StageName = Literal["codec", "operator"]
STAGES: tuple[StageName, ...] = ("codec", "operator")
Done = Callable[["StageOutcome | CacheOutcome"], None]


@dataclass(frozen=True)
class StageOutcome:
    """What one finished stage has to say."""

    stage: str
    run: Path
    checkpoint: Path
    fit: FitResult
    card: ReportCard | None = None


def train(
    experiment: Experiment,
    stages: Sequence[StageName] = STAGES,
    *,
    progress: Progress | None = None,
    done: Done | None = None,
) -> Path:
    """Train the given stages in a new run; between codec and operator the cache is built.

    Args:
        progress: Called with (what, steps done, steps in all, note).
        done: Called with the outcome of each finished part.
    Returns:
        The run's folder.
    Raises:
        CheckpointError: The operator is asked for and no codec of this config was trained on this
            data, or a loss is not finite.
        CacheError: The operator alone is asked for and its cache was not built.
        GateError: The codec reconstructs worse than its gate allows.
    """
    session = open_session(experiment)
    codec_from = None if "codec" in stages else find_codec(session.store, session.experiment.codec)
    if codec_from is not None:
        codec = _prepare_operator(session, codec_from)
        open_cache(cache_identity(session.store, codec, experiment.cache))
    run = runs.create_run(session.experiment, stages=stages, codec_from=codec_from)
    _run_stages(session, run, stages, codec_from, progress, done)
    return run


def resume(run: Path, *, progress: Progress | None = None, done: Done | None = None) -> Path:
    """Continue a run where it stopped, to the losses that an uninterrupted run would have had."""
    session = open_session(runs.run_experiment_of(run))
    stages, codec_from = runs.planned(run)
    _run_stages(session, run, [_stage_name(name) for name in stages], codec_from, progress, done)
    return run


def _stage_name(name: str) -> StageName:
    for known in STAGES:
        if name == known:
            return known
    raise UsageError(f"{name}: unknown stage, expected {', '.join(STAGES)}")


def _run_stages(
    session: Session,
    run: Path,
    stages: Sequence[StageName],
    codec_from: Path | None,
    progress: Progress | None,
    done: Done | None,
) -> None:
    with files.exclusive(run, "training this run", CheckpointError):
        _forget_unsaved(run)
        trackers = build_trackers(session.experiment, run)
        try:
            for name in stages:
                if name == "codec":
                    stage: Stage = _codec_stage(session)
                    codec_from = runs.checkpoint_path(run, "codec")
                else:
                    assert codec_from is not None
                    if len(stages) > 1:
                        outcome = build_codec_cache(session, codec_from, progress=progress)
                        _tell(done, outcome)
                    stage = _operator_stage(session, codec_from)
                _tell(done, _fit(session, run, stage, trackers, progress))
        finally:
            for tracker in trackers:
                tracker.close()


def _forget_unsaved(run: Path) -> None:
    """Drop the metrics of steps that a resumed run will take again."""
    for name in STAGES:
        last = run / "checkpoints" / f"{name}-last.pt"
        step = checkpoints.load(last).step if last.is_file() else 0
        forget_after(run / runs.METRICS, name, step)


def _tell(done: Done | None, outcome: StageOutcome | CacheOutcome) -> None:
    if done:
        done(outcome)


def _fit(
    session: Session, run: Path, stage: Stage, trackers: Sequence[Any], progress: Progress | None
) -> StageOutcome:
    """Run one stage to its end, from where it stopped if it did."""
    fit = Fit(stage, run / "checkpoints", trackers, session.device)
    if fit.last_path.is_file():
        fit.restore()
    report = partial(progress, stage.name) if progress else None
    result = fit.run(report)
    card = None
    if isinstance(stage, CodecStage):
        best = checkpoints.load(fit.best_path, session.device)
        card = report_card(best.codec, validation_frames(session.store, session.device))
        files.write_json(run / "codec_card.json", card.to_dict(), CheckpointError)
    return StageOutcome(stage.name, run, fit.best_path, result, card)


def _codec_stage(session: Session) -> CodecStage:
    experiment = session.experiment
    torch.manual_seed(experiment.seed)
    codec = GridCodec(experiment.codec, geometry_of(session.store))
    codec.set_normalisation(*normalisation(session.card, session.store))
    return CodecStage(
        config=experiment.stages.codec,
        codec=codec.to(session.device),
        store=session.store,
        device=session.device,
        seed=experiment.seed,
        make_checkpoint=partial(_checkpoint, session),
    )


def _operator_stage(session: Session, codec_from: Path) -> OperatorStage:
    experiment, store = session.experiment, session.store
    codec = _prepare_operator(session, codec_from)
    torch.manual_seed(experiment.seed + 1)
    operator = LatentOperator(experiment.operator, token_layout(session, codec))
    surrogate = Surrogate(codec, operator, session.card.parameters, step_time(session))
    return OperatorStage(
        config=experiment.stages.operator,
        surrogate=surrogate.to(session.device),
        store=store,
        cache=open_cache(cache_identity(store, codec, experiment.cache)),
        cards=session.card.parameters,
        stride=experiment.data.stride,
        device=session.device,
        seed=experiment.seed,
        make_checkpoint=partial(_checkpoint, session),
    )


def _prepare_operator(session: Session, codec_from: Path) -> GridCodec:
    """The frozen codec, if it passes its gate."""
    found = checkpoints.load(codec_from, session.device)
    if found.stage == "codec":
        error, gate = found.metrics["valid_nrmse_native"], session.experiment.codec.gate
        if error > gate:
            raise GateError(
                f"{codec_from}: reconstruction nRMSE {error:.2e} is above codec.gate {gate:.2e}",
                hint="train the codec longer, keep more codec.coefficients, or raise codec.gate",
            )
    return found.codec


def _checkpoint(
    session: Session,
    stage: str,
    step: int,
    metrics: dict[str, float],
    codec: GridCodec,
    operator: LatentOperator | None = None,
) -> Checkpoint:
    meta = session.store.metadata
    identity = Identity(
        dataset=meta.dataset,
        version=meta.version,
        data_sha256=meta.data_sha256,
        split_hash=meta.split_hash,
        codec_fingerprint=codec.fingerprint(),
        commit=runs.commit(),
        ups_version=ups.__version__,
        seed=session.experiment.seed,
    )
    return Checkpoint(
        stage=stage,
        step=step,
        experiment=session.experiment,
        identity=identity,
        codec=codec,
        operator=operator,
        parameters=session.card.parameters,
        dt=step_time(session),
        metrics=metrics,
    )
