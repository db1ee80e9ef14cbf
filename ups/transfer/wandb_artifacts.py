"""Weights & Biases artifacts as a remote: the same objects, the same manifest, the same checks.

A version of a W&B artifact holds all objects of an artefact and its manifest. The parts of the
artefact's name but the last make the artifact's name, the last one an alias:

    data burgers1d/nu0.01-x4     dataset  data-burgers1d                  latest, nu0.01-x4
    cache burgers1d/nu0.01-x4/.. cache    cache-burgers1d-nu0.01-x4       latest, <codec>-...
    run pilot/20260101T...       model    run-pilot                       latest, 20260101T...

and the artefact's hash is an alias of all of them. Reading goes through the interface of `Rclone`,
so that a pull is the same as from anywhere else: what W&B says about its files is not believed, and
every object is hashed. What cannot be sent is queued, and said not to have been sent.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ups import files, paths
from ups.errors import RemoteError, translated_os_errors
from ups.transfer.links import link_or_copy
from ups.transfer.manifest import Manifest, is_object_name, stamp_of
from ups.transfer.rclone import Entries, Entry, Progress, Rclone
from ups.transfer.scratch import scratch_folder
from ups.transfer.wandb_service import PROJECT, Parcel, Service, Version, Wandb

if TYPE_CHECKING:
    from ups.transfer.remotes import Remote

TYPES = {"data": "dataset", "cache": "cache", "codec": "model", "run": "model"}
_LONGEST = 128
_PLAIN = re.compile(r"[^A-Za-z0-9._-]")
_INSIDE = re.compile(r"/[0-9a-f]{16}(/objects)?(/[^/]+)?$")
"""What follows an artefact's name in the place of its folder, or of a file in that."""
_OWN_VERSION = re.compile(r"v\d+")


def collection_of(kind: str, name: str) -> str:
    """What W&B calls the artifacts of a kind and name, without version."""
    folder = name.rpartition("/")[0] or name
    return _safe("-".join([kind, *folder.split("/")]))


def alias_of(name: str) -> str:
    """The alias that the last part of a name becomes; `v3` is W&B's own way of counting."""
    last = name.rpartition("/")[2]
    return _safe(f"version-{last}" if _OWN_VERSION.fullmatch(last) else last)


def address_of(kind: str, name: str) -> str:
    """`collection:alias` of an artefact."""
    return f"{collection_of(kind, name)}:{alias_of(name)}"


def _safe(text: str) -> str:
    """Plain letters, at most so many; what had to be changed is told apart by its hash."""
    plain = _PLAIN.sub("-", text)
    if plain == text and len(text) <= _LONGEST:
        return text
    return f"{plain[: _LONGEST - 9]}-{files.sha256_json(text)[:8]}"


def parcel_of(manifest: Manifest, objects: Mapping[str, Path], written: Path) -> Parcel:
    """A whole artefact as one version of a W&B artifact.

    Args:
        objects: SHA-256 -> local file, for every object.
        written: The file that holds the manifest.
    """
    uses = manifest.labels.get("uses", {})
    return Parcel(
        collection=collection_of(manifest.kind, manifest.name),
        type=TYPES[manifest.kind],
        aliases=("latest", alias_of(manifest.name), manifest.identity16),
        metadata={
            "folder": manifest.folder,
            "manifest": manifest.place.rpartition("/")[2],
            "objects": {item.sha256: item.size for item in manifest.objects},
            "uses": uses,
        },
        files={
            manifest.place.rpartition("/")[2]: written,
            **{f"objects/{name}": path for name, path in objects.items()},
        },
        uses=tuple(
            (address_of(kind, name), TYPES[kind]) for kind, names in uses.items() for name in names
        ),
    )


def post(manifest: Manifest, objects: Mapping[str, Path], service: Service) -> tuple[str, ...]:
    """Send an artefact to W&B, or queue it.

    The objects are moved or linked into a folder below UPS_HOME/wandb, which stays only if they
    could not be sent.

    Args:
        objects: SHA-256 -> local file, for every object.
    Returns:
        Artifacts that it was made from and that W&B does not have.
    Raises:
        DataError: The disk is full.
        RemoteError: It was not sent; where it was queued, the hint names the command.
    """
    name = f"{collection_of(manifest.kind, manifest.name)}-{uuid.uuid4().hex[:8]}"
    folder = paths.home() / "wandb" / name
    queued = False
    try:
        with translated_os_errors(folder, "queueing"):
            for sha256, path in objects.items():
                link_or_copy(path, folder / sha256)
            written = folder / manifest.place.rpartition("/")[2]
            written.write_bytes(manifest.to_bytes())
        posted = service.post(
            parcel_of(manifest, {sha256: folder / sha256 for sha256 in objects}, written), folder
        )
        queued = posted.queued is not None
    finally:
        if not queued:
            shutil.rmtree(folder, ignore_errors=True)
    if queued:
        raise RemoteError(
            f"{manifest.kind} {manifest.name}: not sent to W&B, {posted.why}; it waits in "
            f"{paths.display(folder)}",
            hint=f"with a network and a key: wandb sync '{posted.queued}', then delete the folder",
        )
    return posted.unused


