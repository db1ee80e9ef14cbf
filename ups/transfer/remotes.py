"""Which remotes there are: UPS_HOME/remotes.yaml, the environment, and what needs no entry.

The file says where a place is and which environment variables hold its credentials, never what
they hold. Without an entry there are `b2` while the B2_* variables are set, `wandb`, any folder by
its path, and `name:path` of the user's own rclone config.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ups import paths
from ups.errors import ConfigError, RemoteError, UsageError, did_you_mean
from ups.files import exclusive, write_text
from ups.transfer.remote import KINDS, OF_RCLONE, Remote

__all__ = ["KINDS", "Known", "Remote", "add", "find_remote", "load", "make", "remove"]

_B2_VARIABLES = ("B2_KEY_ID", "B2_APP_KEY", "B2_S3_ENDPOINT", "B2_BUCKET")
_HEADER = "# Remotes of ups: places and names of environment variables, never a secret.\n"
_RESERVED = ("wandb",)


@dataclass(frozen=True)
class Known:
    """The remotes that have a name, and which of them is meant where none is named."""

    remotes: dict[str, Remote] = field(default_factory=dict)
    default: str | None = None


def remotes_file() -> Path:
    """UPS_REMOTES_FILE, which remote jobs have of their own, or the user's in UPS_HOME."""
    if named := os.environ.get("UPS_REMOTES_FILE"):
        return Path(named)
    return paths.home() / "remotes.yaml"


def load() -> Known:
    """Configured remotes, and `b2` while its variables are set. UPS_REMOTE overrides the default.

    Raises:
        ConfigError: remotes.yaml says something that it may not.
    """
    known = _load_file()
    remotes, default = dict(known.remotes), known.default
    if "b2" not in remotes and all(os.environ.get(name) for name in _B2_VARIABLES):
        remotes["b2"] = Remote(name="b2", kind="b2")
        default = default or "b2"
    if default is None and len(remotes) == 1:
        default = next(iter(remotes))
    return Known(remotes, os.environ.get("UPS_REMOTE") or default)


def find_remote(spec: str | None = None) -> Remote:
    """The remote that a user names.

    Args:
        spec: A configured name, 'b2', 'wandb' or `wandb:entity/project`, the path of a folder, or
            `name:path` of the user's rclone config. None is the default remote.
    Raises:
        RemoteError: There is no such remote, or none is configured.
    """
    known = load()
    spec = spec if spec is not None else known.default
    if spec is None:
        raise RemoteError("no remote is configured", hint="ups remotes add --help")
    if spec in known.remotes:
        return known.remotes[spec]
    if spec == "wandb" or spec.startswith("wandb:"):
        return make("wandb", kind="wandb", folder=spec.removeprefix("wandb").lstrip(":"))
    if spec.startswith(("/", "./", "../", "~")) or spec in (".", ".."):
        return make("folder", kind="local", folder=spec)
    if OF_RCLONE.match(spec):
        return make(spec.partition(":")[0], kind="rclone", folder=spec)
    if "/" in spec or Path(spec).is_dir():
        return make("folder", kind="local", folder=spec)
    raise RemoteError(
        f"there is no remote {spec!r}{did_you_mean(spec, known.remotes)}",
        hint="ups remotes list; a folder is named by its path, e.g. ./folder",
    )


def make(name: str, **options: Any) -> Remote:
    """A remote from options, checked.

    Raises:
        ConfigError: An option is missing, unknown or not valid; its value is not repeated.
    """
    return _validated(name, options, f"remote {_shown(name)}")


def add(remote: Remote, *, default: bool = False, replace_it: bool = False) -> None:
    """Enter a remote into remotes.yaml; the first one becomes the default.

    Raises:
        UsageError: There is one of this name and `replace_it` is not set, or the name is reserved.
    """
    if remote.name in _RESERVED:
        raise UsageError(f"{remote.name} is a name of ups' own", hint="choose another name")
    with exclusive(remotes_file(), "changing the remotes", RemoteError, wait_s=5.0):
        known = _load_file()
        if remote.name in known.remotes and not replace_it:
            raise UsageError(
                f"there is a remote {remote.name} already",
                hint=f"ups remotes remove {remote.name}, or add it with --replace",
            )
        chosen = remote.name if default or not known.remotes else known.default
        _save(Known({**known.remotes, remote.name: remote}, chosen))


def remove(name: str) -> None:
    """Take a remote out of remotes.yaml; what is stored there stays.

    Raises:
        UsageError: There is none of this name in the file.
    """
    with exclusive(remotes_file(), "changing the remotes", RemoteError, wait_s=5.0):
        known = _load_file()
        if name not in known.remotes:
            why = "comes from B2_* variables" if name == "b2" else "is not configured"
            raise UsageError(
                f"remote {name} {why}{did_you_mean(name, known.remotes)}", hint="ups remotes list"
            )
        kept = {key: value for key, value in known.remotes.items() if key != name}
        _save(
            replace(known, remotes=kept, default=None if known.default == name else known.default)
        )


def _load_file() -> Known:
    path = remotes_file()
    if not path.is_file():
        return Known()
    where = paths.display(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        at = "" if line is None else f" (line {line + 1})"
        raise ConfigError(f"{where}: is not YAML{at}", hint=f"mend or remove {where}") from None
    entries = content.get("remotes", {}) if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not set(content) <= {"remotes", "default"}:
        raise ConfigError(f"{where}: must hold `remotes` and `default`", hint=f"mend {where}")
    remotes = {
        str(name): _validated(str(name), options, f"{where}: {_shown(str(name))}")
        for name, options in entries.items()
    }
    default = content.get("default")
    if default is not None and default not in remotes:
        raise ConfigError(f"{where}: default: there is no such remote", hint=f"mend {where}")
    return Known(remotes, default)


def _save(known: Known) -> None:
    entries = {
        name: remote.model_dump(exclude={"name"}, exclude_defaults=True)
        for name, remote in sorted(known.remotes.items())
    }
    content = {"default": known.default, "remotes": entries}
    text = _HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_text(remotes_file(), text, RemoteError)


def _validated(name: str, options: Any, where: str) -> Remote:
    """A remote, or a ConfigError that repeats no value: one of them may be a secret."""
    if not isinstance(options, dict) or "name" in options:
        raise ConfigError(f"{where}: must be options of a remote", hint="ups remotes add --help")
    try:
        return Remote(name=name, **options)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        key = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            what = f"no such option{did_you_mean(key, Remote.model_fields)}"
        text = f"{where}: {key}: {what}" if key else f"{where}: {what}"
        raise ConfigError(text, hint="ups remotes add --help") from None


def _shown(name: str) -> str:
    """A remote's name for messages; what is no name may be a secret, and is not shown."""
    return name if len(name) <= 24 and name.isprintable() else "(no name)"
