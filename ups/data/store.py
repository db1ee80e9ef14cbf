"""The trajectory store: one HDF5 file for each converted version of a grid dataset.

    /fields                     (trajectory, time, *space, channel) float32, contiguous
    /inputs                     (trajectory, *space, input) float32, contiguous; where there are any
    /time                       (time,) float64
    /coords/<axis>              (points,) float64
    /parameters                 (trajectory, parameter) float64
    /source, /place             (trajectory,) int64: which raw file, and where in it
    /group                      (trajectory,) int64: what must not be shared between splits
    /split                      (trajectory,) uint8: 0 train, 1 valid, 2 test, 3 excluded
    /sha256                     (trajectory, 32) uint8: of its fields, then its inputs
    /statistics/<name>          (channel,) float64: mean, std, rms, min, max of the training split
    /input_statistics/<name>    (input,) float64
    /metadata                   JSON of `StoreMetadata`, as bytes
    attrs: format

`fields` is contiguous and uncompressed, so a window is one seek in a memory map: docs/adr/0002.
Meshes and particles have a store of their own: `ups.data.points`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ups import paths
from ups.data.layouts.base import dataset_of, open_hdf5, reading
from ups.data.partial import Fetch, Rows, partly, presence_of
from ups.data.splits import SPLITS
from ups.data.statistics import NAMES
from ups.data.versions import find_version, list_versions
from ups.errors import DataError, did_you_mean

__all__ = [
    "FORMAT",
    "SourceFile",
    "StoreMetadata",
    "TrajectoryStore",
    "find_store",
    "list_versions",
]

Array = npt.NDArray[Any]
FORMAT = "ups-trajectories-2"


@dataclass(frozen=True)
class SourceFile:
    """A raw file that went into a version.

    Attributes:
        fingerprint: Hash of 4 kB at 1024 places.
        trajectories: How many were taken, from place `first` on.
        parameters: Those that are one number for the file.
        made: How `ups data generate` made it, see `ups.data.conversion.identity.how_made`; empty
            for any other file.
    """

    name: str
    size_bytes: int
    fingerprint: str
    trajectories: int
    parameters: dict[str, float]
    first: int = 0
    made: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoreMetadata:
    """What a version is and where it came from.

    Attributes:
        dt: Time between stored frames; None for a static problem.
        bounds, boundaries: Of each space axis.
        stride_x, stride_t: Every which point and frame of the raw data was kept.
        trajectories: Places taken from each file, first and end; None for all.
        test_only: Everything is in the test split, and statistics are over everything.
        split_hash: Of the division into train, valid and test.
        data_sha256: Of the SHA-256 sums of all trajectories, in order.
        duplicates: Raw files left out because another one has the same content.
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
    sources: tuple[SourceFile, ...]
    split_hash: str
    data_sha256: str
    inputs: tuple[str, ...] = ()
    boundaries: tuple[str, ...] = ()
    trajectories: tuple[int, int] | None = None
    test_only: bool = False
    duplicates: tuple[str, ...] = ()
    excluded: tuple[int, ...] = ()

    def to_json(self) -> str:
        content = asdict(self)
        for source in content["sources"]:
            if not source["made"]:  # a file of unknown making, or a store from before it was kept
                del source["made"]
        return json.dumps(content, sort_keys=True)

    def without_making(self) -> StoreMetadata:
        """Without how raw files were made: what the values alone depend on."""
        return replace(self, sources=tuple(replace(one, made={}) for one in self.sources))

    @classmethod
    def from_json(cls, text: str) -> StoreMetadata:
        content = json.loads(text)
        content["sources"] = tuple(SourceFile(**source) for source in content["sources"])
        content["bounds"] = tuple(tuple(pair) for pair in content["bounds"])
        for key, value in content.items():
            content[key] = tuple(value) if isinstance(value, list) else value
        return cls(**content)


