"""From files here to a version of a W&B artifact, which is whole or not there at all.

Every version holds all its objects: W&B finds by their hashes what it has already, and does not
take it twice. For that all packed objects are on the disk at once, unlike in a push elsewhere.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from ups import paths
from ups.errors import DataError, RemoteError, translated_os_errors
from ups.transfer.artefacts import Listing, look
from ups.transfer.manifest import Manifest, Object, identity16
from ups.transfer.packing import Shard, hash_whole, pack, write_tar
from ups.transfer.push import (
    Progress,
    Pushed,
    Source,
    check_unchanged,
    manifest_of,
    merged,
    newest_of,
    same,
    stamps_of,
)
from ups.transfer.remotes import Remote
from ups.transfer.scratch import scratch_folder
from ups.transfer.wandb_artifacts import post, service_of
from ups.transfer.wandb_service import offline_because

logger = logging.getLogger(__name__)


def push_wandb(
    source: Source,
    remote: Remote,
    *,
    progress: Progress = lambda done, total: None,
    dry_run: bool = False,
    repair: bool = False,
) -> Pushed:
    """As `ups.transfer.push.push`, to W&B.

    Args:
        repair: Send a new version even if the one that is there says the same.

    Raises:
        DataError: A file is missing, changed while it was read, or the disk is full.
        RemoteError: It was not sent. Without a network or a key it was queued, and the hint is the
            command that sends it.
    """
    there, newest = _there(source, remote)
    if newest is not None and not repair and not source.snapshot:
        return _present(newest)
    shards = pack(source.pieces)
    if dry_run:
        return Pushed(source.folder, "", len(shards), source.size, 0)
    _check_space(shards)
    stamps = stamps_of(source.pieces)
    with scratch_folder("push") as staging:
        objects, local = _prepared(shards, staging, progress)
        check_unchanged(stamps)
        manifest = manifest_of(source, merged(objects), there)
        if newest is not None and not repair and same(newest, manifest):
            return _present(newest)
        unused = post(manifest, local, service_of(remote))
    if unused:
        logger.warning("W&B: no lineage to %s: not there", ", ".join(unused))
    size = manifest.size
    return Pushed(manifest.place, manifest.sha256, len(manifest.objects), size, 0)


def _there(source: Source, remote: Remote) -> tuple[Listing, Manifest | None]:
    """What W&B has of the artefact; nothing where it cannot be asked, which the sending tells."""
    nothing = Listing(source.kind, source.name, identity16(source.identity))
    if offline_because():
        return nothing, None
    try:
        there = look(nothing.kind, nothing.name, nothing.identity16, remote)
    except RemoteError:
        return nothing, None
    return there, newest_of(there, remote)


def _present(manifest: Manifest) -> Pushed:
    return Pushed(manifest.place, manifest.sha256, len(manifest.objects), 0, manifest.size)


def _prepared(
    shards: Sequence[Shard], staging: Path, progress: Progress
) -> tuple[list[Object], dict[str, Path]]:
    """Every object, and the local file that holds its bytes."""
    objects: list[Object] = []
    local: dict[str, Path] = {}
    done, total = 0, sum(shard.size for shard in shards)
    for index, shard in enumerate(shards):
        if shard.whole:
            path = shard.pieces[0].source
            item = hash_whole(shard)
        else:
            path = staging / f"{index}.tar"
            item = write_tar(shard, path)
        objects.append(item)
        local.setdefault(item.sha256, path)
        done += shard.size
        progress(done, total)
    return objects, local


def _check_space(shards: Sequence[Shard]) -> None:
    """Packed objects wait on the disk until W&B has them."""
    needed = sum(shard.size for shard in shards if not shard.whole)
    home = paths.home()
    with translated_os_errors(home, "writing"):
        home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
    if needed > free:
        raise DataError(
            f"{paths.display(home)}: {needed / 1e9:.2f} GB are to be packed for W&B, the disk has "
            f"{free / 1e9:.2f} GB free",
            hint="free some space, set UPS_HOME to a larger disk, or push to another remote",
        )
