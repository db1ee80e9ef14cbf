"""The frozen base of every typed YAML object, and its validation errors in one readable line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ups.errors import ConfigError, did_you_mean

Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]


class Config(BaseModel):
    """Frozen; a key that is not a field is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; `1e-3`, which YAML calls a string, is left to the typed fields."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, found {type(content).__name__}")
    return content


def validated(model: type[Model], content: Mapping[str, Any], where: str) -> Model:
    """Build `model` from `content`, or raise one `ConfigError` that names file, key and remedy.

    Args:
        where: What the reader should open, usually a file name.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        items = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        lines = [_explain(model, item) for item in items]
        more = f" (and {len(lines) - 1} more: {'; '.join(lines[1:])})" if len(lines) > 1 else ""
        raise ConfigError(f"{where}: {lines[0]}{more}") from error


def _explain(model: type[BaseModel], item: Any) -> str:
    location: tuple[int | str, ...] = item["loc"]
    key = ".".join(str(part) for part in _without_union_tags(model, location)) or "(top level)"
    if item["type"] == "extra_forbidden":
        known = _keys_beside(model, location)
        return f"{key}: unknown key{did_you_mean(str(location[-1]), known)}"
    if item["type"] == "missing":
        return f"{key}: required key is missing"
    if item["type"] == "union_tag_not_found":
        return f"{key}.kind: required key is missing"
    message = item["msg"].removeprefix("Value error, ")
    found = item["input"]
    if isinstance(found, dict | list) or item["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key}: {message}, found {found!r}"


def _keys_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that would have been valid where `location` points."""
    owner: Any = model
    for part in location[:-1]:
        owner = _step_into(owner, part)
        if owner is None:
            return []
    return list(_fields(owner))


def _without_union_tags(model: type[BaseModel], location: tuple[int | str, ...]) -> list[int | str]:
    """Drop the parts of an error's place that name a union member rather than a YAML key."""
    kept: list[int | str] = []
    owner: Any = model
    for part in location:
        is_tag = owner is not None and not _is_model(owner) and part in _tags(owner)
        if not is_tag:
            kept.append(part)
        owner = _step_into(owner, part) if owner is not None else None
    return kept


def _step_into(owner: Any, part: int | str) -> Any:
    """The type found under `part` of `owner`: a field, a list item, a dict value or a tag."""
    if _is_model(owner):
        field = owner.model_fields.get(part)
        return field.annotation if field else None
    for member in get_args(owner):
        if _is_model(member) and part in _model_tags(member):
            return member
    members = [m for m in get_args(owner) if m is not type(None)]
    for member in members:
        if _is_model(member) and not _tags(owner):
            return member if isinstance(part, int) else _step_into(member, part) or member
    for member in members:
        if get_args(member):
            return _step_into(member, part)
    return None


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _fields(owner: Any) -> list[str]:
    if _is_model(owner):
        return list(owner.model_fields)
    return [name for member in get_args(owner) if _is_model(member) for name in member.model_fields]


def _tags(union: Any) -> set[str]:
    members = get_args(union)
    return {tag for member in members if _is_model(member) for tag in _model_tags(member)}


def _model_tags(model: type[BaseModel]) -> tuple[str, ...]:
    """The values of a `kind: Literal[...]` field, by which a union tells its members apart."""
    kind = model.model_fields.get("kind")
    return get_args(kind.annotation) if kind else ()