class TrajectoryStore:
    """Read access to one converted version.

    Args:
        path: The store's file; `TrajectoryStore.open` finds it by dataset and version.
        fetch: Brings trajectories that are not here: `ups.data.partial`.

    Attributes:
        fields: (trajectory, time, *space, channel) float32, memory-mapped, physical units. Of a
            version of which some is not here, a `PartialArray`; so are the inputs.
        presence: What of the version is here; None for all of it.
        time: (time,).
        coords: One (points,) array per space axis.
        inputs: (trajectory, *space, input) float32, memory-mapped; None where the dataset has none.
        parameters: (trajectory, parameter).
        sources, places: Raw file of each trajectory, and its place there, (trajectory,) each.
        digests: SHA-256 of each trajectory, (trajectory, 32).
        statistics: `mean`, `std`, `rms`, `min`, `max` of the training split, (channel,) each.
        input_statistics: The same of the inputs, (input,) each.

    Raises:
        DataError: The file is missing, damaged or not a store.
    """

    def __init__(self, path: Path, fetch: Fetch | None = None) -> None:
        self.path, self._fetch = path, fetch
        with open_hdf5(path) as file, reading(path):
            self.metadata = _metadata(file, path)
            fields = _mapped(dataset_of(file, "fields", path), path)
            has_inputs = bool(self.metadata.inputs)
            inputs = _mapped(dataset_of(file, "inputs", path), path) if has_inputs else None

            def array(name: str) -> Array:
                found = np.asarray(dataset_of(file, name, path)[()])
                if found.dtype.kind not in "fiu":
                    raise DataError(f"{path}: {name}: holds {found.dtype}, expected numbers",
                                    hint="damaged: convert again with --force")  # fmt: skip
                return found

            self.time = array("time")
            self.coords = tuple(array(f"coords/{axis}") for axis in self.metadata.axes)
            self.parameters = array("parameters")
            self.sources, self.places = array("source"), array("place")
            self.groups, self.splits = array("group"), array("split")
            self.digests = array("sha256")
            self.statistics = {name: array(f"statistics/{name}") for name in NAMES}
            self.input_statistics = {
                name: array(f"input_statistics/{name}") for name in NAMES if has_inputs
            }
        self.presence = presence_of(path, self.splits, fetch)
        self.fields: Rows = partly(fields, self.presence)
        self.inputs: Rows | None = None if inputs is None else partly(inputs, self.presence)
        self._check_shapes()

    def _check_shapes(self) -> None:
        rank = 3 + len(self.metadata.axes)
        if self.fields.ndim != rank or self.fields.shape[-1] != len(self.metadata.fields):
            raise DataError(
                f"{self.path}: fields: shape {self.fields.shape}, expected {rank} axes and "
                f"{len(self.metadata.fields)} channels",
                hint="damaged: convert again with --force",
            )
        count, frames, *space, channels = self.fields.shape
        given = len(self.metadata.inputs)
        inputs = {} if self.inputs is None else {"inputs": (self.inputs, (count, *space, given))}
        expected: dict[str, tuple[Rows, tuple[int, ...]]] = {
            **inputs,
            "time": (self.time, (frames,)),
            "parameters": (self.parameters, (count, len(self.metadata.parameters))),
            "group": (self.groups, (count,)),
            "split": (self.splits, (count,)),
            "sha256": (self.digests, (count, 32)),
            **{f"coords/{a}": (c, (n,)) for a, c, n in zip(self.metadata.axes, self.coords, space,
                                                           strict=True)},
            **{f"statistics/{n}": (v, (channels,)) for n, v in self.statistics.items()},
            **{f"input_statistics/{n}": (v, (given,)) for n, v in self.input_statistics.items()},
            "source": (self.sources, (count,)),
            "place": (self.places, (count,)),
        }  # fmt: skip
        for name, (array, shape) in expected.items():
            if array.shape != shape:
                raise DataError(
                    f"{self.path}: {name}: shape {array.shape}, expected {shape}",
                    hint="damaged: convert again with --force",
                )

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.path, self._fetch))  # a worker process maps the file itself

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
    def extent(self) -> str:
        """What a frame consists of, in words: `128 x 128 points`."""
        return " x ".join(str(n) for n in self.space) + " points"

    @property
    def num_fields(self) -> int:
        return int(self.fields.shape[-1])

    @property
    def name(self) -> str:
        return f"{self.metadata.dataset}/{self.metadata.version}"

    def require(self, trajectories: Array) -> None:
        """Make sure that trajectories are here, where only some are.

        Raises:
            DataError: One is not, and nothing brings it.
        """
        if self.presence is not None:
            self.presence.require(trajectories)

    def split(self, name: str) -> Array:
        """Indices of the trajectories in 'train', 'valid' or 'test', in file order."""
        if name not in SPLITS:
            raise DataError(f"{name}: unknown split{did_you_mean(name, SPLITS)}")
        return np.flatnonzero(self.splits == SPLITS.index(name))


def _metadata(file: h5py.File, path: Path) -> StoreMetadata:
    found = _text(file.attrs.get("format"))
    if found != FORMAT:
        old = found.startswith("ups-trajectories-")
        raise DataError(
            f"{path}: " + (f"written by another version of ups ({found}), this one reads {FORMAT}"
                           if old else f"not a trajectory store of format '{FORMAT}'"),
            hint="ups data convert --force",
        )  # fmt: skip
    try:
        return StoreMetadata.from_json(dataset_of(file, "metadata", path)[()].tobytes().decode())
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: its metadata cannot be read: {error}", hint="ups data convert --force"
        ) from error


def write_metadata(file: h5py.File, metadata: StoreMetadata) -> None:
    """Sign a store as of this format.

    As plain bytes: HDF5 keeps texts of any length in a heap, and reading a damaged heap can hang.
    """
    file["metadata"] = np.frombuffer(metadata.to_json().encode(), np.uint8)
    file.attrs["format"] = np.bytes_(FORMAT)


def _text(attribute: Any) -> str:
    """An attribute of fixed-length text; of another kind, whatever it prints as."""
    if isinstance(attribute, bytes):
        return attribute.decode(errors="replace")
    return str(attribute)


def _mapped(array: h5py.Dataset, path: Path) -> Array:
    """An array as a read-only memory map of its place in the file."""
    offset = array.id.get_offset()
    if offset is None or array.chunks is not None or array.dtype != np.float32:
        raise DataError(
            f"{path}: {array.name}: expected contiguous float32, found {array.dtype}",
            hint="ups data convert --force",
        )
    if offset + array.nbytes > path.stat().st_size:
        raise DataError(f"{path}: the file is truncated", hint="ups data convert --force")
    return np.memmap(path, dtype=np.float32, mode="r", offset=offset, shape=array.shape)


def store_path(dataset: str, version: str) -> Path:
    return paths.data_dir(dataset) / f"{version}.h5"


def find_store(dataset: str, version: str = "latest") -> Path:
    """The file of a version on a grid, or an error that says how to make it."""
    path = find_version(dataset, version)
    if path.suffix != ".h5":
        raise DataError(
            f"{path}: holds a mesh or particles; this command takes data on grids",
            hint="ups data list says which datasets are on grids",
        )
    return path
