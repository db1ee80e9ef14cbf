"""Which artefacts a remote has, and reading one's manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ups.errors import RemoteError
from ups.transfer.manifest import STAMP, Manifest, Object, check_name, push_command, stamp_of
from ups.transfer.rclone import Entry
from ups.transfer.remotes import Remote

DEPRECATED = "deprecated.json"
_INSIDE = re.compile(r"(.+)/([0-9a-f]{16})/(?:(objects)/)?([^/]+)")


@dataclass
class Listing:
    """An artefact as a listing of a remote shows it; nothing of it has been read.

    Attributes:
        manifests: Names of the manifests, the newest first; none while the first push goes on.
        objects: What is in `objects/`, by name.
        deprecated: Somebody has said that it is not to be used.
    """

    kind: str
    name: str
    identity16: str
    manifests: list[str] = field(default_factory=list)
    objects: dict[str, Entry] = field(default_factory=dict)
    deprecated: bool = False

    @property
    def folder(self) -> str:
        return f"{self.kind}/{self.name}/{self.identity16}"

    @property
    def created(self) -> str:
        """UTC of the newest manifest; empty without one."""
        return (stamp_of(self.manifests[0]) or "") if self.manifests else ""

    @property
    def age_s(self) -> float:
        """Seconds since its newest manifest was written; endless without one."""
        if not self.created:
            return float("inf")
        written = datetime.strptime(self.created, STAMP).replace(tzinfo=UTC)
        return (datetime.now(UTC) - written).total_seconds()

    @property
    def size(self) -> int:
        """Bytes of all objects."""
        return sum(entry.size for entry in self.objects.values())

    def has(self, item: Object) -> bool:
        """Whether the object is there, as far as a listing shows: by name and size."""
        entry = self.objects.get(item.sha256)
        return entry is not None and entry.size == item.size


@dataclass(frozen=True)
class Found:
    """An artefact whose manifest has been read and is right.

    Attributes:
        deprecated: Why it is not to be used; None for what is.
    """

    manifest: Manifest
    listing: Listing
    deprecated: str | None = None

    @property
    def place(self) -> str:
        """The manifest's place below the remote's root."""
        return self.manifest.place


def scan(kind: str, remote: Remote, name: str | None = None) -> list[Listing]:
    """Everything of a kind (and name), also what has no manifest yet."""
    below = kind if name is None else f"{kind}/{name}"
    found: dict[tuple[str, str], Listing] = {}
    for entry in remote.rclone().list(remote.path(below), recursive=True):
        inside = _INSIDE.fullmatch(entry.name if name is None else f"{name}/{entry.name}")
        if entry.is_dir or inside is None or (name is not None and inside[1] != name):
            continue
        key = (inside[1], inside[2])
        listing = found.setdefault(key, Listing(kind, *key))
        _note(listing, entry, inside[4], in_objects=inside[3] is not None)
    for listing in found.values():
        listing.manifests.sort(reverse=True)
    return sorted(found.values(), key=lambda listing: (listing.name, listing.created))


def _note(listing: Listing, entry: Entry, file_name: str, *, in_objects: bool) -> None:
    if in_objects:
        listing.objects[file_name] = entry
    elif file_name == DEPRECATED:
        listing.deprecated = True
    elif stamp_of(file_name):
        listing.manifests.append(file_name)


def look(kind: str, name: str, identity16: str, remote: Remote) -> Listing:
    """One artefact's folder; an empty listing if there is none."""
    found = [item for item in scan(kind, remote, name) if item.identity16 == identity16]
    return found[0] if found else Listing(kind, name, identity16)


def list_artefacts(kind: str, remote: Remote, name: str | None = None) -> list[Listing]:
    """The whole artefacts of a kind, sorted by name and then by age.

    Raises:
        RemoteError: The remote cannot be reached.
    """
    return [listing for listing in scan(kind, remote, name) if listing.manifests]


def find(kind: str, name: str, remote: Remote, identity16: str | None = None) -> Found:
    """The newest artefact of that name that is not deprecated, or the newest deprecated one.

    Raises:
        RemoteError: There is none, its manifest is damaged, or the remote cannot be reached.
    """
    check_name(name)
    known = [item for item in list_artefacts(kind, remote, name)
             if identity16 in (None, item.identity16)]  # fmt: skip
    if not known:
        remote.check_folder()
        which = f" with identity {identity16}" if identity16 else ""
        raise RemoteError(
            f"{remote.describe()}: no {kind} '{name}'{which} there",
            hint=f"push it from a machine that has it: {push_command(kind, name)}",
        )
    listing = max(known, key=lambda item: (not item.deprecated, item.created))
    manifest = read_manifest(listing, listing.manifests[0], remote)
    return Found(manifest, listing, read_reason(listing, remote))


def read_manifest(listing: Listing, file_name: str, remote: Remote) -> Manifest:
    """Read one manifest of an artefact.

    Raises:
        RemoteError: It is damaged, or not the one that belongs there.
    """
    where = remote.path(f"{listing.folder}/{file_name}")
    return Manifest.from_bytes(remote.rclone().read(where), where)


def read_reason(listing: Listing, remote: Remote) -> str | None:
    """Why an artefact is deprecated; None if it is not."""
    if not listing.deprecated:
        return None
    content = remote.rclone().read(remote.path(f"{listing.folder}/{DEPRECATED}"))
    try:
        said: Mapping[str, object] = json.loads(content)
        return str(said["reason"])
    except (ValueError, KeyError, TypeError):
        return "no reason is given"


def missing_from(listing: Listing, wanted: Sequence[Object]) -> list[Object]:
    """Which objects are not there, or have another size."""
    return [item for item in wanted if not listing.has(item)]
