"""Encode a dataset version once: shard by shard, resumable, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ups import files
from ups.cache.dtypes import stored_dtype, to_stored
from ups.cache.format import (
    CONTEXT,
    MANIFEST,
    PROGRESS,
    CacheIdentity,
    LatentCache,
    Manifest,
    Shard,
    repeats_of,
)
from ups.crew import Crew
from ups.data.points import PointStore
from ups.data.store import TrajectoryStore
from ups.errors import CacheError

Array = npt.NDArray[Any]
Store = TrajectoryStore | PointStore
Encode = Callable[[Array], Array]
Encoders = tuple[Encode, Encode | None]
"""Of frames, and of what is given with each problem."""
Progress = Callable[[int, int], None]
_FRAMES_PER_CALL = 1024


@dataclass(frozen=True)
class Build:
    """A finished cache, and how many of its shards were there already."""

    cache: LatentCache
    reused_shards: int
    written_shards: int


@dataclass(frozen=True)
class _Job:
    """One shard to be written: consecutive entries of a split's list of trajectories.

    Attributes:
        repeat: 0 for the trajectories as they are.
    """

    file: str
    split: str
    trajectories: Array
    frames: int
    dim: int
    repeat: int = 0

    @property
    def is_context(self) -> bool:
        return self.split.endswith(CONTEXT)


def build_cache(
    store: Store,
    encode: Encode,
    identity: CacheIdentity,
    *,
    context: Encode | None = None,
    moved: Callable[[int], Encoders] | None = None,
    splits: Sequence[str] = ("train", "valid"),
    shard_bytes: int = 256 * 2**20,
    progress: Progress | None = None,
    crew: Crew | None = None,
) -> Build:
    """Encode every frame of the given splits into memory-mappable shards.

    A build that was killed continues with the shards that are not finished. The manifest appears
    last; without it nobody takes the folder for a cache.

    Args:
        encode: Rows of the store -> (trajectory, time, tokens, dim).
        context: Rows of the store -> (trajectory, 1, tokens, context_dim), where
            `identity.context_dim` is not 0.
        moved: Repeat, from 1 on -> encoders of the training split as it is moved then, where
            `identity.repeats` is not 1.
        shard_bytes: Upper size of a shard, but at least one trajectory.
        progress: Called with (frames done, frames in all).

    Raises:
        CacheError: The disk is too small or fills up, or another process builds this cache.
    """
    folder, crew = identity.folder, crew or Crew()
    jobs = list(_jobs(store, identity, splits, shard_bytes))
    lock = files.exclusive(folder, "building this cache", CacheError) if crew.rank == 0 else None
    with lock or nullcontext():
        if crew.rank == 0:
            _prepare(folder, identity, jobs)
        crew.gather([])
        done = _finished(folder, identity)
        crew.gather([])
        missing = [job for job in jobs if job.file not in done]
        own = missing[crew.rank :: crew.size]
        encoders = _Encoders((encode, context), moved)
        written = _write_shards(folder, own, store, encoders, identity, done, crew,
                                _Meter(progress, jobs, done, own))  # fmt: skip
        done |= {shard.file: shard for shard in crew.gather(written)}
        if crew.rank == 0:
            shards = [done[job.file] for job in jobs]
            names = {job.split for job in jobs}
            others = [shard for shard in done.values() if shard.split not in names]
            files.write_json(folder / MANIFEST, _content(identity, [*shards, *others]), CacheError)
            for path in folder.glob(PROGRESS.replace(".json", "*.json")):
                path.unlink(missing_ok=True)
        crew.gather([])
    return Build(LatentCache(folder, identity), len(jobs) - len(missing), len(missing))


@dataclass(frozen=True)
class _Encoders:
    still: Encoders
    moved: Callable[[int], Encoders] | None

    def of(self, job: _Job) -> Encode:
        pair = self.still
        if job.repeat:
            assert self.moved is not None
            pair = self.moved(job.repeat)
        encode = pair[1] if job.is_context else pair[0]
        assert encode is not None
        return encode


class _Meter:
    """Counts encoded frames, those of shards that were there included."""

    def __init__(
        self, progress: Progress | None, jobs: list[_Job], done: dict[str, Shard], own: list[_Job]
    ) -> None:
        def frames(some: list[_Job]) -> int:
            return sum(len(job.trajectories) * job.frames for job in some if not job.is_context)

        self._progress, self._total = progress, frames(jobs)
        missing = [job for job in jobs if job.file not in done]
        self._share = frames(missing) / max(frames(own), 1)
        self._seen = float(self._total - frames(missing))

    def add(self, frames: int) -> None:
        self._seen += frames * self._share
        if self._progress:
            self._progress(min(round(self._seen), self._total), self._total)


def _prepare(folder: Path, identity: CacheIdentity, jobs: list[_Job]) -> None:
    """Clear what does not fit, and claim the folder for this build."""
    done = _finished(folder, identity)
    files.remove_leftovers(folder, "*")
    _drop_misfits(folder, identity, jobs, done)
    _check_space(folder, identity, jobs)
    if any(job.file not in done for job in jobs):
        files.write_json(folder / PROGRESS, _content(identity, done.values()), CacheError)


def _write_shards(
    folder: Path,
    jobs: list[_Job],
    store: Store,
    encoders: _Encoders,
    identity: CacheIdentity,
    done: dict[str, Shard],
    crew: Crew,
    meter: _Meter,
) -> list[Shard]:
    """Write this process' shards; each is recorded as soon as it is whole."""
    record = folder / (PROGRESS.replace(".json", f"-{crew.rank}.json") if crew.rank else PROGRESS)
    written: list[Shard] = []
    for job in jobs:
        encode = encoders.of(job)
        written.append(_write_shard(folder, job, store.num_frames, encode, identity, meter))
        known = [*(done.values() if not crew.rank else ()), *written]
        files.write_json(record, _content(identity, known), CacheError)
    return written


