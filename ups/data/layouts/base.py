"""What every layout reader offers to the converter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import h5py
import numpy.typing as npt

from ups.errors import DataError, translated_os_errors


@runtime_checkable
class RawTrajectories(Protocol):
    """One raw file as trajectories.

    Attributes:
        times: (time,), the card's unit.
        coords: One (points,) array per space axis.
        parameters: By the card's parameter names; the same for all trajectories of the file.
    """

    path: Path
    num_trajectories: int
    times: npt.NDArray[Any]
    coords: tuple[npt.NDArray[Any], ...]
    parameters: dict[str, float]

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Trajectories [start, stop) as (trajectory, time, *space, channel), float32."""
        ...

    def close(self) -> None: ...


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, or say in one line why not."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with translated_os_errors(path, "reading"):
        path.open("rb").close()
    try:
        return h5py.File(path, "r")
    except OSError as error:
        text = str(error)
        if "truncated file" in text:
            what = "the file is truncated: it ends before its header says"
        elif "signature not found" in text:
            what = "not an HDF5 file"
        else:
            what = f"HDF5 cannot open it: {' '.join(text.split())}"
        raise DataError(f"{path}: {what}", hint="fetch or generate the file again") from error


def dataset_of(file: h5py.File, key: str, path: Path) -> h5py.Dataset:
    """The array under `key`, or an error that lists what is there."""
    if key not in file or not isinstance(file[key], h5py.Dataset):
        raise DataError(
            f"{path}: no array '{key}', found {sorted(file.keys())}",
            hint="is this a file of another dataset? ups data list",
        )
    return file[key]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translate what h5py raises in the middle of a damaged file."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: damaged: {' '.join(str(error).split())}",
            hint="fetch or generate the file again",
        ) from error
