"""`velocity[0]`: one component of an array that keeps its components in the last axis."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ups.errors import ConfigError
from ups.registry import FieldSpec

_COMPONENT = re.compile(r"([^\[\]]+)(?:\[([0-9]{1,4})\])?")


def split_component(name: str) -> tuple[str, int | None]:
    """Split a raw name: "velocity[0]" -> ("velocity", 0), "density" -> ("density", None).

    Raises:
        ConfigError: The brackets hold no index or are not closed.
    """
    found = _COMPONENT.fullmatch(name)
    if found is None:
        raise ConfigError(f"raw: '{name}' is neither a name nor a name with an index, name[0]")
    array, index = found.groups()
    return array, None if index is None else int(index)


def by_array(fields: Iterable[FieldSpec]) -> dict[str, list[tuple[int, int | None]]]:
    """Raw array -> [(channel in the card's order, component in the array)], so that an array of
    several wanted components is read once.
    """
    arrays: dict[str, list[tuple[int, int | None]]] = {}
    for channel, field in enumerate(fields):
        array, component = split_component(field.raw or field.name)
        arrays.setdefault(array, []).append((channel, component))
    return arrays
