"""Pulling caches: see `ups.cache.travel` for what an artefact holds.

Each part is pulled into a hidden folder beside its place and put there, by a rename, when every
byte of it is verified. What is here already is not pulled, and nothing that is here is overwritten.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ups import files, paths
from ups.cache.format import MANIFEST, CacheIdentity, LatentCache, Manifest
from ups.cache.travel import (
    CODEC,
    CODEC_PT,
    HELD_OUT,
    KIND,
    SHARDS_SHA256,
    TOKENS,
    Progress,
    held_out,
    name_of,
    silent,
)
from ups.data.versions import list_versions, open_store
from ups.errors import (
    CacheError,
    CheckpointError,
    DataError,
    RemoteError,
    UpsError,
    translated_os_errors,
)
from ups.transfer.artefacts import Found, list_artefacts, read_manifest, read_reason
from ups.transfer.manifest import Piece
from ups.transfer.pull import pull
from ups.transfer.remotes import Remote
from ups.transfer.stores import pull_store

Wanted = Callable[[Piece], bool]


@dataclass(frozen=True)
class Arrived:
    """One part of a cache's artefact, on this machine.

    Attributes:
        what: 'tokens', 'codec' or 'data'.
        received_bytes: 0 where it was here already.
    """

    what: str
    where: Path
    received_bytes: int


def caches_on(remote: Remote, dataset: str, version: str | None = None) -> Iterator[Found]:
    """Caches of a dataset that a remote has: the newest first, deprecated ones last.

    Raises:
        RemoteError: The remote cannot be reached, or a manifest there is damaged.
    """
    known = [
        item
        for item in list_artefacts(KIND, remote)
        if item.name.split("/")[0] == dataset and version in (None, item.name.split("/")[1])
    ]
    known.sort(key=lambda item: (not item.deprecated, item.created), reverse=True)
    for item in known:
        manifest = read_manifest(item, item.manifests[0], remote)
        yield Found(manifest, item, read_reason(item, remote))


def identity_in(found: Found) -> CacheIdentity:
    """What the tokens of an artefact are of.

    Raises:
        RemoteError: The artefact is not what its name says, or of a newer version of ups.
    """
    content = {key: one for key, one in found.manifest.identity.items() if key != SHARDS_SHA256}
    try:
        identity = CacheIdentity(**content)
        if name_of(identity) != found.manifest.name:
            raise ValueError(f"its identity is that of {name_of(identity)}")
    except (TypeError, ValueError) as error:
        raise RemoteError(
            f"{found.place}: not a cache that this version of ups knows: {error}",
            hint="pip install --upgrade universal-physics-stack, or push it again",
        ) from error
    return identity


def size_of(found: Found, wanted: Wanted) -> int:
    """Bytes of the objects that hold wanted pieces."""
    return sum(o.size for o in found.manifest.objects if any(wanted(p) for p in o.pieces))


def pull_tokens(
    found: Found, remote: Remote, *, progress: Progress = silent, dry_run: bool = False
) -> Arrived:
    """The cache itself.

    Raises:
        CacheError: What is here under its name is of other data or another codec.
        RemoteError: The remote does not answer, or holds something wrong.
    """
    identity = identity_in(found)
    folder = identity.folder
    if _has_tokens(folder, identity, found):
        return Arrived("tokens", folder, 0)
    if dry_run:
        return Arrived("tokens", folder, size_of(found, _is_token))
    staging = folder.with_name(f".pull-{found.manifest.identity16}")
    received = _fetch(found, staging, remote, _is_token, progress)
    _install_tokens(staging / TOKENS, folder, identity)
    _remove(staging)
    return Arrived("tokens", folder, received)


def _is_token(piece: Piece) -> bool:
    return piece.path.startswith(TOKENS)


def _has_tokens(folder: Path, identity: CacheIdentity, found: Found) -> bool:
    """Whether every shard is here; there may be more, of other splits."""
    if not (folder / MANIFEST).is_file():
        return False
    here = {s.file: s.size_bytes for s in LatentCache(folder, identity).manifest.shards}
    pieces = [piece for item in found.manifest.objects for piece in item.pieces]
    wanted = {p.path.removeprefix(TOKENS): p.size for p in pieces if _is_token(p)}
    del wanted[MANIFEST]
    return all(
        here.get(name) == size and (folder / name).is_file() and (folder / name).stat().st_size
        == size for name, size in wanted.items()
    )  # fmt: skip


def _install_tokens(staged: Path, folder: Path, identity: CacheIdentity) -> None:
    """Put a cache in its place; splits that only the one here has stay."""
    arrived = LatentCache(staged, identity).manifest
    with files.exclusive(folder, "building this cache", CacheError):
        if not (folder / MANIFEST).is_file():
            if folder.is_dir():  # an unfinished build of the same tokens
                shutil.rmtree(folder)
            _rename(staged, folder, CacheError)
            return
        before = LatentCache(folder, identity).manifest.shards
        splits = {shard.split for shard in arrived.shards}
        kept = tuple(shard for shard in before if shard.split not in splits)
        for shard in arrived.shards:
            _rename(staged / shard.file, folder / shard.file, CacheError)
        whole = Manifest(identity, (*arrived.shards, *kept))
        files.write_json(folder / MANIFEST, whole.to_json(), CacheError)
        for gone in {shard.file for shard in before} - {shard.file for shard in whole.shards}:
            (folder / gone).unlink()


def pull_codec(
    found: Found, remote: Remote, *, progress: Progress = silent, dry_run: bool = False
) -> Arrived:
    """The run that trained the codec; where another run has its name, as `<name>.2`.

    Raises:
        RemoteError: The remote does not answer, or holds something wrong.
    """
    name = _codec_run_in(found)
    place = _place_for(paths.runs_dir() / name, str(found.manifest.labels.get("codec_sha256")))
    if place.exists():
        return Arrived("codec", place, 0)
    if dry_run:
        return Arrived("codec", place, size_of(found, _is_codec))
    staging = paths.runs_dir() / f".pull-{found.manifest.identity16}"
    received = _fetch(found, staging, remote, _is_codec, progress)
    place.parent.mkdir(parents=True, exist_ok=True)
    _rename(staging / CODEC / name, place, CheckpointError)
    _remove(staging)
    return Arrived("codec", place, received)


def _is_codec(piece: Piece) -> bool:
    return piece.path.startswith(CODEC)


def _codec_run_in(found: Found) -> str:
    """`name/id` of the codec's run, as the paths in the manifest say."""
    for path in found.manifest.files:
        if path.startswith(CODEC) and path.endswith(f"/{CODEC_PT}"):
            return path.removeprefix(CODEC).removesuffix(f"/{CODEC_PT}")
    raise RemoteError(
        f"{found.place}: holds no codec", hint="push it again: ups cache push --repair"
    )


