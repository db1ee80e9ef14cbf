"""The YAML text of a simulation's settings that some layouts keep in an attribute."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import yaml

from ups.errors import DataError

_LIMIT = 64 * 1024
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_settings(holder: h5py.Group, path: Path) -> dict[str, Any]:
    """The mapping in the attribute `config` of a file or group.

    Raises:
        DataError: There is none, it is no text, not YAML, or not a mapping.
    """
    where = f"{path}: {holder.name.lstrip('/')}/config".replace(" /", " ")
    if "config" not in holder.attrs:
        raise DataError(f"{where}: attribute is missing, found {sorted(holder.attrs)}")
    text = holder.attrs["config"]
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    if not isinstance(text, str) or len(text) > _LIMIT:
        raise DataError(f"{where}: expected a short text, found {type(text).__name__}")
    try:
        settings = yaml.load(text, Loader=_LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: not YAML: {' '.join(str(error).split())[:160]}") from error
    if not isinstance(settings, dict):
        raise DataError(f"{where}: expected keys and values, found {type(settings).__name__}")
    return settings


def number_at(settings: dict[str, Any], dotted: str) -> float | None:
    """The finite number at a dotted path such as "sim.dam_radius"; None if there is none."""
    found: Any = settings
    for key in dotted.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return as_number(found)


def as_number(found: object) -> float | None:
    """`found` if it is a finite number; PyYAML reads 1e-3, without a point, as text."""
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    try:
        number = float(found)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
