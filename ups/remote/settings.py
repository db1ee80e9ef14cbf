"""UPS_HOME/remote.yaml: what the user prefers about remote jobs. No secret belongs there."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, NonNegativeFloat

from ups import files, paths
from ups.config.base import Config, read_yaml, validated
from ups.errors import RemoteError
from ups.remote.spec import EngineName


class Settings(Config):
    """Preferences; all may be left out."""

    ask_above: NonNegativeFloat = Field(
        5.0, description="US dollars of worst-case cost above which a launch asks first."
    )
    engine: EngineName | None = Field(None, description="Which one where none is named.")
    project: str = Field("ups", description="Under which jobs are counted.")
    options: dict[EngineName, dict[str, str]] = Field(
        default_factory=dict, description="Of each engine, as --option gives them: host, partition."
    )


def settings_file() -> Path:
    return paths.home() / "remote.yaml"


def load_settings() -> Settings:
    """Raises `ConfigError` that names file and key."""
    path = settings_file()
    if not path.is_file():
        return Settings()
    return validated(Settings, read_yaml(path), paths.display(path))


def save_settings(settings: Settings) -> None:
    text = yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    files.write_text(settings_file(), text, RemoteError)
