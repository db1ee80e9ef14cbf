"""The trajectory store: one HDF5 file for each converted version of a grid dataset.

    /fields                (trajectory, time, *space, channel) float32, contiguous
    /time                  (time,) float64
    /coords/<axis>         (points,) float64
    /parameters            (trajectory, parameter) float64
    /group                 (trajectory,) int64: what must not be shared between splits
    /split                 (trajectory,) uint8: 0 train, 1 valid, 2 test, 3 excluded
    /statistics/<name>     (channel,) float64: mean, std, rms, min, max of the training split
    attrs: format, metadata (JSON of `StoreMetadata`)

`fields` is contiguous and uncompressed, so a window is one seek in a memory map: docs/adr/0002.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ups import paths
from ups.data.layouts.base import dataset_of, open_hdf5
from ups.data.splits import SPLITS
from ups.data.statistics import NAMES
from ups.errors import DataError, did_you_mean

Array = npt.NDArray[Any]
FORMAT = "ups-trajectories-1"


@dataclass(frozen=True)
class SourceFile:
    """A raw file that went into a version; `fingerprint` hashes 4 kB at 1024 places."""

    name: str
    size_bytes: int
    fingerprint: str
    trajectories: int
    parameters: dict[str, float]


@dataclass(frozen=True)
class StoreMetadata:
    """What a version is and where it came from.

    Attributes:
        dt: Time between stored frames; None for a static problem.
        bounds: Of each space axis.
        stride_x, stride_t: Every which point and frame of the raw data was kept.
        split_hash: Of the division into train, valid and test.
        data_sha256: Of all field values, in order.
        excluded: Trajectories left out of every split because they hold NaN or infinity.
    """

    dataset: str
    version: str
    fields: tuple[str, ...]
    parameters: tuple[str, ...]
    axes: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...]
    periodic: tuple[bool, ...]
    dt: float | None
    stride_x: int
    stride_t: int
    limit: int | None
    sources: tuple[SourceFile, ...]
    split_hash: str
    data_sha256: str
    excluded: tuple[int, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> StoreMetadata:
        content = json.loads(text)
        content["sources"] = tuple(SourceFile(**source) for source in content["sources"])
        content["bounds"] = tuple(tuple(pair) for pair in content["bounds"])
        for key in ("fields", "parameters", "axes", "periodic", "excluded"):
            content[key] = tuple(content[key])
        return cls(**content)


class TrajectoryStore:
    """Read access to one converted version.

    Args:
        path: The store's file; `TrajectoryStore.open` finds it by dataset and version.

    Attributes:
        fields: (trajectory, time, *space, channel) float32, memory-mapped, physical units.
        time: (time,).
        coords: One (points,) array per space axis.
        parameters: (trajectory, parameter).
        statistics: `mean`, `std`, `rms`, `min`, `max` of the training split, (channel,) each.

    Raises:
        DataError: The file is missing, damaged or not a store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_hdf5(path) as file:
            if file.attrs.get("format") != FORMAT:
                raise DataError(
                    f"{path}: not a trajectory store of format '{FORMAT}'",
                    hint="ups data convert",
                )
            self.metadata = StoreMetadata.from_json(str(file.attrs["metadata"]))
            self.fields = _mapped(dataset_of(file, "fields", path), path)
            self.time: Array = dataset_of(file, "time", path)[()]
            self.coords: tuple[Array, ...] = tuple(
                dataset_of(file, f"coords/{axis}", path)[()] for axis in self.metadata.axes
            )
            self.parameters: Array = dataset_of(file, "parameters", path)[()]
            self.groups: Array = dataset_of(file, "group", path)[()]
            self.splits: Array = dataset_of(file, "split", path)[()]
            self.statistics: dict[str, Array] = {
                name: dataset_of(file, f"statistics/{name}", path)[()] for name in NAMES
            }

    @classmethod
    def open(cls, dataset: str, version: str = "latest") -> TrajectoryStore:
        """Open a version of a dataset; 'latest' is the most recently converted one."""
        return cls(find_store(dataset, version))

    @property
    def num_trajectories(self) -> int:
        return int(self.fields.shape[0])

    @property
    def num_frames(self) -> int:
        return int(self.fields.shape[1])

    @property
    def space(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.fields.shape[2:-1])

    @property
    def num_fields(self) -> int:
        return int(self.fields.shape[-1])

    @property
    def name(self) -> str:
        return f"{self.metadata.dataset}/{self.metadata.version}"

    def split(self, name: str) -> Array:
        """Indices of the trajectories in 'train', 'valid' or 'test', in file order."""
        if name not in SPLITS:
            raise DataError(f"{name}: unknown split{did_you_mean(name, SPLITS)}")
        return np.flatnonzero(self.splits == SPLITS.index(name))


def _mapped(fields: h5py.Dataset, path: Path) -> Array:
    """`fields` as a read-only memory map of its place in the file."""
    offset = fields.id.get_offset()
    if offset is None or fields.chunks is not None:
        raise DataError(f"{path}: fields: expected contiguous storage", hint="ups data convert")
    return np.memmap(path, dtype=fields.dtype, mode="r", offset=offset, shape=fields.shape)


def store_path(dataset: str, version: str) -> Path:
    return paths.data_dir(dataset) / f"{version}.h5"


def list_versions(dataset: str) -> list[str]:
    """Converted versions on this machine, newest first."""
    files = [p for p in paths.data_dir(dataset).glob("*.h5") if not p.name.startswith(".")]
    return [p.stem for p in sorted(files, key=lambda p: p.stat().st_mtime_ns, reverse=True)]


def find_store(dataset: str, version: str = "latest") -> Path:
    """The file of a version, or an error that says how to make it."""
    versions = list_versions(dataset)
    if not versions:
        raise DataError(
            f"{dataset}: no converted version in {paths.display(paths.data_dir(dataset))}",
            hint=f"ups data generate {dataset} && ups data convert {dataset}",
        )
    if version == "latest":
        return store_path(dataset, versions[0])
    if version not in versions:
        raise DataError(
            f"{dataset}: no version '{version}'{did_you_mean(version, versions)}",
            hint=f"converted versions: {', '.join(versions)}",
        )
    return store_path(dataset, version)