def _place_for(folder: Path, sha256: str) -> Path:
    """Where the run is already, or the first name that no other run has."""
    attempt, place = 1, folder
    while place.exists():
        if (place / CODEC_PT).is_file() and files.sha256_file(place / CODEC_PT) == sha256:
            break
        attempt += 1
        place = folder.with_name(f"{folder.name}.{attempt}")
    return place


def pull_data(
    found: Found, remote: Remote, *, progress: Progress = silent, dry_run: bool = False
) -> Arrived:
    """The store without its training trajectories, unless the version is here.

    Raises:
        DataError: What is here under the version's name has other values, or not enough of them.
        RemoteError: The remote does not answer, or holds something wrong.
    """
    identity = identity_in(found)
    if identity.version in list_versions(identity.dataset):
        return Arrived("data", _check_here(found, identity), 0)
    done = pull_store(
        found, remote, wanted=_is_data, claimed=held_out, progress=progress, dry_run=dry_run
    )
    return Arrived("data", done.path, done.received_bytes)


def _is_data(piece: Piece) -> bool:
    return not _is_token(piece) and not _is_codec(piece)


def _check_here(found: Found, identity: CacheIdentity) -> Path:
    """The store that is here, if it is the one meant and holds what the artefact would bring."""
    store = open_store(identity.dataset, identity.version)
    if store.metadata.data_sha256 != identity.data_sha256:
        raise DataError(
            f"{store.path}: has other values than what {found.manifest.name} was made of: "
            f"data_sha256 {store.metadata.data_sha256[:12]}, not {identity.data_sha256[:12]}",
            hint="move it away, or make a cache of it: ups cache build",
        )
    if store.presence is not None:
        missing = store.presence.missing(np.flatnonzero(held_out(store.splits)))
        if len(missing):
            raise DataError(
                f"{store.path.parent}: {len(missing)} {' and '.join(HELD_OUT)} trajectories are "
                "not here",
                hint=f"ups data pull {identity.dataset} --version {identity.version} "
                f"--splits {','.join(HELD_OUT)}",
            )
    return store.path


def _fetch(found: Found, staging: Path, remote: Remote, wanted: Wanted, progress: Progress) -> int:
    with translated_os_errors(staging, "making it"):
        staging.parent.mkdir(parents=True, exist_ok=True)
    pulled = pull(found, staging, remote, wanted=wanted, progress=progress)
    return pulled.fetched_bytes


def _remove(staging: Path) -> None:
    """What is left of a staging folder, and its lock."""
    shutil.rmtree(staging)
    staging.with_name(f".{staging.name}.lock").unlink(missing_ok=True)


def _rename(source: Path, target: Path, family: type[UpsError]) -> None:
    with translated_os_errors(target, "writing", family):
        os.replace(source, target)
