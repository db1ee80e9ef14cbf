"""A benchmark: on which data and by which protocols champions are made, and what a run must meet.

`configs/benchmarks/<name>.yaml`, or any file of that form.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from ups import paths
from ups.config.base import Config, read_yaml, validated
from ups.errors import ConfigError, did_you_mean

FOLDER = "benchmarks"


class BenchmarkTask(Config):
    """One dataset to be good at."""

    dataset: str = Field(description="Key in registry/.")
    version: str | None = Field(
        None, description="Converted version; null is the one that the run was trained on."
    )

    @property
    def label(self) -> str:
        return self.dataset if self.version is None else f"{self.dataset} ({self.version})"


class ProxyConfig(Config):
    """The small evaluation, which spares the large one to runs that would fail it."""

    trajectories: PositiveInt = Field(16, description="Evenly spaced over the split.")
    margin: NonNegativeFloat = Field(
        0.25, description="A run may be worse than the champion by this share, and still go on."
    )


class AccuracyGate(Config):
    """nRMSE against the current champion, for every task and protocol."""

    test: Literal["paired", "mean"] = Field(
        "paired",
        description="'paired': the upper end of the 95 % bootstrap interval of the difference, "
        "over the same trajectories, is held against the tolerance; 'mean': the difference itself.",
    )
    tolerance: NonNegativeFloat = Field(
        0.0, description="Share of the champion's nRMSE by which one task may be worse. Over all "
        "tasks and protocols together, the geometric mean must be better in any case.",
    )  # fmt: skip
    limit: PositiveFloat | None = Field(None, description="Largest nRMSE mean of any task.")
    persistence_ratio: PositiveFloat | None = Field(
        1.0, description="Smallest nRMSE of the trivial predictor / nRMSE."
    )


class MeasureGate(Config):
    """A number in a section of the report, against the champion's, a limit, or both."""

    value: Annotated[str, Field(pattern=r"^[^.\s]+(\.[^.\s]+)+$")] = Field(
        description="Where it is: 'section.key.key', 'model.<metric>.<reduction>' for the table."
    )
    better: Literal["lower", "higher"] = "lower"
    tolerance: NonNegativeFloat | None = Field(
        0.0, description="Share by which it may be worse than the champion's; null asks nothing."
    )
    limit: float | None = Field(None, description="What it must reach, champion or not.")


class BenchmarkGates(Config):
    """Everything that a run must meet to become champion."""

    accuracy: AccuracyGate = AccuracyGate()
    required: tuple[str, ...] = Field(
        (),
        description="Gates of the report that must be there and be met: names, with * for any "
        "text, or kinds (accuracy, physics, calibration, health, data).",
    )
    if_measured: tuple[str, ...] = Field(
        ("health", "data", "physics"), description="The same, where the report has such a gate."
    )
    measures: tuple[MeasureGate, ...] = ()


class Benchmark(Config):
    """Where champions are made."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    tasks: Annotated[tuple[BenchmarkTask, ...], Field(min_length=1)]
    protocols: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("ic",),
        description="By name or file; of steady problems, which have no frames to give, one "
        "takes the place of all.",
    )
    metric: Literal["nrmse", "relative_l2", "vrmse", "rmse"] = Field(
        "nrmse", description="Its mean over trajectories decides."
    )
    proxy: ProxyConfig = ProxyConfig()
    gates: BenchmarkGates = BenchmarkGates()

    @model_validator(mode="after")
    def _protocols_are_the_same_for_all(self) -> Benchmark:
        if "own" in self.protocols:
            raise ValueError("protocols: 'own' differs from run to run; name ic, pdebench, well or "
                             "a file")  # fmt: skip
        labels = [task.label for task in self.tasks]
        if len(set(labels)) < len(labels):
            raise ValueError(f"tasks: the same one twice: {', '.join(labels)}")
        return self


def find_benchmark(name: str | Path) -> Benchmark:
    """A benchmark by the name of a file in configs/benchmarks/, or by its path.

    Raises:
        ConfigError: There is none, or it says what it may not say.
    """
    path = Path(name)
    known = known_benchmarks()
    if not path.is_file():
        path = known.get(str(name), path)
    if not path.is_file():
        raise ConfigError(
            f"{name}: no such benchmark{did_you_mean(str(name), known)}",
            hint=f"benchmarks: {', '.join(known) or 'none yet'}; or the path of a YAML file",
        )
    return validated(Benchmark, {"name": path.stem, **read_yaml(path)}, paths.display(path))


def known_benchmarks() -> dict[str, Path]:
    """Name -> file of every benchmark that comes with ups or is the user's own."""
    folders = [folder / FOLDER for folder in paths.config_dirs()]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
