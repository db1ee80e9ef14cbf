"""The manifest of a latent cache, and readers that refuse a cache which is not the one meant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ups import files, paths
from ups.data.points import PointStore
from ups.data.store import TrajectoryStore
from ups.data.windows import Shards
from ups.errors import CacheError, translated_os_errors

FORMAT = "ups-latents-2"
_READABLE = ("ups-latents-1", FORMAT)
"""The first one knows no repeats and no bfloat16; whatever it says means the same today."""
MANIFEST = "manifest.json"
PROGRESS = "progress.json"
DEPRECATED = "deprecated.json"
CONTEXT = "-context"
"""Shards of `<split>-context` hold what is given with each problem, as if it were one frame."""


@dataclass(frozen=True)
class CacheIdentity:
    """What the tokens are of; two caches are the same only if all of it agrees.

    Attributes:
        codec: Name for people, such as `grid8_1d_32tok`.
        fingerprint: SHA-256 over the codec's options and weights.
        data_sha256: Of the field values that were encoded.
        tokens, dim: Shape of one encoded frame.
        context_dim: Channels of what is given with each problem, 0 for nothing.
        repeats: How often the training split is there: first as it is, then moved.
        moves: Symmetries by which repeats are moved, such as `shift,reflection`.
        seed: Of the moves.
    """

    dataset: str
    version: str
    data_sha256: str
    split_hash: str
    codec: str
    fingerprint: str
    dtype: str
    tokens: int
    dim: int
    context_dim: int = 0
    repeats: int = 1
    moves: str = ""
    seed: int = 0

    @property
    def folder(self) -> Path:
        name = f"{self.codec}-{self.fingerprint[:12]}-{self.dtype}"
        if self.repeats > 1:
            name += f"-x{self.repeats}s{self.seed}"
        return paths.caches_dir() / self.dataset / self.version / name


@dataclass(frozen=True)
class Shard:
    """One file: consecutive trajectories of one split."""

    file: str
    split: str
    trajectories: int
    frames: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A complete cache."""

    identity: CacheIdentity
    shards: tuple[Shard, ...]

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def read(cls, path: Path) -> Manifest:
        try:
            with translated_os_errors(path, "reading", CacheError):
                content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] not in _READABLE:
                raise CacheError(
                    f"{path}: format '{content['format']}', expected '{FORMAT}'",
                    hint="ups cache build, or a newer ups",
                )
            identity = CacheIdentity(**content["identity"])
            return cls(identity, tuple(Shard(**shard) for shard in content["shards"]))
        except (ValueError, KeyError, TypeError) as error:
            raise CacheError(
                f"{path}: not a cache manifest: {error}",
                hint=f"rm -r '{path.parent}' and build it again: ups cache build",
            ) from error

    @property
    def size_bytes(self) -> int:
        return sum(shard.size_bytes for shard in self.shards)

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits with their frames; contexts are not a split of their own."""
        names = dict.fromkeys(shard.split for shard in self.shards)
        return tuple(name for name in names if not name.endswith(CONTEXT))


class LatentCache:
    """Read access to the tokens of a complete cache.

    Args:
        folder: The cache's folder.
        expected: What the tokens must be of; None takes the folder at its word.

    Raises:
        CacheError: The cache is missing, unfinished, truncated, or of other data or another codec.
    """

    def __init__(self, folder: Path, expected: CacheIdentity | None = None) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder / MANIFEST)
        if expected:
            _check_identity(folder, self.manifest.identity, expected)

    def tokens(self, split: str) -> Shards:
        """Memory-mapped tokens of one split: (trajectory, time, tokens, dim).

        The training split has as many trajectories as the store's, times the repeats; those of
        bfloat16 are uint16: `ups.cache.dtypes.as_tensor`.
        """
        return Shards([self._map(shard) for shard in self.shards(split)])

    def shards(self, split: str) -> list[Shard]:
        """The shards of one split, in order."""
        shards = [shard for shard in self.manifest.shards if shard.split == split]
        if not shards:
            raise CacheError(
                f"{self.folder}: holds no '{split}' split, only {', '.join(self.manifest.splits)}",
                hint=f"ups cache build {self.manifest.identity.dataset} --split {split}",
            )
        return shards

    def contexts(self, split: str) -> Shards:
        """What is given with each problem of a split: (trajectory, 1, tokens, context_dim)."""
        return self.tokens(split + CONTEXT)

    def _map(self, shard: Shard) -> npt.NDArray[Any]:
        path = self.folder / shard.file
        problem = size_problem(path, shard)
        if problem:
            raise CacheError(f"{path}: {problem}", hint="ups cache verify")
        return np.load(path, mmap_mode="r")


def repeats_of(identity: CacheIdentity, split: str) -> int:
    """How often the trajectories of a split are in a cache."""
    return identity.repeats if split == "train" else 1


def open_cache(identity: CacheIdentity) -> LatentCache:
    """The finished cache of exactly this data and codec, or an error that says how to make it."""
    folder = identity.folder
    if (folder / MANIFEST).is_file():
        return LatentCache(folder, identity)
    where = f"{identity.dataset}/{identity.version}"
    others = [path.parent.name for path in folder.parent.glob(f"*/{MANIFEST}")]
    if (folder / PROGRESS).is_file():
        problem = f"the cache of {where} by codec {identity.fingerprint[:12]} is unfinished"
    elif others:
        problem = (
            f"no cache of {where} by codec {identity.fingerprint[:12]}, "
            f"only by other codecs: {', '.join(sorted(others))}"
        )
    else:
        problem = f"no cache of {where}"
    raise CacheError(
        problem, hint=f"ups cache build {identity.dataset} --version {identity.version}"
    )


def identity_of(
    store: TrajectoryStore | PointStore,
    *,
    codec: str,
    fingerprint: str,
    dtype: str,
    tokens: int,
    dim: int,
    context_dim: int = 0,
    repeats: int = 1,
    moves: str = "",
    seed: int = 0,
) -> CacheIdentity:
    """The identity that a cache of `store` by this codec has."""
    meta = store.metadata
    return CacheIdentity(
        dataset=meta.dataset,
        version=meta.version,
        data_sha256=meta.data_sha256,
        split_hash=meta.split_hash,
        codec=codec,
        fingerprint=fingerprint,
        dtype=dtype,
        tokens=tokens,
        dim=dim,
        context_dim=context_dim,
        repeats=repeats,
        moves=moves,
        seed=seed,
    )


def list_caches(dataset: str | None = None) -> list[Path]:
    """Folders of all caches, finished or not, of one dataset or all."""
    pattern = f"{dataset or '*'}/*/*"
    return sorted(
        folder
        for folder in paths.caches_dir().glob(pattern)
        if not folder.name.startswith(".")
        and ((folder / MANIFEST).is_file() or (folder / PROGRESS).is_file())
    )


def verify(folder: Path) -> Iterator[tuple[Shard, str | None]]:
    """Read every byte of a cache; yield each shard with its problem, or None."""
    for shard in Manifest.read(folder / MANIFEST).shards:
        path = folder / shard.file
        problem = size_problem(path, shard)
        if not problem and files.sha256_file(path) != shard.sha256:
            problem = "its bytes have changed: sha256 does not match the manifest"
        yield shard, problem


def size_problem(path: Path, shard: Shard) -> str | None:
    """Why a shard cannot be whole, judged by its size."""
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    if size < shard.size_bytes:
        return f"truncated: {size} bytes of {shard.size_bytes}"
    if size > shard.size_bytes:
        return f"too long: {size} bytes, expected {shard.size_bytes}"
    return None


def _check_identity(folder: Path, found: CacheIdentity, expected: CacheIdentity) -> None:
    for key, value in asdict(expected).items():
        other = getattr(found, key)
        if other != value:
            raise CacheError(
                f"{folder}: fingerprint does not match: {key} is '{other}', expected '{value}'",
                hint=f"ups cache build {expected.dataset} --version {expected.version}",
            )
