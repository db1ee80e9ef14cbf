"""From trained codecs to cached tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ups import checkpoint as checkpoints
from ups import runs
from ups.cache.build import Build, Encoders, build_cache
from ups.cache.dtypes import to_stored
from ups.cache.format import CacheIdentity, LatentCache, identity_of, open_cache
from ups.checkpoint import Checkpoint
from ups.codec.coded import Codec, CodedStore
from ups.config.schema import CacheConfig, Experiment
from ups.errors import CheckpointError
from ups.training.building import coded_task, layout_of
from ups.training.distributed import crew, is_main
from ups.training.dtype_costs import DtypeCost, dtype_costs
from ups.training.repeats import MovedTrajectories, moves_of
from ups.training.residence import Residence, choose_residence
from ups.training.session import Session, TaskData
from ups.training.tasks import LatentTask

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class CacheOutcome:
    """What one cache build has to say.

    Attributes:
        costs: What each number type would cost, where it was asked for.
    """

    task: str
    build: Build
    identity: CacheIdentity
    costs: tuple[DtypeCost, ...] = ()


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
    with_costs: bool = False,
) -> list[CacheOutcome]:
    """Encode the data of all tasks with the codecs of a checkpoint.

    Args:
        with_costs: Measure what each number type costs, on the first process.
    """
    codecs = codecs_for(session, checkpoints.load(codec_from, session.device))
    outcomes = []
    for task in session.tasks:
        codec = codecs[task.name]
        label = "cache" if len(session.tasks) == 1 else f"cache {task.name}"
        outcome = build_task_cache(
            task, codec, session.experiment.cache, splits=splits,
            progress=partial(_told, progress, label) if progress else None,
        )  # fmt: skip
        if with_costs and is_main():
            costs = dtype_costs(task, coded_task(task, codec), outcome.build.cache.manifest)
            outcome = replace(outcome, costs=costs)
        outcomes.append(outcome)
    return outcomes


def _told(progress: Progress, label: str, done: int, total: int) -> None:
    progress(label, done, total, "")


def build_task_cache(
    task: TaskData,
    codec: Codec,
    config: CacheConfig,
    *,
    splits: Sequence[str] = ("train", "valid"),
    progress: Callable[[int, int], None] | None = None,
) -> CacheOutcome:
    """Encode the data of one task, shared among the processes that work together.

    Args:
        progress: Called with (frames done, frames in all).
    """
    identity, store = cache_identity(task, codec, config), coded_task(task, codec)
    encode, context = encoders_of(store, config.dtype)
    build = build_cache(
        task.store,
        encode,
        identity,
        context=context,
        moved=moved_encoders(task, store, config) if config.repeats > 1 else None,
        splits=splits,
        shard_bytes=config.shard_bytes,
        progress=progress,
        crew=crew(),
    )
    return CacheOutcome(task.name, build, identity)


def encoders_of(
    store: CodedStore, dtype: str
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Rows of the store -> tokens of all frames, and -> contexts as one frame, in memory."""
    frames = range(store.num_frames)

    def encode(rows: Array) -> Array:
        return to_stored(store.encode(rows, frames), dtype)

    def context(rows: Array) -> Array:
        found = store.context(rows)
        assert found is not None
        return to_stored(found[:, None], dtype)

    return encode, context


def moved_encoders(
    task: TaskData, store: CodedStore, config: CacheConfig
) -> Callable[[int], Encoders]:
    """Repeat -> encoders of the training split as it is moved then.

    Raises:
        ConfigError: The card has no symmetry that the store's grid has too.
    """
    moved = MovedTrajectories(task, store, moves_of(task), config.seed)

    def encoders(repeat: int) -> Encoders:
        def encode(rows: Array) -> Array:
            return to_stored(moved.encode(rows, repeat), config.dtype)

        def context(rows: Array) -> Array:
            return to_stored(moved.context(rows, repeat)[:, None], config.dtype)

        return encode, context

    return encoders


def cache_identity(task: TaskData, codec: Codec, config: CacheConfig) -> CacheIdentity:
    """The identity of the cache that this config asks for; reads no data.

    Raises:
        ConfigError: Repeats are asked for, and the card has no symmetry to move them by.
    """
    is_moved = config.repeats > 1
    return identity_of(
        task.store,
        codec=codec.label,
        fingerprint=codec.fingerprint(),
        dtype=config.dtype,
        tokens=codec.num_tokens,
        dim=codec.latent_dim,
        context_dim=codec.context_dim,
        repeats=config.repeats,
        moves=",".join(moves_of(task)) if is_moved else "",
        seed=config.seed if is_moved else 0,
    )


def latent_tasks(session: Session, codecs: dict[str, Codec]) -> list[LatentTask]:
    """Every task with its cache opened, and a place chosen for the tokens of all.

    Raises:
        CacheError: A cache was not built.
    """
    config = session.experiment.cache
    caches = {
        task.name: open_cache(cache_identity(task, codecs[task.name], config))
        for task in session.tasks
    }
    residence = _residence(session, list(caches.values()))
    return [
        LatentTask(
            data=task,
            layout=layout_of(task, codecs[task.name]),
            coded=coded_task(task, codecs[task.name]),
            cache=caches[task.name],
            device=session.device,
            residence=residence,
        )
        for task in session.tasks
    ]


def _residence(session: Session, caches: Sequence[LatentCache]) -> Residence:
    """Where the tokens go that training and validation read."""
    shards = [s for one in caches for s in one.manifest.shards if s.split in ("train", "valid")]
    asked, size = session.experiment.cache.residence, sum(shard.size_bytes for shard in shards)
    return choose_residence(asked, size, len(shards), session.device)
