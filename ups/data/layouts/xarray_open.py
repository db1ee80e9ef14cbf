"""NetCDF files and Zarr stores as lazily read xarray datasets."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.data.layouts.base import open_hdf5, reading
from ups.errors import DataError, MissingExtraError, translated_os_errors

Array = npt.NDArray[Any]

_PACKAGES = ("xarray", "h5netcdf", "cftime")
_ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")
_HDF5, _CLASSIC = b"\x89HDF", b"CDF"
# What xarray, its engines and numpy raise when they meet a damaged or foreign file.
_FOREIGN = (
    ArithmeticError, AttributeError, ImportError, LookupError, MemoryError, NotImplementedError,
    OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


def is_zarr(path: Path) -> bool:
    """Whether a folder is one Zarr store, and so counts as one raw file."""
    return any((path / mark).is_file() for mark in _ZARR_MARKS)


def open_dataset(path: Path) -> Any:
    """Open a NetCDF file or a Zarr store, metadata only.

    Packed integers, fill values and times are decoded by the CF conventions.

    Returns:
        An xarray.Dataset.

    Raises:
        MissingExtraError: xarray and what it needs are not installed.
        DataError: It is neither NetCDF nor Zarr, or cannot be decoded.
    """
    _require_climate()
    import xarray

    engine = _engine(path)
    if engine == "h5netcdf":
        _check_root(path)
    options: dict[str, Any] = {"consolidated": False} if engine == "zarr" else {}
    with foreign(path, "cannot be opened"):
        return xarray.open_dataset(
            path, engine=engine, cache=False, decode_timedelta=False, **options
        )


def values_of(array: Any, path: Path) -> Array:
    """The values of an xarray.DataArray, read now."""
    with foreign(path, f"{array.name}: cannot be read"):
        return np.asarray(array.values)


@contextmanager
def foreign(path: Path, what: str) -> Iterator[None]:
    """Turn what the libraries raise into one line, and keep their warnings to themselves."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except _FOREIGN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: {what}: {reason[:200]}",
            hint="is the file whole? ncdump -h, or xarray.open_dataset, tell more",
        ) from error


def _engine(path: Path) -> str:
    if path.is_dir():
        if is_zarr(path):
            return "zarr"
        raise DataError(f"{path}: a folder that is no Zarr store (no {', '.join(_ZARR_MARKS)})")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with translated_os_errors(path, "reading"), path.open("rb") as file:
        start = file.read(4)
    if start == _HDF5:
        return "h5netcdf"
    if start[:3] == _CLASSIC:
        return "scipy"
    raise DataError(
        f"{path}: neither NetCDF nor a Zarr store",
        hint="GRIB files: convert them with cdo or cfgrib",
    )


def _check_root(path: Path) -> None:
    """h5netcdf leaves a half-made object behind where the root cannot be read, and its finaliser
    then prints a traceback.
    """
    with open_hdf5(path) as file, reading(path):
        file.attrs.get("_nc3_strict")


def _require_climate() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{', '.join(missing)}: not installed, and NetCDF and Zarr files need it",
            hint="pip install 'universal-physics-stack[climate]'",
        )
