"""Protocols by name: how many frames are given, how many are predicted, of which split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from ups.config.base import Config, read_yaml, validated
from ups.config.schema import EvaluationConfig
from ups.errors import UsageError, did_you_mean
from ups.evaluation.report import OWN
from ups.registry import DatasetCard

NAMED = ("ic", "pdebench", "well")
_WELL_HISTORY = 4


class ProtocolConfig(Config):
    """What a protocol file may say; all of it is optional but the history.

    `ups eval --protocol FILE.yaml`.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")] = Field(
        OWN, description="In file names and on the leaderboard; the file's name without one."
    )
    history: PositiveInt = Field(description="True frames given.")
    horizon: PositiveInt | None = Field(None, description="Frames predicted; null is to the end.")
    split: str = Field("test", pattern="^(valid|test)$")

    def applied(self, settings: EvaluationConfig) -> EvaluationConfig:
        """The settings of an evaluation under this protocol."""
        return settings.model_copy(
            update={"history": self.history, "horizon": self.horizon, "split": self.split}
        )


def find_protocol(name: str, card: DatasetCard) -> ProtocolConfig:
    """A protocol by name, or from a YAML file.

    'ic' gives the first frame; 'pdebench' as many as PDEBench gives for this dataset, and 'well'
    four, as The Well does. All predict to the end of the test trajectories.

    Raises:
        UsageError: Neither a name nor a file.
        ConfigError: The file says something that a protocol may not say.
    """
    history = {"ic": 1, "pdebench": card.pdebench_history, "well": _WELL_HISTORY}
    if name in history:
        return ProtocolConfig(name=name, history=history[name])
    path = Path(name)
    if not path.is_file():
        raise UsageError(
            f"--protocol {name}: neither a file nor one of {', '.join((OWN, *NAMED))}"
            f"{did_you_mean(name, (OWN, *NAMED))}"
        )
    return validated(ProtocolConfig, {"name": path.stem, **read_yaml(path)}, str(path))