def _jobs(
    store: Store, identity: CacheIdentity, splits: Sequence[str], shard_bytes: int
) -> Iterator[_Job]:
    kinds = [("", store.num_frames, identity.dim)]
    if identity.context_dim:
        kinds.append((CONTEXT, 1, identity.context_dim))
    for split in splits:
        members = store.split(split)
        for suffix, frames, dim in kinds:
            count = max(1, shard_bytes // (frames * _frame_bytes(identity, dim)))
            for repeat in range(repeats_of(identity, split)):
                for start in range(0, len(members), count):
                    name, place = split + suffix, repeat * len(members) + start
                    chosen = members[start : start + count]
                    yield _Job(f"{name}-{place:05d}.npy", name, chosen, frames, dim, repeat)


def _finished(folder: Path, identity: CacheIdentity) -> dict[str, Shard]:
    """Shards that an earlier build finished; those of another identity are removed."""
    records = sorted(folder.glob(PROGRESS.replace(".json", "*.json")))
    found: dict[str, Shard] = {}
    for path in [*records, folder / MANIFEST]:  # progress, where there is any, knows more
        if not path.is_file():
            continue
        manifest = Manifest.read(path)
        if manifest.identity != identity:
            shutil.rmtree(folder)
            found = {}
            break
        found |= {s.file: s for s in manifest.shards if _is_whole(folder / s.file, s)}
        if path.name == PROGRESS and (folder / MANIFEST).is_file():
            break
    folder.mkdir(parents=True, exist_ok=True)
    return found


def _drop_misfits(
    folder: Path, identity: CacheIdentity, jobs: Sequence[_Job], done: dict[str, Shard]
) -> None:
    """Remove what a build with another shard size has left of the splits to be written.

    A shard is named by its first trajectory, so name and length say what is in it.
    """
    wanted = {job.file: len(job.trajectories) for job in jobs}
    splits = {job.split for job in jobs}
    misfits = [
        shard.file
        for shard in done.values()
        if shard.split in splits and wanted.get(shard.file) != shard.trajectories
    ]
    if not misfits:
        return
    for file in misfits:
        del done[file]
    files.write_json(folder / PROGRESS, _content(identity, done.values()), CacheError)
    (folder / MANIFEST).unlink(missing_ok=True)
    for file in misfits:
        (folder / file).unlink()


def _is_whole(path: Path, shard: Shard) -> bool:
    return path.is_file() and path.stat().st_size == shard.size_bytes


def _write_shard(
    folder: Path,
    job: _Job,
    num_frames: int,
    encode: Encode,
    identity: CacheIdentity,
    meter: _Meter,
) -> Shard:
    """Encode and write one shard; hashing and writing overlap with encoding."""
    shape = (len(job.trajectories), job.frames, identity.tokens, job.dim)
    digest = hashlib.sha256()
    per_call = max(1, _FRAMES_PER_CALL // num_frames)
    with files.atomic_path(folder / job.file, CacheError) as temporary:
        with temporary.open("wb") as file, ThreadPoolExecutor(1) as writer:
            pending = writer.submit(_put, file, digest, _header(shape, identity.dtype))
            for start in range(0, len(job.trajectories), per_call):
                chosen = job.trajectories[start : start + per_call]
                tokens = to_stored(encode(chosen), identity.dtype)
                if tokens.shape[1:] != shape[1:]:
                    raise CacheError(f"{job.file}: encoded as {tokens.shape[1:]}, not {shape[1:]}")
                pending.result()
                pending = writer.submit(_put, file, digest, tokens.data)
                if not job.is_context:
                    meter.add(len(chosen) * job.frames)
            pending.result()
        size = temporary.stat().st_size
    return Shard(job.file, job.split, shape[0], shape[1], size, digest.hexdigest())


def _put(file: io.BufferedWriter, digest: Any, content: bytes | memoryview) -> None:
    digest.update(content)
    file.write(content)


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    buffer = io.BytesIO()
    description = {"descr": stored_dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def _frame_bytes(identity: CacheIdentity, dim: int) -> int:
    return identity.tokens * dim * stored_dtype(identity.dtype).itemsize


def _check_space(folder: Path, identity: CacheIdentity, jobs: list[_Job]) -> None:
    needed = sum(
        len(job.trajectories) * job.frames * _frame_bytes(identity, job.dim) for job in jobs
    )
    free = shutil.disk_usage(folder).free
    present = sum(path.stat().st_size for path in folder.glob("*.npy"))
    if needed - present > free:
        raise CacheError(
            f"{folder}: the cache needs {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB",
            hint="free some space or set UPS_HOME to a larger disk",
        )


def _content(identity: CacheIdentity, shards: Any) -> dict[str, Any]:
    return Manifest(identity, tuple(shards)).to_json()
