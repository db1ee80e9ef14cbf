"""From trained codecs to cached tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ups import checkpoint as checkpoints
from ups import runs
from ups.cache.build import Build, build_cache
from ups.cache.format import CacheIdentity, identity_of, open_cache
from ups.checkpoint import Checkpoint
from ups.codec.coded import Codec, CodedStore
from ups.config.schema import CacheConfig, Experiment
from ups.errors import CheckpointError
from ups.training.building import coded_task, layout_of
from ups.training.distributed import crew
from ups.training.session import Session, TaskData
from ups.training.tasks import LatentTask

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int, str], None]
_DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class CacheOutcome:
    """What one cache build has to say."""

    task: str
    build: Build
    identity: CacheIdentity


def find_codec(tasks: Sequence[TaskData], like: Experiment | None = None) -> Path:
    """The newest codec checkpoint trained to the end on exactly this data.

    Args:
        like: Only one with the codec options of this experiment.

    Raises:
        CheckpointError: There is none; the hint is the command that makes it.
    """
    others, unfinished = 0, 0
    for run in runs.list_runs(with_stage="codec"):
        experiment = runs.readable_experiment_of(run)
        names = {task.dataset for task in experiment.data.tasks} if experiment else set()
        if experiment is None or not {task.config.dataset for task in tasks} <= names:
            continue
        path = runs.checkpoint_path(run, "codec")
        found = checkpoints.load(path)
        if any(matching(found, task) is None for task in tasks):
            continue
        if like is not None and not _same_options(like, experiment, tasks):
            others += 1
        elif not _is_finished(run):
            unfinished += 1
        else:
            return path
    problem = f"no codec trained on {', '.join(task.store.name for task in tasks)}"
    if others:
        problem += f", only {others} with other options than asked for"
    if unfinished:
        problem += f"; {unfinished} are not trained to the end: ups train --resume RUN"
    raise CheckpointError(problem, hint="ups train --stage codec, with the same --config and --set")


def matching(found: Checkpoint, task: TaskData) -> str | None:
    """The name under which a checkpoint knows a task's very data; None if it does not."""
    meta = task.store.metadata
    wanted = (meta.dataset, meta.data_sha256, meta.split_hash)
    for name, known in found.tasks.items():
        if (known.dataset, known.data_sha256, known.split_hash) == wanted:
            return name
    return None


def _same_options(ours: Experiment, theirs: Experiment, tasks: Sequence[TaskData]) -> bool:
    families = {task.family for task in tasks}
    pairs = [(ours.codec_for(family), theirs.codec_for(family)) for family in families]
    return all(
        a.model_dump(exclude={"gate"}) == b.model_dump(exclude={"gate"}) for a, b in pairs
    )  # fmt: skip


def _is_finished(run: Path) -> bool:
    """Whether the codec stage took its last step; a better codec may come otherwise."""
    last = run / "checkpoints" / "codec-last.pt"
    if not last.is_file():
        return False
    training = checkpoints.load(last).training
    return training is not None and bool(training["finished"])


def codecs_for(session: Session, found: Checkpoint) -> dict[str, Codec]:
    """A checkpoint's codec for each task of the session."""
    chosen = {}
    for task in session.tasks:
        name = matching(found, task)
        if name is None:
            raise CheckpointError(
                f"its codec was not trained on {task.store.name}", hint="ups train --stage codec"
            )
        chosen[task.name] = found.codecs[name]
    return chosen


def build_caches(
    session: Session,
    codec_from: Path,
    *,
    splits: Sequence[str] = ("train", "valid"),
    progress: Progress | None = None,
) -> list[CacheOutcome]:
    """Encode the data of all tasks with the codecs of a checkpoint."""
    codecs = codecs_for(session, checkpoints.load(codec_from, session.device))
    return [
        _build(session, task, codecs[task.name], splits, progress) for task in session.tasks
    ]  # fmt: skip


def _build(
    session: Session,
    task: TaskData,
    codec: Codec,
    splits: Sequence[str],
    progress: Progress | None,
) -> CacheOutcome:
    config = session.experiment.cache
    identity = cache_identity(task, codec, config)
    label = "cache" if len(session.tasks) == 1 else f"cache {task.name}"
    encode, context = encoders_of(coded_task(task, codec), config.dtype)
    build = build_cache(
        task.store,
        encode,
        identity,
        context=context,
        splits=splits,
        shard_bytes=config.shard_bytes,
        progress=(lambda n, total: progress(label, n, total, "")) if progress else None,
        crew=crew(),
    )
    return CacheOutcome(task.name, build, identity)


def encoders_of(
    store: CodedStore, dtype: str
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Rows of the store -> tokens of all frames, and -> contexts as one frame, in memory."""
    kind, frames = _DTYPES[dtype], range(store.num_frames)

    def encode(rows: Array) -> Array:
        return np.asarray(store.encode(rows, frames).to(kind).cpu().numpy())

    def context(rows: Array) -> Array:
        found = store.context(rows)
        assert found is not None
        return np.asarray(found[:, None].to(kind).cpu().numpy())

    return encode, context


def cache_identity(task: TaskData, codec: Codec, config: CacheConfig) -> CacheIdentity:
    return identity_of(
        task.store,
        codec=codec.label,
        fingerprint=codec.fingerprint(),
        dtype=config.dtype,
        tokens=codec.num_tokens,
        dim=codec.latent_dim,
        context_dim=codec.context_dim,
    )


def latent_tasks(session: Session, codecs: dict[str, Codec]) -> list[LatentTask]:
    """Every task with its cache opened.

    Raises:
        CacheError: A cache was not built.
    """
    return [
        LatentTask(
            data=task,
            layout=layout_of(task, codecs[task.name]),
            coded=coded_task(task, codecs[task.name]),
            cache=open_cache(cache_identity(task, codecs[task.name], session.experiment.cache)),
            device=session.device,
        )
        for task in session.tasks
    ]
