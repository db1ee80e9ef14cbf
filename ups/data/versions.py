"""Converted versions of any kind of dataset: listing and opening them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ups import paths
from ups.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from ups.data.points import PointStore
    from ups.data.store import TrajectoryStore

_SUFFIXES = (".h5", ".zarr")


def version_paths(dataset: str) -> list[Path]:
    """Stores of a dataset on this machine, newest first."""
    folder = paths.data_dir(dataset)
    found = [p for p in folder.glob("*") if p.suffix in _SUFFIXES and not p.name.startswith(".")]
    return sorted(found, key=lambda p: p.stat().st_mtime_ns, reverse=True)


def list_versions(dataset: str) -> list[str]:
    """Names of the converted versions on this machine, newest first."""
    return [path.stem for path in version_paths(dataset)]


def open_store(dataset: str, version: str = "latest") -> TrajectoryStore | PointStore:
    """Open a version, on a grid, a mesh or of particles; 'latest' is the newest one.

    Raises:
        DataError: There is none, or it is damaged.
    """
    from ups.data.points import PointStore
    from ups.data.store import TrajectoryStore

    path = find_version(dataset, version)
    return TrajectoryStore(path) if path.suffix == ".h5" else PointStore(path)


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
    names = [path.stem for path in found]
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
