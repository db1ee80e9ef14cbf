"""Converted versions of any kind of dataset: listing and opening them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ups import paths
from ups.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from ups.data.partial import Fetch
    from ups.data.points import PointStore
    from ups.data.store import TrajectoryStore

    Opener = Callable[[str, str], TrajectoryStore | PointStore | None]

_openers: list[Opener] = []
_SUFFIXES = (".h5", ".zarr")
PARTS = ".parts"
"""Ending of the folder of a version of which only some trajectories are here: `ups.data.partial`"""
PRESENT = "present.json"
STORES = ("store.h5", "store.zarr")


def version_paths(dataset: str) -> list[Path]:
    """Stores of a dataset on this machine, newest first; of some, only a part may be here."""
    folder = paths.data_dir(dataset)
    found = [p for p in folder.glob("*") if p.suffix in _SUFFIXES and not p.name.startswith(".")]
    whole = {path.stem for path in found}
    for record in folder.glob(f"[!.]*{PARTS}/{PRESENT}"):
        if record.parent.stem not in whole:
            found.append(store_in(record.parent))
    return sorted(found, key=lambda p: p.stat().st_mtime_ns, reverse=True)


def parts_folder(store: Path) -> Path | None:
    """The folder of a store of which only some is here; None for a whole store."""
    folder = store.parent
    return folder if store.name in STORES and (folder / PRESENT).is_file() else None


def store_in(folder: Path) -> Path:
    """The store inside a folder of parts."""
    return next((folder / name for name in STORES if (folder / name).exists()), folder / STORES[0])


def pulled_record(store: Path) -> Path:
    """The file beside a whole store that says where it was pulled from."""
    return store.with_name(f".{store.name}.pulled.json")


def version_of(path: Path) -> str:
    """The name of the version that a store holds."""
    folder = parts_folder(path)
    return path.stem if folder is None else folder.stem


def list_versions(dataset: str) -> list[str]:
    """Names of the converted versions on this machine, newest first."""
    return [version_of(path) for path in version_paths(dataset)]


def open_store(dataset: str, version: str = "latest") -> TrajectoryStore | PointStore:
    """Open a version, on a grid, a mesh or of particles; 'latest' is the newest one.

    Where only some of it is here, reading the rest is an error: `ups.data.partial`.

    Raises:
        DataError: There is none, or it is damaged.
    """
    for opener in reversed(_openers):
        if (store := opener(dataset, version)) is not None:
            return store
    return open_path(find_version(dataset, version))


@contextmanager
def opened_by(opener: Opener) -> Iterator[None]:
    """Let `opener` open versions by dataset and name; None from it is a version on this machine."""
    _openers.append(opener)
    try:
        yield
    finally:
        _openers.remove(opener)


def open_path(path: Path, fetch: Fetch | None = None) -> TrajectoryStore | PointStore:
    """Open a store where it lies.

    Args:
        fetch: Brings trajectories that are not here.
    """
    from ups.data.points import PointStore
    from ups.data.store import TrajectoryStore

    return TrajectoryStore(path, fetch) if path.suffix == ".h5" else PointStore(path, fetch)


def find_version(dataset: str, version: str = "latest") -> Path:
    """The file or folder of a version, or an error that says how to make it."""
    found = version_paths(dataset)
    if not found:
        raise DataError(
            f"{dataset}: no converted version in {paths.display(paths.data_dir(dataset))}",
            hint=f"{_source_of(dataset)} && ups data convert {dataset}",
        )
    if version == "latest":
        return found[0]
    names = [version_of(path) for path in found]
    if version not in names:
        raise DataError(
            f"{dataset}: no version '{version}'{did_you_mean(version, names)}",
            hint=f"converted versions: {', '.join(names)}",
        )
    return found[names.index(version)]


def _source_of(dataset: str) -> str:
    from ups.data.conversion.sources import how_to_get
    from ups.registry import load_card

    return how_to_get(load_card(dataset))
