"""Calendars: the times of a NetCDF or Zarr file in the card's unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.data.layouts.base import rising
from ups.data.layouts.spacing import uniform_step
from ups.data.layouts.xarray_open import values_of
from ups.errors import ConfigError, DataError
from ups.registry import DatasetCard

Array = npt.NDArray[Any]

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_TOLERANCE = 1e-3


def time_step(coordinate: Any, card: DatasetCard, path: Path) -> float | None:
    """The constant step of a time coordinate, in the card's unit; None for one frame.

    Dates of any calendar count by the time that passes in it: in a calendar without leap days,
    1 March is one day after 28 February. Plain numbers are taken to be in the card's unit.

    Raises:
        DataError: A step differs from the others, or from the card's.
        ConfigError: Times are dates and the card's unit is none of s, min, h, d.
    """
    values = values_of(coordinate, path)
    name = str(coordinate.name)
    if values.ndim != 1:
        raise DataError(f"{path}: {name}: shape {values.shape} is not one axis")
    elapsed = _elapsed(values, card, name, path)
    rising(elapsed, name, path)
    step = _step(values, elapsed, name, card.time.unit, path)
    stated = card.time.step
    if step and stated and abs(step - stated) > _TOLERANCE * stated:
        raise DataError(
            f"{path}: {name}: frames are {step:g} {card.time.unit} apart, the card says {stated:g}",
            hint=f"write `step: {step:g}` under `time` of the card",
        )
    return step


def _elapsed(values: Array, card: DatasetCard, name: str, path: Path) -> Array:
    """(time,) float64 since the first entry, in the card's unit."""
    if values.dtype.kind in "fiu":
        return values.astype(np.float64)
    dated = hasattr(values.flat[0], "calendar") if values.dtype.kind == "O" else False
    if values.dtype.kind != "M" and not dated:
        raise DataError(f"{path}: {name}: {values.dtype} is neither a date nor a number")
    if card.time.unit not in _SECONDS:
        raise ConfigError(
            f"{card.key}: time.unit: '{card.time.unit}', but the times of {path.name} are dates",
            hint=f"one of {', '.join(_SECONDS)}",
        )
    if values.dtype.kind == "M":
        seconds = (values - values[0]) / np.timedelta64(1, "s")
    else:
        seconds = np.asarray([(date - values[0]).total_seconds() for date in values])
    return seconds.astype(np.float64) / _SECONDS[card.time.unit]


def _step(values: Array, elapsed: Array, name: str, unit: str, path: Path) -> float | None:
    try:
        return uniform_step(elapsed, name, path, tolerance=_TOLERANCE, unit=f" {unit}")
    except DataError as error:
        steps = np.diff(elapsed)
        usual = np.median(steps)
        at = int(np.flatnonzero(np.abs(steps - usual) > _TOLERANCE * usual)[0])
        raise DataError(
            f"{error}: after {_date(values[at])}",
            hint="cut the file there, or fill the gap, so that all frames are equally far apart",
        ) from error


def _date(value: Any) -> str:
    if isinstance(value, np.datetime64):
        return str(np.datetime_as_string(value, unit="m"))
    return value.isoformat() if hasattr(value, "isoformat") else f"{value:g}"
