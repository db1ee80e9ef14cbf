"""A run from a remote, as a folder under `runs/` that all commands take for one made here.

It arrives in `runs/.incoming` and becomes a run by a rename. A local run gives way only if a
snapshot on the remote says the same as it, so that nothing is lost, or if that is forced; a folder
that was replaced by force is kept in `runs/.replaced`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ups import files, paths, runs
from ups.errors import CheckpointError, RemoteError, did_you_mean, translated_os_errors
from ups.runs.folders import FOUNDATION
from ups.transfer.artefacts import Found, Listing, list_artefacts, read_manifest
from ups.transfer.links import link_or_copy
from ups.transfer.manifest import INCOMING, RECORD, Manifest, stamp_of
from ups.transfer.pull import pull
from ups.transfer.push import Progress
from ups.transfer.remotes import Remote
from ups.transfer.run_artefacts import SHA256, SPEEDS, files_of, hashes, is_run_name

State = Literal["new", "present", "updated", "replaced"]
_REPLACED = ".replaced"
_READING = 8
_NAMED = 3


@dataclass(frozen=True)
class RemoteRun:
    """A run as a remote's newest snapshot shows it.

    Attributes:
        snapshots: UTC stamps, the newest first.
        size: Bytes of all its objects, of every snapshot.
        labels: 'state', 'datasets', 'stages', 'score', ...; empty where the manifest is damaged.
        problem: What is wrong with the newest manifest.
    """

    id: str
    snapshots: tuple[str, ...]
    size: int
    labels: Mapping[str, Any]
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        told = {key: value for key, value in self.labels.items() if key not in (SHA256, SPEEDS)}
        return {"id": self.id, "snapshots": list(self.snapshots), "size_bytes": self.size,
                "problem": self.problem, **told}  # fmt: skip


@dataclass(frozen=True)
class PulledRun:
    """What a pull did, or would do.

    Attributes:
        snapshot: UTC stamp of what is now here.
        state: 'present' if the local run was that already, 'updated' if it was as an older or newer
            snapshot says, 'replaced' if it was something else.
        kept: Where the folder is that was replaced.
    """

    folder: Path
    snapshot: str
    state: State
    fetched_bytes: int = 0
    kept: Path | None = None


def list_remote_runs(remote: Remote) -> list[RemoteRun]:
    """Every run on a remote, the newest first.

    Raises:
        RemoteError: The remote cannot be reached.
    """
    listings = [one for one in list_artefacts("run", remote) if is_run_name(one.name)]
    with ThreadPoolExecutor(_READING) as pool:
        found = list(pool.map(lambda one: _described(one, remote), listings))
    return sorted(found, key=lambda one: one.id.partition("/")[2], reverse=True)


def _described(listing: Listing, remote: Remote) -> RemoteRun:
    stamps = tuple(stamp_of(name) or "" for name in listing.manifests)
    try:
        labels, problem = read_manifest(listing, listing.manifests[0], remote).labels, ""
    except RemoteError as error:
        labels, problem = {}, str(error)
    return RemoteRun(listing.name, stamps, listing.size, labels, problem)


def pull_run(
    wanted: str,
    remote: Remote,
    *,
    snapshot: str | None = None,
    force: bool = False,
    progress: Progress = lambda done, total: None,
    dry_run: bool = False,
) -> PulledRun:
    """Bring a run here, or bring the one that is here up to date.

    Args:
        wanted: `name/id`, or `name` for its newest.
        snapshot: The beginning of its stamp; None is the newest.
        force: Replace a local run that no snapshot on the remote says.
        progress: Called with (bytes done, bytes in all).
        dry_run: Fetch and change nothing.

    Raises:
        RemoteError: There is no such run or snapshot, or something there is damaged.
        CheckpointError: The local run differs, or is in use.
        DataError: No space.
    """
    listing = _find(wanted, remote)
    manifest = read_manifest(listing, _manifest_name(listing, snapshot), remote)
    target = _hashes_of(manifest)
    folder = paths.runs_dir() / manifest.name
    if dry_run:
        return _planned(folder, manifest, listing, remote, force=force)
    with files.exclusive(folder, "using this run", CheckpointError):
        local = _local(folder, target)
        state = _state(folder, local, listing, target, remote, force=force)
        if state == "present":
            return PulledRun(folder, manifest.created, state)
        staged = paths.runs_dir() / INCOMING / manifest.name
        if not (staged / RECORD).is_file():  # one that was being put in place holds links
            shutil.rmtree(staged, ignore_errors=True)
        same = {name for name, sha256 in local.items() if target.get(name) == sha256}
        pulled = pull(
            Found(manifest, listing), staged, remote, progress=progress,
            wanted=lambda piece: piece.path not in same,
        )  # fmt: skip
        kept = _put_in_place(staged, folder, same | _leftovers(folder, target), state)
        staged.with_name(f".{staged.name}.lock").unlink(missing_ok=True)
    return PulledRun(folder, manifest.created, state, pulled.fetched_bytes, kept)


def _planned(
    folder: Path, manifest: Manifest, listing: Listing, remote: Remote, *, force: bool
) -> PulledRun:
    """What `pull_run` would do."""
    target = _hashes_of(manifest)
    local = _local(folder, target)
    state = _state(folder, local, listing, target, remote, force=force)
    same = {name for name, sha256 in local.items() if target.get(name) == sha256}
    staged = paths.runs_dir() / INCOMING / manifest.name
    pulled = pull(Found(manifest, listing), staged, remote, dry_run=True,
                  wanted=lambda piece: piece.path not in same)  # fmt: skip
    return PulledRun(folder, manifest.created, state, pulled.fetched_bytes)


def _find(wanted: str, remote: Remote) -> Listing:
    """The listing of a run, by `name/id` or the newest of `name`."""
    whole = is_run_name(wanted)
    known = list_artefacts("run", remote, wanted if whole else None)
    found = [one for one in known if is_run_name(one.name)
             and (one.name == wanted or one.name.partition("/")[0] == wanted)]  # fmt: skip
    if not found:
        remote.check_folder()
        names = [one.name for one in (list_artefacts("run", remote) if whole else known)]
        near = did_you_mean(wanted, [*names, *(name.partition("/")[0] for name in names)])
        raise RemoteError(
            f"{remote.describe()}: no run {wanted!r} there{near}",
            hint="ups runs list --on REMOTE",
        )
    return max(found, key=lambda one: (one.name.partition("/")[2], one.created))


def _manifest_name(listing: Listing, snapshot: str | None) -> str:
    """The manifest of a snapshot, by the beginning of its stamp."""
    if snapshot is None:
        return listing.manifests[0]
    found = [name for name in listing.manifests if (stamp_of(name) or "").startswith(snapshot)]
    if len(found) == 1 and snapshot:
        return found[0]
    stamps = ", ".join(stamp_of(name) or "" for name in listing.manifests[:8])
    what = f"{len(found)} snapshots begin" if found else "no snapshot begins"
    raise RemoteError(f"{listing.name}: {what} with {snapshot!r}", hint=f"there are {stamps}")


def _hashes_of(manifest: Manifest) -> dict[str, str]:
    """File -> SHA-256, as the push saw it."""
    told = manifest.labels.get(SHA256)
    if not is_run_name(manifest.name) or not isinstance(told, dict) or told.keys() != set(
        manifest.files
    ):  # fmt: skip
        raise RemoteError(
            f"{manifest.place}: not a snapshot of a run",
            hint=f"push it again: ups runs push {manifest.name}",
        )
    return {str(name): str(sha256) for name, sha256 in told.items()}


def _local(folder: Path, target: Mapping[str, str]) -> dict[str, str]:
    """The files of the run that is here, as `_hashes_of`; empty if none is."""
    if not (folder / runs.CONFIG).is_file():
        return {}
    names = {*files_of(folder), *(name for name in target if (folder / name).is_file())}
    return hashes(folder, sorted(names))


def _state(
    folder: Path,
    local: Mapping[str, str],
    listing: Listing,
    target: Mapping[str, str],
    remote: Remote,
    *,
    force: bool,
) -> State:
    """What is to be done about the local run.

    Raises:
        CheckpointError: It holds something that the remote does not.
    """
    if not local:
        return "new"
    differing = _differing(local, target)
    if not differing:
        return "present"
    for name in listing.manifests:
        known = _hashes_or_nothing(listing, name, remote)
        if known and not _differing(local, known):
            return "updated"
    if force:
        return "replaced"
    named = ", ".join(differing[:_NAMED]) + (", ..." if len(differing) > _NAMED else "")
    run = runs.run_id(folder)
    raise CheckpointError(
        f"{run}: the run here is none of the snapshots there ({named})",
        hint=f"ups runs push {run} keeps it there as well; --force replaces it, and keeps a copy",
    )


def _hashes_or_nothing(listing: Listing, name: str, remote: Remote) -> dict[str, str]:
    """Of an older snapshot, which is only compared with: a damaged one is none."""
    try:
        return _hashes_of(read_manifest(listing, name, remote))
    except RemoteError:
        return {}


def _differing(local: Mapping[str, str], known: Mapping[str, str]) -> list[str]:
    """Files that are not the same here and there; earlier stages' are never changed by a run."""
    names = [name for name in {**local, **known} if not name.startswith(f"{FOUNDATION}/")]
    return sorted(name for name in names if local.get(name) != known.get(name))


