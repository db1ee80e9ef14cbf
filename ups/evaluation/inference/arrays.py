"""Named arrays of a user's file: .npy, .npz, .h5 or .nc."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ups.data.layouts.base import open_hdf5, reading
from ups.data.layouts.xarray_open import open_dataset, values_of
from ups.errors import DataError, UsageError, did_you_mean, translated_os_errors

Array = npt.NDArray[Any]
SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".nc")
FIELDS, INPUTS = "fields", "inputs"
_TIME = ("time", "t")


@dataclass(frozen=True, eq=False)
class Arrays:
    """What a file holds.

    Attributes:
        values: By name; names inside of groups have slashes, `coords/x`.
        dims: Names of the axes of each array, where the file has them (NetCDF).
        is_bare: Whether it is one array without a name.
    """

    path: Path
    values: dict[str, Array]
    dims: dict[str, tuple[str, ...]] = field(default_factory=dict)
    is_bare: bool = False

    def find(self, name: str, folder: str = "") -> Array | None:
        """An array by its name, alone or in that group; None where there is none."""
        for key in (name, f"{folder}/{name}"):
            if key in self.values:
                return self.values[key]
        return None

    def numbers(self, names: Sequence[str]) -> dict[str, float]:
        """Single numbers among these names: PDE parameters."""
        found = {name: self.find(name, "parameters") for name in names}
        return {name: float(value) for name, value in found.items()
                if value is not None and value.size == 1}  # fmt: skip

    def stacked(
        self, whole: str, names: Sequence[str], space: Sequence[str], *, timed: bool
    ) -> Array | None:
        """Fields as one float32 array, (frame, *space, channel), or (*space, channel) without time.

        Either one array `whole` that holds them all, or one array for each name.

        Args:
            space: Names of the space axes; one, 'node', for meshes and particles.
            timed: Whether there may be a time axis in front, and is one in what is returned.
        Returns:
            None where there is neither.
        Raises:
            DataError: Some are missing, or have other numbers of axes or entries than expected.
        """
        rank = len(space)
        together = next(iter(self.values.values())) if self.is_bare else self.find(whole)
        if together is not None:
            return self._whole(whole, together, names, rank, timed)
        parts = [self.find(name, whole) for name in names]
        if all(part is None for part in parts):
            return None
        found = []
        for name, part in zip(names, parts, strict=True):
            if part is None:
                others = [key for key in self.values if key not in names]
                raise DataError(
                    f"{self.path}: no array '{name}'{did_you_mean(name, others)}; expected "
                    f"{', '.join(names)}, or all of them in '{whole}'"
                )
            found.append(self._ordered(name, part, space, timed))
        if len({one.shape for one in found}) > 1:
            shapes = ", ".join(f"{n} {p.shape}" for n, p in zip(names, found, strict=True))
            raise DataError(f"{self.path}: arrays differ in shape: {shapes}")
        return np.stack(found, -1)

    def _whole(
        self, name: str, values: Array, names: Sequence[str], rank: int, timed: bool
    ) -> Array:
        channels, values = len(names), self._floats(name, values)
        wanted = (rank + 1, rank + 2) if timed else (rank + 1,)
        is_single = channels == 1 and (values.ndim == rank or values.shape[-1] != 1)
        if is_single and values.ndim + 1 in wanted:
            values = values[..., None]
        if values.ndim not in wanted or values.shape[-1] != channels:
            raise DataError(
                f"{self.path}: {name}: shape {values.shape}, expected "
                f"{'(time, *space, channel) or ' if timed else ''}(*space, channel) with {rank} "
                f"space {'axis' if rank == 1 else 'axes'} and the channels {', '.join(names)}"
            )
        return values[None] if timed and values.ndim == rank + 1 else values

    def _ordered(self, name: str, values: Array, space: Sequence[str], timed: bool) -> Array:
        """One field with its axes in order; NetCDF knows their names."""
        values, dims = self._floats(name, values), self.dims.get(name, ())
        if set(space) <= set(dims):
            times = [axis for axis in dims if axis in _TIME]
            order = [*times, *space]
            if sorted(order) == sorted(dims):
                values = values.transpose([dims.index(axis) for axis in order])
        wanted = (len(space), len(space) + 1) if timed else (len(space),)
        if values.ndim not in wanted:
            raise DataError(
                f"{self.path}: {name}: shape {values.shape}, expected "
                f"{'(time, *space) or ' if timed else ''}(*space) with the axes {', '.join(space)}"
            )
        return values[None] if timed and values.ndim == len(space) else values

    def _floats(self, name: str, values: Array) -> Array:
        if values.dtype.kind not in "fiu":
            raise DataError(f"{self.path}: {name}: holds {values.dtype}, expected numbers")
        return np.asarray(values, np.float32)


def read_arrays(path: Path) -> Arrays:
    """Read all arrays of a file.

    Raises:
        UsageError: Its name ends in something else.
        DataError: It is missing or damaged.
        MissingExtraError: For .nc, xarray is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(
            f"{path}: '{suffix}' cannot be read{did_you_mean(suffix, SUFFIXES)}",
            hint=f"expected {', '.join(SUFFIXES)}",
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if suffix == ".nc":
        return _of_netcdf(path)
    if suffix in (".npy", ".npz"):
        return _of_numpy(path)
    found: dict[str, Array] = {}
    with open_hdf5(path) as file, reading(path):

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
                found[name] = np.asarray(item[()])

        file.visititems(visit)
    return Arrays(path, found)


def _of_numpy(path: Path) -> Arrays:
    try:
        with translated_os_errors(path, "reading"):
            content = np.load(path, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return Arrays(path, {"": content}, is_bare=True)
            with content:
                return Arrays(path, {name: content[name] for name in content.files})
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: numpy cannot read it: {error}") from error


def _of_netcdf(path: Path) -> Arrays:
    with open_dataset(path) as content:
        variables = {**content.coords, **content.data_vars}
        numeric = {name: one for name, one in variables.items() if one.dtype.kind in "fiu"}
        return Arrays(
            path,
            {str(name): values_of(one, path) for name, one in numeric.items()},
            {str(name): tuple(map(str, one.dims)) for name, one in numeric.items()},
        )
