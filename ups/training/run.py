"""Train an experiment: make the run, find what each stage stands on, run the stages in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import torch

import ups
from ups import checkpoint as checkpoints
from ups import files, registry, runs
from ups.cache.build import Build, build_cache
from ups.cache.format import CacheIdentity, identity_of, open_cache
from ups.checkpoint import Checkpoint, Identity
from ups.codec.grid import GridCodec, GridGeometry
from ups.codec.report_card import ReportCard, report_card
from ups.config.schema import CacheConfig, Experiment, GridCodecConfig
from ups.data.store import TrajectoryStore
from ups.errors import CheckpointError, DataError, GateError, UsageError
from ups.models.operator import LatentOperator, TokenLayout
from ups.models.surrogate import Surrogate
from ups.registry import DatasetCard
from ups.training.loop import Fit, FitResult, Stage
from ups.training.stages import CodecStage, OperatorStage, validation_frames
from ups.training.tracking import build_trackers, forget_after

StageName = Literal["codec", "operator"]
STAGES: tuple[StageName, ...] = ("codec", "operator")
Progress = Callable[[str, int, int, str], None]
Done = Callable[["StageOutcome | CacheOutcome"], None]


@dataclass(frozen=True)
class StageOutcome:
    """What one finished stage has to say."""

    stage: str
    run: Path
    checkpoint: Path
    fit: FitResult
    card: ReportCard | None = None


@dataclass(frozen=True)
class CacheOutcome:
    """What one cache build has to say."""

    build: Build
    identity: CacheIdentity


@dataclass
class Session:
    """An experiment with its data opened and its device chosen.

    Attributes:
        experiment: Resolved: `data.version` is the version that was opened.
    """

    experiment: Experiment
    store: TrajectoryStore
    card: DatasetCard
    device: torch.device


def open_session(experiment: Experiment) -> Session:
    """Open the data of an experiment and write down which version it is.

    Raises:
        DataError: There is no such dataset or version, or it cannot be stepped through.
        UsageError: The device does not exist.
    """
    card = registry.load_card(experiment.data.dataset)
    store = TrajectoryStore.open(experiment.data.dataset, experiment.data.version)
    if store.metadata.dt is None:
        raise DataError(f"{store.name}: one frame only; an operator in time cannot be trained")
    data = experiment.data.model_copy(update={"version": store.metadata.version})
    if experiment.threads:
        torch.set_num_threads(experiment.threads)
    resolved = experiment.model_copy(update={"data": data})
    return Session(resolved, store, card, find_device(experiment.device))


def find_device(name: str) -> torch.device:
    """'auto' is the first GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device: '{name}' is not a device", hint="cpu, cuda, cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("device: no CUDA device here", hint="--set device=cpu, or ups doctor")
    return device


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
    surrogate = Surrogate(codec, operator, session.card.parameters, _dt(session))
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


def find_codec(store: TrajectoryStore, options: GridCodecConfig | None = None) -> Path:
    """The newest codec trained on exactly this data, with these options where given.

    Raises:
        CheckpointError: There is none; the hint is the command that makes it.
    """
    data, others = store.metadata, 0
    for run in runs.list_runs(with_stage="codec"):
        if runs.run_experiment_of(run).data.dataset != data.dataset:
            continue
        path = runs.checkpoint_path(run, "codec")
        found = checkpoints.load(path)
        identity = found.identity
        if (identity.data_sha256, identity.split_hash) != (data.data_sha256, data.split_hash):
            continue
        if options is None or _without_gate(found.codec.config) == _without_gate(options):
            return path
        others += 1
    problem = f"no codec trained on {store.name}"
    if others:
        problem = f"{others} codecs trained on {store.name}, but with other options than asked for"
    raise CheckpointError(problem, hint="ups train --stage codec, with the same --config and --set")


def _without_gate(options: GridCodecConfig) -> dict[str, Any]:
    return options.model_dump(exclude={"gate"})


def build_codec_cache(
    session: Session,
    codec_from: Path,
    *,
    splits: Sequence[str] = ("train", "valid"),
    progress: Progress | None = None,
) -> CacheOutcome:
    """Encode the session's data with the codec of a checkpoint."""
    codec = checkpoints.load(codec_from, session.device).codec
    config = session.experiment.cache
    identity = cache_identity(session.store, codec, config)

    build = build_cache(
        session.store,
        encoder_of(codec, config.dtype, session.device),
        identity,
        splits=splits,
        shard_bytes=config.shard_bytes,
        progress=(lambda n, total: progress("cache", n, total, "")) if progress else None,
    )
    return CacheOutcome(build, identity)


def encoder_of(
    codec: GridCodec, dtype: str, device: torch.device
) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """The codec's encoder from frames in memory to tokens of the cache's type in memory."""
    kind = {"float16": torch.float16, "float32": torch.float32}[dtype]

    @torch.no_grad()
    def encode(frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return codec.encode(torch.from_numpy(frames).to(device)).to(kind).cpu().numpy()

    return encode


def cache_identity(store: TrajectoryStore, codec: GridCodec, config: CacheConfig) -> CacheIdentity:
    return identity_of(
        store,
        codec=codec.label,
        fingerprint=codec.fingerprint(),
        dtype=config.dtype,
        tokens=codec.num_tokens,
        dim=codec.latent_dim,
    )


def geometry_of(store: TrajectoryStore) -> GridGeometry:
    """Where the store's grid points are."""
    return GridGeometry(
        space=store.space,
        origin=tuple(float(coord[0]) for coord in store.coords),
        spacing=tuple(float((c[-1] - c[0]) / (len(c) - 1)) for c in store.coords),
        periodic=store.metadata.periodic,
        fields=store.metadata.fields,
    )


def normalisation(card: DatasetCard, store: TrajectoryStore) -> tuple[list[float], list[float]]:
    """Shift and scale of each channel, by the card's rule, from the training split."""
    shift, scale = [], []
    for index, field in enumerate(card.fields):
        standard = field.normalisation == "standard"
        shift.append(float(store.statistics["mean"][index]) if standard else 0.0)
        size = float(store.statistics["std" if standard else "rms"][index])
        if size <= 0:
            raise DataError(
                f"{store.name}: field '{field.name}' is constant", hint="ups data audit"
            )
        scale.append(size)
    return shift, scale


def token_layout(session: Session, codec: GridCodec) -> TokenLayout:
    conserved = session.card.pde.conserved
    return TokenLayout(
        anchors=codec.anchors,
        periodic=codec.geometry.periodic,
        num_coefficients=codec.num_coefficients,
        points_per_token=codec.config.patch_size**codec.geometry.num_dims,
        conserved=tuple(name in conserved for name in codec.geometry.fields),
        num_parameters=len(session.card.parameters),
        dt=_dt(session),
    )


def _dt(session: Session) -> float:
    assert session.store.metadata.dt is not None
    return session.store.metadata.dt * session.experiment.data.stride


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
        dt=_dt(session),
        metrics=metrics,
    )
