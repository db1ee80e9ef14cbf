"""Encode a dataset version once: shard by shard, resumable, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ups import files
from ups.cache.format import MANIFEST, PROGRESS, CacheIdentity, LatentCache, Manifest, Shard
from ups.data.store import TrajectoryStore
from ups.errors import CacheError

Array = npt.NDArray[Any]
Encode = Callable[[Array], Array]
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
    """One shard to be written: consecutive entries of a split's list of trajectories."""

    file: str
    split: str
    trajectories: Array


def build_cache(
    store: TrajectoryStore,
    encode: Encode,
    identity: CacheIdentity,
    *,
    splits: Sequence[str] = ("train", "valid"),
    shard_bytes: int = 256 * 2**20,
    progress: Progress | None = None,
) -> Build:
    """Encode every frame of the given splits into memory-mappable shards.

    A build that was killed continues with the first shard that is not finished. The manifest
    appears last; without it nobody takes the folder for a cache.

    Args:
        encode: (frame, *space, channel) physical float32 -> (frame, tokens, dim).
        shard_bytes: Upper size of a shard, but at least one trajectory.
        progress: Called with (frames done, frames in all).

    Raises:
        CacheError: The disk is too small or fills up, or another process builds this cache.
    """
    folder = identity.folder
    jobs = list(_jobs(store, identity, splits, shard_bytes))
    total = sum(len(job.trajectories) for job in jobs) * store.num_frames
    with files.exclusive(folder, "building this cache", CacheError):
        done = _finished(folder, identity)
        _drop_misfits(folder, identity, jobs, done)
        _check_space(folder, identity, total)
        if len(done) < len(jobs):
            files.write_json(folder / PROGRESS, _content(identity, done.values()), CacheError)
        shards: list[Shard] = []
        written = 0
        for job in jobs:
            shard = done.get(job.file)
            if shard is None:
                seen = sum(shard.trajectories * shard.frames for shard in shards)
                shard = _write_shard(folder, job, store, encode, identity, progress, seen, total)
                done[job.file] = shard
                written += 1
                files.write_json(folder / PROGRESS, _content(identity, done.values()), CacheError)
            shards.append(shard)
        others = [shard for shard in done.values() if shard.split not in splits]
        files.write_json(folder / MANIFEST, _content(identity, [*shards, *others]), CacheError)
        with suppress(FileNotFoundError):
            (folder / PROGRESS).unlink()
    return Build(LatentCache(folder, identity), len(jobs) - written, written)


def _jobs(
    store: TrajectoryStore, identity: CacheIdentity, splits: Sequence[str], shard_bytes: int
) -> Iterator[_Job]:
    each = store.num_frames * _frame_bytes(identity)
    count = max(1, shard_bytes // each)
    for split in splits:
        members = store.split(split)
        for start in range(0, len(members), count):
            yield _Job(f"{split}-{start:05d}.npy", split, members[start : start + count])


def _finished(folder: Path, identity: CacheIdentity) -> dict[str, Shard]:
    """Shards that an earlier build finished; those of another identity are removed."""
    for name in (PROGRESS, MANIFEST):  # progress, where there is any, knows more
        if not (folder / name).is_file():
            continue
        manifest = Manifest.read(folder / name)
        if manifest.identity == identity:
            shards = {shard.file: shard for shard in manifest.shards}
            return {f: s for f, s in shards.items() if _is_whole(folder / f, s)}
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return {}


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
    store: TrajectoryStore,
    encode: Encode,
    identity: CacheIdentity,
    progress: Progress | None,
    seen: int,
    total: int,
) -> Shard:
    """Encode and write one shard; hashing and writing overlap with encoding."""
    files.remove_leftovers(folder, job.file)
    shape = (len(job.trajectories), store.num_frames, identity.tokens, identity.dim)
    digest = hashlib.sha256()
    path = folder / job.file
    with files.atomic_path(path, CacheError) as temporary:
        with temporary.open("wb") as file, ThreadPoolExecutor(1) as writer:
            pending = writer.submit(_put, file, digest, _header(shape, identity.dtype))
            for frames in _frames(store, job.trajectories):
                tokens = np.ascontiguousarray(encode(frames), dtype=identity.dtype)
                pending.result()
                pending = writer.submit(_put, file, digest, tokens.data)
                seen += len(frames)
                if progress:
                    progress(seen, total)
            pending.result()
        size = temporary.stat().st_size
    return Shard(job.file, job.split, shape[0], shape[1], size, digest.hexdigest())


def _put(file: io.BufferedWriter, digest: Any, content: bytes | memoryview) -> None:
    digest.update(content)
    file.write(content)


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    buffer = io.BytesIO()
    description = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def _frames(store: TrajectoryStore, trajectories: Array) -> Iterator[Array]:
    """All frames of the given trajectories in order, about a thousand at a time."""
    count = max(1, _FRAMES_PER_CALL // store.num_frames)
    for start in range(0, len(trajectories), count):
        block = store.fields[trajectories[start : start + count]]
        yield block.reshape(-1, *block.shape[2:])


def _frame_bytes(identity: CacheIdentity) -> int:
    return identity.tokens * identity.dim * np.dtype(identity.dtype).itemsize


def _check_space(folder: Path, identity: CacheIdentity, frames: int) -> None:
    needed = frames * _frame_bytes(identity)
    free = shutil.disk_usage(folder).free
    present = sum(path.stat().st_size for path in folder.glob("*.npy"))
    if needed - present > free:
        raise CacheError(
            f"{folder}: the cache needs {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB",
            hint="free some space or set UPS_HOME to a larger disk",
        )


def _content(identity: CacheIdentity, shards: Any) -> dict[str, Any]:
    return Manifest(identity, tuple(shards)).to_json()
