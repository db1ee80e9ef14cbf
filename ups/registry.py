"""`registry/*.yaml` -> `DatasetCard`: everything that is known about a dataset, one file each."""

from __future__ import annotations

import itertools
import math
import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ups import paths
from ups.config.base import Config, read_yaml, validated
from ups.errors import ConfigError, did_you_mean

Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Boundary = Literal["periodic", "dirichlet", "neumann", "robin", "outflow"]


class Pde(Config):
    """The equation, its name across datasets, and what it keeps."""

    family: str = Field(description="Name shared by all datasets of this equation.")
    equation: str
    notes: str = ""
    conserved: tuple[str, ...] = Field((), description="Fields whose spatial mean is constant.")


class Axis(Config):
    """One space axis of the domain."""

    name: str
    bounds: tuple[float, float]
    unit: str = "1"
    boundary: Boundary
    points: PositiveInt = Field(description="Grid points of the published files.")


class Discretisation(Config):
    """How space is sampled."""

    kind: Literal["grid", "mesh", "particles"]
    axes: tuple[Axis, ...]
    centring: Literal["cell", "node"] = "cell"


class Time(Config):
    """How time is sampled; a static problem has one frame and no step."""

    frames: PositiveInt
    step: PositiveFloat | None = Field(description="dt between stored frames.")
    unit: str = "1"


class FieldSpec(Config):
    """One physical field: a named channel."""

    name: str
    description: str
    unit: str = "1"
    normalisation: Literal["rms", "standard"] = Field(
        "rms",
        description="'rms' divides by the training split's RMS and keeps zero at zero; "
        "'standard' subtracts the mean and divides by the standard deviation.",
    )


class Parameter(Config):
    """One PDE parameter of a trajectory."""

    name: str
    symbol: str
    description: str
    unit: str = "1"
    range: tuple[float, float]
    scale: Literal["linear", "log"] = "linear"
    attribute: str = Field(description="Its name in the raw file's attributes.")

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Parameter:
        low, high = self.range
        if not low < high or (self.scale == "log" and low <= 0):
            raise ValueError(f"range [{low}, {high}] must rise, and be positive for a log scale")
        return self

    def unit_interval(self, value: float) -> float:
        """Map `value` to [-1, 1] over the card's range, along the card's scale."""
        low, high = self.range
        if self.scale == "log":
            low, high, value = math.log(low), math.log(high), math.log(value)
        return 2 * (value - low) / (high - low) - 1


class RawFile(Config):
    """One published original."""

    name: str
    url: str
    md5: Md5
    folder: str = Field("", description="Folder in the publisher's tree.")
    size_bytes: PositiveInt | None = Field(None, description="Exact, where it is known.")
    trajectories: PositiveInt
    parameters: dict[str, float] = Field(default_factory=dict)


class Source(Config):
    """Who published the data, under what terms, and how to cite it."""

    name: str
    doi: str
    licence: str
    citation: str
    layout: Literal["pdebench_tensor"] = Field(description="Reader in ups/data/layouts.")
    files: tuple[RawFile, ...] = ()


class KnownIssue(Config):
    """A defect of the public data that a user should know before trusting a number."""

    id: str
    summary: str
    consequence: str
    reference: str = ""


class Splits(Config):
    """How trajectories are kept apart."""

    test: Literal["first_tenth", "last_tenth"] = Field(
        description="PDEBench's test split: the first or last 10 % of every file."
    )
    valid_fraction: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        description="Share of all groups carved out of the training part for validation."
    )
    seed: NonNegativeInt = 0
    kept_apart_by: Literal["initial_condition", "trajectory"] = Field(
        description="'initial_condition': position in the file names it, across all files; "
        "'trajectory': every trajectory stands alone."
    )


class Generator(Config):
    """The built-in solver that makes this dataset, and what it makes by default."""

    kind: Literal["burgers1d", "advection1d"]
    parameters: dict[str, float] = Field(description="Parameter values used by default.")


class Artefact(Config):
    """A converted version that can be pulled."""

    version: str
    location: str
    manifest_sha256: Sha256


class DatasetCard(Config):
    """Identity, physics, layout and history of one dataset."""

    key: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    title: str
    description: str
    pde: Pde
    discretisation: Discretisation
    time: Time
    fields: Annotated[tuple[FieldSpec, ...], Field(min_length=1)]
    parameters: tuple[Parameter, ...] = ()
    source: Source
    splits: Splits
    known_issues: tuple[KnownIssue, ...] = ()
    generator: Generator | None = None
    artefacts: tuple[Artefact, ...] = ()
    config: str = Field(description="Default experiment in configs/.")

    @model_validator(mode="after")
    def _names_agree(self) -> DatasetCard:
        fields = {field.name for field in self.fields}
        parameters = {parameter.name for parameter in self.parameters}
        for name in self.pde.conserved:
            if name not in fields:
                raise ValueError(f"pde.conserved: '{name}' is not one of the fields {fields}")
        used = [file.parameters for file in self.source.files]
        used += [self.generator.parameters] if self.generator else []
        for name in itertools.chain.from_iterable(used):
            if name not in parameters:
                raise ValueError(f"'{name}' is not one of the parameters {parameters}")
        return self

    @property
    def num_dims(self) -> int:
        return len(self.discretisation.axes)

    @property
    def field_names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def periodic(self) -> tuple[bool, ...]:
        return tuple(axis.boundary == "periodic" for axis in self.discretisation.axes)

    def payload_bytes(self, file: RawFile) -> int:
        """Bytes of the field values in a published file, float32, headers left out."""
        points = math.prod(axis.points for axis in self.discretisation.axes)
        return 4 * file.trajectories * self.time.frames * points * len(self.fields)


def dataset_keys() -> list[str]:
    """All keys that have a card, sorted."""
    found = [path.stem for folder in paths.registry_dirs() for path in folder.glob("*.yaml")]
    return sorted(set(found))


def load_card(key: str) -> DatasetCard:
    """Read and check the card of one dataset.

    Raises:
        ConfigError: There is no such card, it says something that a card may not say, or two
            registry folders hold one of the same name.
    """
    found = [p for folder in paths.registry_dirs() if (p := folder / f"{key}.yaml").is_file()]
    if not found or not re.fullmatch(r"\w+", key):
        raise ConfigError(
            f"{key}: unknown dataset{did_you_mean(key, dataset_keys())}",
            hint="ups data list",
        )
    if len(found) > 1:
        raise ConfigError(f"{key}: two cards of this name: {found[0]} and {found[1]}")
    card = validated(DatasetCard, read_yaml(found[0]), str(found[0]))
    if card.key != key:
        raise ConfigError(f"{found[0]}: key: '{card.key}' must be the file's name, '{key}'")
    return card
