"""YAML file + `extends` + `--set a.b=c` -> one frozen `Experiment`: the only way in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ups import paths
from ups.config.base import read_yaml, validated
from ups.config.models import SIZES
from ups.config.schema import Experiment
from ups.errors import ConfigError, did_you_mean

DEFAULT_CONFIG = "burgers1d.yaml"
_INSTEAD_OF = {
    "dataset": ("task",),
    "task": ("dataset", "version", "stride", "first_frame", "last_frame"),
    "coefficients": ("compression",),
    "compression": ("coefficients",),
}


def load_experiment(config: str | Path | None = None, overrides: Sequence[str] = ()) -> Experiment:
    """Read a config, its ancestors and the overrides.

    Args:
        config: A path, or the name of a file in `configs/`; None is `configs/burgers1d.yaml`.
        overrides: `a.b=value` each; the value is read as YAML.

    Raises:
        ConfigError: Naming file, key and, for an unknown key, the nearest valid one.
    """
    path = find_config(config or DEFAULT_CONFIG)
    content = _with_ancestors(path, seen=())
    if overrides:
        content = _with_defaults(content, path)
    for override in overrides:
        content = merged(content, parse_override(override))
    where = (
        f"{paths.display(path)} with {' '.join(overrides)}" if overrides else paths.display(path)
    )
    return validated(Experiment, content, where)


def _with_defaults(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Every key of a valid config spelled out, so that an override finds the `kind` beside it.

    What is not valid yet, because an override completes it, is returned as it is.
    """
    try:
        return validated(Experiment, content, str(path)).model_dump(mode="json")
    except ConfigError:
        return content


def find_config(config: str | Path) -> Path:
    """The file meant by a path or by a bare name such as `burgers1d`."""
    given = Path(config)
    if given.is_file():
        return given
    names = [given.name] if given.suffix else [f"{given.name}.yaml"]
    for folder in paths.config_dirs():
        for name in names:
            if given.parent == Path() and (folder / name).is_file():
                return folder / name
    known = [path.stem for folder in paths.config_dirs() for path in folder.glob("*.yaml")]
    raise ConfigError(
        f"{config}: no such config{did_you_mean(given.stem, known)}",
        hint=f"shipped configs: {', '.join(sorted(known))}",
    )


def _with_ancestors(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: extends: the files extend each other in a circle")
    content = read_yaml(path)
    parent = content.pop("extends", None)
    if parent is None:
        return content
    parent_path = path.parent / str(parent)
    if not parent_path.is_file():
        raise ConfigError(f"{path}: extends: no such file '{parent_path}'")
    return merged(_with_ancestors(parent_path, (*seen, path.resolve())), content)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`: mappings merge, everything else replaces.

    A mapping that names another `kind` replaces, since its keys belong to another type. One that
    names a `size` takes from below nothing that this size sets; and of keys that stand for one
    another (`dataset` and `task`) the one that is named replaces the other.
    """
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not _other_kind(old, value):
            dropped = {*SIZES.get(str(value.get("size")), ()), *_replaced_by(value)}
            result[key] = merged({k: v for k, v in old.items() if k not in dropped}, value)
        else:
            result[key] = value
    return result


def _replaced_by(over: Mapping[str, Any]) -> set[str]:
    """Keys that stand for the same as one that `over` names."""
    named = [key for key in _INSTEAD_OF if over.get(key)]
    return {other for key in named for other in _INSTEAD_OF[key]}


def _other_kind(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "kind" in new and new["kind"] != old.get("kind")


def parse_override(override: str) -> dict[str, Any]:
    """`a.b=1e-3` -> `{"a": {"b": "1e-3"}}`; typed fields turn the text into a number."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {override}: expected KEY=VALUE, for example seed=1")
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML") from error
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def to_yaml(experiment: Experiment) -> str:
    """The resolved config, fit to be passed back to `ups train --config`."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def json_schema() -> str:
    return json.dumps(Experiment.model_json_schema(), indent=2)
