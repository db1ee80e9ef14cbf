"""Which engine a command means, and which can be used from here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from ups import paths
from ups.errors import UsageError
from ups.remote import drivers
from ups.remote.driver import Driver
from ups.remote.settings import Settings, load_settings
from ups.remote.spec import EngineName

ENGINES: tuple[EngineName, ...] = get_args(EngineName)
AUTO = "auto"


@dataclass(frozen=True)
class Engine:
    """An engine with its options.

    Attributes:
        why: Why it was taken, in words; empty where the user named it.
        is_set_up: Whether the user has ever meant it; else its program just happens to be here.
    """

    name: EngineName
    options: Mapping[str, str]
    why: str = ""
    is_set_up: bool = True

    def driver(self) -> Driver:
        return drivers.driver_of(self.name, self.options)


def choose(wanted: str, options: Mapping[str, str]) -> Engine:
    """The engine named, else the only one that can be used from here.

    Args:
        wanted: `auto` or an engine's name.
        options: From the command line; those of the settings stand behind them.
    Raises:
        UsageError: None can be used, or several can.
    """
    settings = load_settings()
    if wanted != AUTO:
        name = next((one for one in ENGINES if one == wanted), None)
        if name is None:
            raise UsageError(f"--engine {wanted}: one of {AUTO}, {', '.join(ENGINES)}")
        return Engine(name, _merged(name, options, settings))
    if settings.engine is not None:
        why = "named in remote.yaml"
        return Engine(settings.engine, _merged(settings.engine, options, settings), why)
    for look in (lambda name: _asked_for(name, options), lambda name: _set_up(name, settings),
                 _found):  # fmt: skip
        known = {name: why for name in ENGINES if (why := look(name))}
        if len(known) == 1:
            name, why = next(iter(known.items()))
            return Engine(name, _merged(name, options, settings), why)
        if known:
            listed = "; ".join(f"{name} ({why})" for name, why in known.items())
            hint = f"--engine {' or --engine '.join(known)}; or `engine:` in remote.yaml"
            raise UsageError(f"several engines can be used: {listed}", hint=hint)
    raise UsageError(
        "no engine is set up on this machine",
        hint="ups remote setup for clouds; --option host=NAME for ssh; sbatch for Slurm",
    )


def usable() -> list[Engine]:
    """Every engine that can be used from here, with the options of the settings."""
    settings = load_settings()
    found = []
    for name in ENGINES:
        why = _set_up(name, settings)
        if why or (here := _found(name)):
            found.append(Engine(name, _merged(name, {}, settings), why or here, bool(why)))
    return found


def _merged(name: EngineName, options: Mapping[str, str], settings: Settings) -> Mapping[str, str]:
    return {**settings.options.get(name, {}), **options}


def _asked_for(name: EngineName, options: Mapping[str, str]) -> str:
    """Why options mean an engine; empty where they do not."""
    if "partition" in options:
        return "a partition is given" if name == "slurm" else ""
    return "a host is given" if name == "ssh" and "host" in options else ""


def _set_up(name: EngineName, settings: Settings) -> str:
    """Where the user has set an engine up; empty where nowhere."""
    if name in settings.options:
        return "set up in remote.yaml"
    if name != "dstack":
        return ""
    if os.environ.get("UPS_DSTACK_URL"):
        return "UPS_DSTACK_URL is set"
    is_here = find_spec("dstack") is not None and _dstack_folder().is_dir()
    return "its server is set up here" if is_here else ""


def _found(name: EngineName) -> str:
    """Whether this machine has an engine that needs no setting up, in words."""
    return "sbatch is here" if name == "slurm" and _has_sbatch() else ""


def _has_sbatch() -> bool:
    return shutil.which("sbatch") is not None


def _dstack_folder() -> Path:
    return paths.home() / "remote" / "dstack"
