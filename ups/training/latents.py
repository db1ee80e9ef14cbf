"""From a trained codec to cached tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from ups import checkpoint as checkpoints
from ups import runs
from ups.cache.build import Build, build_cache
from ups.cache.format import CacheIdentity, identity_of
from ups.codec.grid import GridCodec
from ups.config.models import GridCodecConfig
from ups.config.schema import CacheConfig, Experiment
from ups.data.store import TrajectoryStore
from ups.errors import CheckpointError
from ups.training.session import Session

Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class CacheOutcome:
    """What one cache build has to say."""

    build: Build
    identity: CacheIdentity


def find_codec(store: TrajectoryStore, options: GridCodecConfig | None = None) -> Path:
    """The newest codec trained to the end on exactly this data, with these options if given.

    Raises:
        CheckpointError: There is none; the hint is the command that makes it.
    """
    data, others, unfinished = store.metadata, 0, 0
    for run in runs.list_runs(with_stage="codec"):
        experiment = runs.readable_experiment_of(run)
        if experiment is None or experiment.data.dataset != data.dataset:
            continue
        path = runs.checkpoint_path(run, "codec")
        found = checkpoints.load(path)
        identity = found.identity
        if (identity.data_sha256, identity.split_hash) != (data.data_sha256, data.split_hash):
            continue
        if options is not None and _without_gate(found.codec.config) != _without_gate(options):
            others += 1
        elif not _is_finished(run, experiment):
            unfinished += 1
        else:
            return path
    problem = f"no codec trained on {store.name}"
    if others:
        problem += f", only {others} with other options than asked for"
    if unfinished:
        problem += f"; {unfinished} are not trained to the end: ups train --resume RUN"
    raise CheckpointError(problem, hint="ups train --stage codec, with the same --config and --set")


def _is_finished(run: Path, experiment: Experiment) -> bool:
    """Whether the codec stage took its last step; a better codec may come otherwise."""
    last = run / "checkpoints" / "codec-last.pt"
    return last.is_file() and checkpoints.load(last).step >= experiment.stages.codec.steps


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
