"""A version arriving from a remote: in parts until nothing of it is missing, then under its name.

data/<dataset>/<version>.parts/            `ups.data.partial`, with the record of the transfer
data/<dataset>/<version>.h5 or .zarr       everything is here
data/<dataset>/.<version>.h5.pulled.json   where it came from
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ups import files, paths
from ups.data.conversion.plan import check_version_name
from ups.data.partial import Present, read_present, runs_of, write_present
from ups.data.versions import PARTS, PRESENT, STORES, open_path, pulled_record, store_in
from ups.errors import DataError, RemoteError, UsageError, translated_os_errors
from ups.transfer.arrivals import Arrivals
from ups.transfer.manifest import RECORD, Manifest, Piece
from ups.transfer.pull import Found, pull
from ups.transfer.remotes import Remote

Array = npt.NDArray[Any]
Wanted = Callable[[Piece], bool]
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Version:
    """A version as an artefact states it: what its store must turn out to be."""

    dataset: str
    version: str
    data_sha256: str

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.version}"

    @property
    def parts(self) -> Path:
        """The folder that it arrives in."""
        return paths.data_dir(self.dataset) / f"{self.version}{PARTS}"

    def whole(self) -> Path | None:
        """The store, if all of it is here."""
        folder = paths.data_dir(self.dataset)
        found = (folder / f"{self.version}{Path(name).suffix}" for name in STORES)
        return next((path for path in found if path.exists()), None)


@dataclass(frozen=True)
class Arrived:
    """What of a version is here after a pull.

    Attributes:
        path: The store.
        here, trajectories: How many trajectories are here, and how many the version has; after a
            dry run what there would be.
        received_bytes: What was transferred, or would be.
    """

    version: Version
    path: Path
    here: int
    trajectories: int
    received_bytes: int


def version_in(found: Found) -> Version:
    """The version of which an artefact holds the store, or some of it.

    Raises:
        RemoteError: It does not say, or its names are no names of files.
    """
    identity = found.manifest.identity
    try:
        texts = [identity[key] for key in ("dataset", "version", "data_sha256")]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("dataset, version and data_sha256 must be texts")
        check_version_name(texts[1])
        if not texts[0].isidentifier():
            raise ValueError(f"dataset {texts[0]!r}")
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise RemoteError(f"{found.place}: its identity cannot be used: {error}") from error
    return Version(*texts)


def pull_store(
    found: Found,
    remote: Remote,
    *,
    wanted: Wanted = lambda piece: True,
    claimed: Callable[[Array], Array] | None = None,
    progress: Progress = lambda done, total: None,
    dry_run: bool = False,
) -> Arrived:
    """Bring the wanted pieces of a version's store to where `open_store` finds it.

    Args:
        found: An artefact that holds all of the store, or some of it.
        wanted: Which pieces; those without trajectories are needed by every reader.
        claimed: Of an artefact that holds only some of the store: which trajectories it holds,
            (trajectory,) bool, given the splits.

    Raises:
        DataError: Other data of this name is here, no space, or another process pulls it.
        RemoteError: The remote does not answer, or holds something wrong.
    """
    version = version_in(found)
    if (whole := _whole_here(version)) is not None:
        return whole
    if dry_run:
        return _dry(found, remote, version, wanted)
    lock = version.parts.with_suffix(_suffix(found.manifest))
    with files.exclusive(lock, f"pulling {version.name}"):
        if (whole := _whole_here(version)) is not None:  # another process has just finished
            return whole
        _refuse_others(version)
        before = _already(version)
        done = pull(found, version.parts, remote, wanted=wanted, progress=progress)
        path = store_in(version.parts)
        store = _judged(path, version, found)
        here = here_without(found.manifest, _absent(found.manifest, version.parts), store.splits)
        if claimed is not None:
            here &= claimed(store.splits)
        here |= before if before is not None else False
        if here.all():
            path = _finish(version, found, remote)
        else:
            _record(version, found, here)
    return Arrived(version, path, int(here.sum()), len(here), done.fetched_bytes)


def here_without(manifest: Manifest, absent: Iterable[Piece], splits: Array) -> Array:
    """(trajectory,) bool: those of which nothing is in the absent pieces.

    Raises:
        RemoteError: A piece is said to hold trajectories that the store does not have.
    """
    here = np.ones(len(splits), bool)
    for piece in absent:
        if piece.trajectories is not None:
            first, end = piece.trajectories
            if not first < end <= len(here):
                raise RemoteError(
                    f"{manifest.place}: {piece.describe()}: the store has {len(here)} trajectories",
                    hint="push it again with --repair",
                )
            here[first:end] = False
    return here


def _whole_here(version: Version) -> Arrived | None:
    """The version where all of it is here; other data of its name is an error."""
    path = version.whole()
    if path is None:
        return None
    store = open_path(path)
    if store.metadata.data_sha256 != version.data_sha256:
        raise DataError(
            f"{paths.display(path)}: holds other data than {version.name} on the remote",
            hint="rename or remove it, then pull again; or push it under another --version",
        )
    if version.parts.is_dir():  # of a process that was killed at its end
        shutil.rmtree(version.parts)
    return Arrived(version, path, store.num_trajectories, store.num_trajectories, 0)


def _dry(found: Found, remote: Remote, version: Version, wanted: Wanted) -> Arrived:
    _refuse_others(version)
    done = pull(found, version.parts, remote, wanted=wanted, dry_run=True)
    return Arrived(version, version.parts, 0, 0, done.fetched_bytes)


def _suffix(manifest: Manifest) -> str:
    """`.h5` or `.zarr`: of the store in an artefact."""
    for name in STORES:
        if any(path.split("/")[0] == name for path in manifest.files):
            return Path(name).suffix
    raise RemoteError(f"{manifest.place}: holds no store", hint="push it again with --repair")


def _refuse_others(version: Version) -> None:
    if not (version.parts / PRESENT).is_file():
        return
    present = read_present(version.parts)
    if present.data_sha256 != version.data_sha256:
        raise DataError(
            f"{paths.display(version.parts)}: holds trajectories of other data than {version.name} "
            "on the remote",
            hint=f"rm -r '{version.parts}', then pull again",
        )


def _already(version: Version) -> Array | None:
    """What is here that no transfer has a record of; None where the record says all."""
    if (version.parts / RECORD).is_file() or not (version.parts / PRESENT).is_file():
        return None
    return read_present(version.parts).here


def _judged(path: Path, version: Version, found: Found) -> Any:
    """The store that has arrived, if it is what its artefact says."""
    store = open_path(path)
    data = store.metadata
    if Version(data.dataset, data.version, data.data_sha256) != version:
        raise RemoteError(
            f"{found.place}: its store is {store.name} with data {data.data_sha256[:16]}, not "
            f"{version.name} with {version.data_sha256[:16]}",
            hint="do not use it; ask who pushed it",
        )
    return store


def _absent(manifest: Manifest, folder: Path) -> list[Piece]:
    """Pieces of which the bytes are not here, or not verified."""
    verified = Arrivals(folder, manifest).verified
    return [
        piece for item in manifest.objects if item.sha256 not in verified for piece in item.pieces
    ]


def _record(version: Version, found: Found, here: Array) -> None:
    present = Present(
        version.dataset,
        version.version,
        version.data_sha256,
        len(here),
        runs_of(np.flatnonzero(here)),
        found.manifest.sha256,
    )
    write_present(version.parts, present)


def _finish(version: Version, found: Found, remote: Remote) -> Path:
    """Give a store from which nothing is missing its name; what is left of the parts goes."""
    staged = store_in(version.parts)
    target = version.parts.with_suffix(staged.suffix)
    origin = {
        "remote": remote.describe(),
        "place": found.place,
        "manifest_sha256": found.manifest.sha256,
    }
    files.write_json(pulled_record(target), origin)
    with translated_os_errors(target, "writing"):
        os.replace(staged, target)
        files.flush(target.parent)
        shutil.rmtree(version.parts)
    version.parts.with_name(f".{version.parts.name}.lock").unlink(missing_ok=True)
    return target


def origin_of(store: Path) -> dict[str, str]:
    """Remote, place and manifest's SHA-256 of a store that was pulled; empty for others."""
    path = pulled_record(store)
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {key: str(value) for key, value in content.items()}
