"""What a sweep may try: the typed form of a space file.

parameters:
  stages.operator.optimizer.lr: {log_uniform: [1e-4, 1e-2]}
  operator.width: {choice: [32, 64]}
objectives: [valid_nrmse, train_seconds]
sampler: {kind: tpe, seed: 0}
pruner: {kind: median, warmup_validations: 2}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from ups.config.base import Config, read_yaml, validated
from ups.config.loading import load_experiment
from ups.config.schema import Experiment
from ups.errors import ConfigError

Objective = Literal["valid_nrmse", "train_seconds", "train_flops", "num_parameters"]


class Distribution(Config):
    """The values of one key; exactly one form is given."""

    uniform: tuple[float, float] | None = Field(None, description="Any number from a to b.")
    log_uniform: tuple[float, float] | None = Field(
        None, description="Any number from a to b, each factor of ten alike."
    )
    integers: tuple[int, int] | None = Field(None, description="Whole numbers, ends included.")
    log_integers: tuple[int, int] | None = None
    step: PositiveInt | None = Field(None, description="With `integers`: a, a + step, ...")
    choice: tuple[Any, ...] | None = Field(None, description="Any YAML values, one of them.")

    @model_validator(mode="after")
    def _one_form(self) -> Distribution:
        given = [name for name in _FORMS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(_FORMS)}, found {', '.join(given) or 'none'}")
        if self.step is not None and given != ["integers"]:
            raise ValueError("step: belongs to integers")
        if given == ["choice"]:
            if not self.choice:
                raise ValueError("choice: is empty")
            return self
        low, high = self.ends
        if not low < high:
            raise ValueError(f"{given[0]}: {low:g} is not below {high:g}")
        if given[0].startswith("log") and low <= 0:
            raise ValueError(f"{given[0]}: {low:g} is not positive")
        return self

    @property
    def ends(self) -> tuple[int | float, int | float]:
        """Smallest and largest number."""
        found = self.uniform or self.log_uniform or self.integers or self.log_integers
        if found is None:
            raise ValueError("a choice has no ends")
        return found

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Every choice, or the two ends."""
        return self.choice if self.choice is not None else self.ends


_FORMS = ("uniform", "log_uniform", "integers", "log_integers", "choice")


class SamplerConfig(Config):
    """How the next point is chosen."""

    kind: Literal["tpe", "random", "nsga2", "grid"] = Field(
        "tpe",
        description="'tpe' learns from finished trials, also with several objectives; 'nsga2' "
        "breeds them; 'grid' tries every combination of choices.",
    )
    seed: NonNegativeInt = 0
    startup_trials: PositiveInt = Field(10, description="tpe: drawn at random first.")


class PrunerConfig(Config):
    """When a trial is given up: by its validation nRMSE against those of others at that step."""

    kind: Literal["median", "successive_halving", "none"] = Field(
        "median", description="'median': worse than half of the others at the same point."
    )
    startup_trials: NonNegativeInt = Field(5, description="Median: finished before any is pruned.")
    warmup_validations: NonNegativeInt = Field(2, description="Of each trial, never pruned in.")


class Space(Config):
    """A space file."""

    parameters: dict[str, Distribution] = Field(min_length=1)
    objectives: tuple[Objective, ...] = Field(
        ("valid_nrmse",),
        description="To be made small; of two or more the result is a Pareto front.",
    )
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig | None = Field(
        None, description="null: median with one objective, none with several."
    )

    @model_validator(mode="after")
    def _fits(self) -> Space:
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives: name each once, at least one")
        several = len(self.objectives) > 1
        if several and self.pruner is not None and self.pruner.kind != "none":
            raise ValueError("pruner: with several objectives no trial is worse at every point")
        if self.pruning.kind != "none" and self.objectives != ("valid_nrmse",) and not several:
            raise ValueError("pruner: goes by valid_nrmse, which is not the objective; kind: none")
        if self.sampler.kind == "grid":
            free = [name for name, one in self.parameters.items() if one.choice is None]
            if free:
                raise ValueError(f"sampler: grid needs choices, and {free[0]} has none")
        return self

    @property
    def pruning(self) -> PrunerConfig:
        """The pruner in use."""
        if self.pruner is not None:
            return self.pruner
        return PrunerConfig(kind="none" if len(self.objectives) > 1 else "median")


def load_space(path: Path) -> Space:
    """Read a space file.

    Raises:
        ConfigError: Naming file and key.
    """
    return validated(Space, read_yaml(path), str(path))


def check_keys(space: Space, config: str, overrides: Sequence[str], where: str) -> None:
    """Refuse a key that the config does not have, or none of whose values it takes.

    Raises:
        ConfigError: Naming the key.
    """
    load_experiment(config, overrides)
    for key, distribution in space.parameters.items():
        problems = []
        for value in distribution.extremes:
            try:
                load_experiment(config, [*overrides, override(key, value)])
            except ConfigError as error:
                problems.append(error)
        if len(problems) == len(distribution.extremes):
            raise ConfigError(f"{where}: parameters.{key}: {problems[0]}", hint=problems[0].hint)


def override(key: str, value: Any) -> str:
    """`KEY=VALUE` as `--set` takes it."""
    return f"{key}={json.dumps(value)}"


def experiment_at(config: str, overrides: Sequence[str], values: Mapping[str, Any]) -> Experiment:
    """The config with the values of one point, which have the last word.

    Raises:
        ConfigError: The values do not go together.
    """
    return load_experiment(config, [*overrides, *(override(k, v) for k, v in values.items())])
