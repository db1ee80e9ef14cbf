"""What a remote no longer needs: orphan uploads, orphan objects, deprecated artefacts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from ups.errors import RemoteError
from ups.transfer.artefacts import DEPRECATED, Found, Listing, read_manifest, scan
from ups.transfer.manifest import KINDS
from ups.transfer.remotes import Remote

ORPHAN_S = 24 * 3600.0
"""Younger objects without a manifest belong to a push that may still go on."""


@dataclass(frozen=True)
class Cleaned:
    """What was removed, or would be.

    Attributes:
        uploads: Multipart uploads that were begun and never completed.
        objects: Places of objects that no manifest names.
        size: Bytes of `objects`.
    """

    uploads: tuple[str, ...]
    objects: tuple[str, ...]
    size: int


def clean(
    remote: Remote,
    *,
    dry_run: bool = False,
    older_than_s: float = ORPHAN_S,
    notice: Callable[[str], object] = lambda line: None,
) -> Cleaned:
    """Remove what cut-off pushes left on a remote. Do not run it while somebody pushes there.

    Orphan uploads go whatever their age; objects only if they are older than `older_than_s` by the
    remote's clock and no manifest of their artefact names them. Where a manifest is damaged,
    nothing can be said and all objects stay.

    Args:
        notice: Called with one line about each artefact that could not be judged.

    Raises:
        RemoteError: The remote cannot be reached.
    """
    rclone = remote.rclone()
    uploads = tuple(rclone.unfinished_uploads(remote.path()))
    orphans: list[str] = []
    size = 0
    for listing in (item for kind in KINDS for item in scan(kind, remote)):
        names = _orphans(listing, remote, time.time() - older_than_s, notice)
        orphans += [f"{listing.folder}/objects/{name}" for name in names]
        size += sum(listing.objects[name].size for name in names)
        if not dry_run:
            rclone.delete(remote.path(f"{listing.folder}/objects"), names)
    if uploads and not dry_run:
        rclone.remove_unfinished_uploads(remote.path())
    return Cleaned(uploads, tuple(orphans), size)


def _orphans(
    listing: Listing, remote: Remote, before: float, notice: Callable[[str], object]
) -> list[str]:
    """Names of old objects that no manifest of the artefact knows."""
    old = [name for name, entry in listing.objects.items() if entry.modified < before]
    if not old:
        return []
    try:
        manifests = [read_manifest(listing, name, remote) for name in listing.manifests]
    except RemoteError as error:
        notice(f"{listing.folder}: left as it is: {error}")
        return []
    known = {item.sha256 for manifest in manifests for item in manifest.objects}
    return [name for name in old if name not in known]


def deprecate(found: Found, reason: str, remote: Remote) -> None:
    """Say of an artefact that it is not to be used; `find` then prefers any other one."""
    said = {"reason": reason, "when": datetime.now(UTC).isoformat(timespec="seconds")}
    place = remote.path(f"{found.listing.folder}/{DEPRECATED}")
    remote.rclone().write(place, (json.dumps(said) + "\n").encode())


def prune(
    kind: str,
    remote: Remote,
    name: str | None = None,
    *,
    dry_run: bool = False,
    which: Callable[[Listing], bool] = lambda listing: True,
) -> list[Listing]:
    """Remove the deprecated artefacts of a kind, or of one name of it.

    The manifests go first, so that no reader sees an artefact without its objects.

    Args:
        which: Of the deprecated ones, only these.

    Returns:
        What was removed, or would be.

    Raises:
        RemoteError: The remote cannot be reached.
    """
    deprecated = [listing for listing in scan(kind, remote, name) if listing.deprecated]
    chosen = list(filter(which, deprecated))
    rclone = remote.rclone()
    for listing in [] if dry_run else chosen:
        rclone.delete(remote.path(listing.folder), listing.manifests)
        rclone.purge(remote.path(listing.folder))
    return chosen
