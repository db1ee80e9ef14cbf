"""Several runs side by side: in which settings they differ, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_ABSENT = object()


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """The dotted keys whose values are not the same everywhere -> the value of each config.

    None stands where a config has no such key. A list is one value.
    """
    flat = [dict(_flat(config)) for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    found = {}
    for key in keys:
        values = [one.get(key, _ABSENT) for one in flat]
        if any(value != values[0] for value in values[1:]):
            found[key] = tuple(None if value is _ABSENT else value for value in values)
    return found


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in config.items():
        name = f"{prefix}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return found