def service_of(remote: Remote) -> Service:
    """The W&B project that a remote names.

    Raises:
        RemoteError: It is neither `project` nor `entity/project`.
    """
    entity, _, project = remote.root.rpartition("/")
    if "/" in entity:
        raise RemoteError(
            f"remote {remote.name}: {remote.root} is no W&B project", hint="wandb:ENTITY/PROJECT"
        )
    return Wandb(entity or None, project or PROJECT)


def files_of(remote: Remote) -> WandbFiles:
    """What `Remote.rclone` gives for W&B."""
    return WandbFiles({}, remote.name, service=service_of(remote), root=remote.path())


@dataclass(frozen=True)
class WandbFiles(Rclone):
    """The artefacts in a W&B project, read as if they were folders of a remote.

    Writing single files makes no sense there: `post` sends a whole artefact.

    Args:
        service: The project.
        root: What `Remote.path` puts before every path.
    """

    service: Service = field(kw_only=True)
    root: str = field(kw_only=True)

    def list(self, path: str, recursive: bool = False) -> Entries:
        folder = self._relative(path)
        kind, _, rest = folder.partition("/")
        if kind not in TYPES:
            return []
        collection = collection_of(kind, _INSIDE.sub("", rest)) if rest else None
        found: dict[str, Entry] = {}
        for version in self.service.versions(TYPES[kind], collection):
            for place, size in _places(version).items():
                if place.startswith(f"{folder}/"):
                    inside = place.removeprefix(f"{folder}/")
                    found[inside] = Entry(inside, size, version.created, is_dir=False)
        if not recursive:
            found = {inside: entry for inside, entry in found.items() if "/" not in inside}
        return [found[inside] for inside in sorted(found)]

    def read(self, path: str, offset: int = 0, count: int | None = None) -> bytes:
        place = self._relative(path)
        with scratch_folder("wandb") as scratch:
            content = self._fetch(place, scratch).read_bytes()
        return content[offset : None if count is None else offset + count]

    def download(
        self,
        names: Mapping[str, int],
        source: str,
        into: Path,
        progress: Progress = lambda done, total: None,
        on_file: Callable[[str], None] = lambda name: None,
    ) -> None:
        total, done = sum(names.values()), 0
        folder = self._relative(source)
        for name, size in names.items():
            with scratch_folder("wandb") as scratch, translated_os_errors(into, "writing"):
                into.mkdir(parents=True, exist_ok=True)
                fetched = self._fetch(f"{folder}/{name}", scratch)
                if fetched.stat().st_size != size:
                    raise RemoteError(f"{self.name}: {folder}/{name}: has not {size} bytes there")
                shutil.move(fetched, into / name)
            done += size
            on_file(name)
            progress(done, total)

    def hashes(
        self,
        path: str,
        names: Collection[str],
        progress: Progress = lambda done, total: None,
    ) -> dict[str, str]:
        """As `Rclone.hashes`; the files are on this disk one at a time."""
        folder = self._relative(path)
        sizes = {entry.name: entry.size for entry in self.list(path) if entry.name in names}
        found: dict[str, str] = {}
        done = 0
        for name, size in sizes.items():
            with scratch_folder("wandb") as scratch:
                found[name] = files.sha256_file(self._fetch(f"{folder}/{name}", scratch))
            done += size
            progress(done, sum(sizes.values()))
        return found

    def write(self, path: str, content: bytes) -> None:
        raise self._whole_only()

    def upload(
        self, files: Mapping[str, Path], to: str, progress: Progress = lambda done, total: None
    ) -> None:
        raise self._whole_only()

    def delete(self, path: str, names: Collection[str]) -> None:
        raise self._whole_only()

    def purge(self, path: str) -> None:
        raise self._whole_only()

    def _whole_only(self) -> RemoteError:
        return RemoteError(
            f"{self.name}: W&B keeps whole versions; a file in one cannot be changed from here",
            hint="delete or tag versions on the artifact's page",
        )

    def _relative(self, path: str) -> str:
        return path.removeprefix(self.root).strip("/")

    def _fetch(self, place: str, into: Path) -> Path:
        """Download the file at a place below the root, from the newest version that has it."""
        kind, _, rest = place.partition("/")
        collection = collection_of(kind, _INSIDE.sub("", rest))
        known = self.service.versions(TYPES.get(kind, kind), collection)
        for version in sorted(known, key=lambda version: version.created, reverse=True):
            if place in _places(version):
                inside = place.removeprefix(f"{version.metadata['folder']}/")
                return self.service.fetch(version, inside, into)
        raise RemoteError(f"{self.name}: {place} is not there", hint="push it again")


def _places(version: Version) -> dict[str, int]:
    """Every file of a version by its place below the root, with its size; none if it is not ours.

    What the metadata says is not believed beyond that: objects are hashed, manifests checked.
    """
    folder, manifest = version.metadata.get("folder"), version.metadata.get("manifest")
    objects: Any = version.metadata.get("objects")
    if not (isinstance(folder, str) and isinstance(manifest, str) and isinstance(objects, dict)):
        return {}
    if stamp_of(manifest) is None:
        return {}
    places = {f"{folder}/{manifest}": 0}
    for name, size in objects.items():
        if is_object_name(str(name)) and isinstance(size, int):
            places[f"{folder}/objects/{name}"] = size
    return places