def _leftovers(folder: Path, target: Mapping[str, str]) -> set[str]:
    """Files in the local folder that belong to no snapshot: pictures, W&B's, other checkpoints."""
    if not folder.is_dir():
        return set()
    names = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }  # fmt: skip
    return names - set(files_of(folder)) - set(target)


def _put_in_place(staged: Path, folder: Path, keep: set[str], state: State) -> Path | None:
    """Make the staged folder the run, with links to what is kept of the old one.

    Returns:
        Where the old folder is now, if it was replaced by force.
    """
    with translated_os_errors(folder, "putting a run in its place", CheckpointError):
        (staged / RECORD).unlink(missing_ok=True)
        shutil.rmtree(staged / INCOMING, ignore_errors=True)
        staged.mkdir(parents=True, exist_ok=True)
        for name in sorted(keep):
            if not (staged / name).exists():
                link_or_copy(folder / name, staged / name)
        if state == "new":
            staged.rename(folder)
            files.flush(folder.parent)
            return None
        kept = _free_name(paths.runs_dir() / _REPLACED / runs.run_id(folder))
        kept.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(kept)
        staged.rename(folder)
        files.flush(folder.parent)
    if state == "replaced":
        return kept
    shutil.rmtree(kept, ignore_errors=True)
    return None


def _free_name(path: Path) -> Path:
    names = (path if n == 1 else path.with_name(f"{path.name}.{n}") for n in range(1, 10_000))
    return next(name for name in names if not name.exists())
