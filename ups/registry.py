"""`registry/*.yaml` -> `DatasetCard`: everything that is known about a dataset, one file each."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ups import paths
from ups.config.base import Config, read_yaml, validated
from ups.errors import ConfigError, did_you_mean

Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Boundary = Literal["periodic", "dirichlet", "neumann", "robin", "outflow", "wall"]
Symmetry = Literal["shift", "reflection", "rotation"]
Layout = Literal[
    "pdebench_tensor",
    "pdebench_fields",
    "pdebench_groups",
    "pdebench_darcy",
    "pdebench_ns_incompressible",
    "the_well",
    "xarray",
    "points",
]
GeneratorKind = Literal[
    "advection1d",
    "burgers1d",
    "reaction_diffusion1d",
    "diffusion_sorption1d",
    "reaction_diffusion2d",
    "shallow_water2d",
    "darcy2d",
    "allen_cahn2d",
    "cahn_hilliard2d",
    "darcy2d_mesh",
    "navier_stokes_mesh",
    "particles_advect",
    "granular_contacts",
]


class Pde(Config):
    """The equation, its name across datasets, and what it keeps."""

    family: str = Field("", description="Name shared by all datasets of this equation.")
    equation: str = ""
    notes: str = ""
    conserved: tuple[str, ...] = Field((), description="Fields whose spatial mean is constant.")
    symmetries: tuple[Symmetry, ...] = Field(
        (),
        description="What turns a solution into another one with the same parameters: 'shift' "
        "along periodic axes, 'reflection' of an axis (components along it change sign), "
        "'rotation' of a square domain by quarter turns.",
    )


class Axis(Config):
    """One space axis of the domain."""

    name: str
    bounds: tuple[float, float]
    unit: str = "1"
    boundary: Boundary = Field(description="At both ends, or at the lower one.")
    upper_boundary: Boundary | None = Field(None, description="At the upper end, if it differs.")
    points: PositiveInt | None = Field(
        None, description="Grid points of the published files; none on meshes and for particles."
    )
    raw: str | None = Field(None, description="Its name in the raw file, where that differs.")

    @property
    def boundaries(self) -> str:
        """`periodic`, or `dirichlet/robin` where the ends differ."""
        return f"{self.boundary}/{self.upper_boundary}" if self.upper_boundary else self.boundary


class Discretisation(Config):
    """How space is sampled."""

    kind: Literal["grid", "mesh", "particles"] = "grid"
    axes: tuple[Axis, ...]
    centring: Literal["cell", "node"] = "cell"
    nodes: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="Fewest and most nodes or particles of a trajectory."
    )
    neighbour_radius: PositiveFloat | None = Field(
        None, description="Particles nearer than this are neighbours, in units of the axes."
    )
    velocity: tuple[str, ...] = Field(
        (), description="Fields that move the particles, one for each axis."
    )

    @model_validator(mode="after")
    def _grids_have_points(self) -> Discretisation:
        if self.kind == "grid" and any(axis.points is None for axis in self.axes):
            raise ValueError("every axis of a grid needs `points`")
        if self.kind == "particles" and self.neighbour_radius is None:
            raise ValueError("particles need `neighbour_radius`")
        return self


class Time(Config):
    """How time is sampled; a static problem has one frame and no step."""

    frames: PositiveInt
    step: PositiveFloat | None = Field(description="dt between stored frames.")
    unit: str = "1"


class FieldSpec(Config):
    """One physical field: a named channel.

    `raw` and `component` tie it to the file and to the geometry: `raw: "velocity[0]"` with
    `component: x` is the first component of a stored vector, and points along the x axis.
    """

    name: str
    description: str = ""
    unit: str = "1"
    normalisation: Literal["rms", "standard"] = Field(
        "rms",
        description="'rms' divides by the training split's RMS and keeps zero at zero; "
        "'standard' subtracts the mean and divides by the standard deviation.",
    )
    raw: str | None = Field(None, description="Its name in the raw file, where that differs.")
    component: str | None = Field(
        None, description="The axis along which a vector component points."
    )
    positive: bool = Field(False, description="Never zero or below: density, pressure, depth.")
    transform: Literal["none", "log"] = Field(
        "none", description="'log': models see the logarithm of a positive field."
    )

    @model_validator(mode="after")
    def _only_positive_has_log(self) -> FieldSpec:
        if self.transform == "log" and not self.positive:
            raise ValueError(f"{self.name}: transform 'log' needs positive: true")
        return self


class Parameter(Config):
    """One PDE parameter of a trajectory."""

    name: str
    symbol: str = ""
    description: str = ""
    unit: str = "1"
    range: tuple[float, float]
    scale: Literal["linear", "log"] = "linear"
    attribute: str | None = Field(
        None,
        description="Its name in the raw file's attributes, or its path in the YAML text that "
        "some layouts keep there ('sim.dam_radius'); without one the card's file list knows it.",
    )

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
    trajectories: PositiveInt | None = Field(None, description="How many, where it is known.")
    parameters: dict[str, float] = Field(default_factory=dict)
    variant: dict[str, str] = Field(
        default_factory=dict, description="What sets it apart beside parameters: initial: shock."
    )
    points: tuple[PositiveInt, ...] | None = Field(None, description="Where the axes' differ.")
    boundary: Boundary | None = Field(None, description="Where it differs from the axes'.")


class Source(Config):
    """Who published the data, under what terms, and how to cite it."""

    name: str = ""
    doi: str | None = None
    licence: str = "not stated"
    citation: str = "not stated"
    layout: Layout = Field(description="Reader in ups/data/layouts.")
    pattern: str | None = Field(
        None,
        description="Glob of the raw files' names in a folder; by default what the published "
        "names begin with.",
    )
    axis_order: tuple[str, ...] | None = Field(
        None, description="Space axes in the raw arrays, where not in the card's order."
    )
    files: tuple[RawFile, ...] = ()
    mirrors: tuple[str, ...] = Field(
        (), description="Base addresses tried after a file's own: <mirror>/<folder><name>."
    )

    def file(self, name: str) -> RawFile | None:
        """The published file of this name, or of which `name` holds the first trajectories."""
        stem = re.sub(r"\.first\d+(?=\.)", "", name)
        return next((file for file in self.files if file.name == stem), None)


class KnownIssue(Config):
    """A defect of the public data that a user should know before trusting a number."""

    id: str
    summary: str
    consequence: str
    reference: str = ""


class Splits(Config):
    """How trajectories are kept apart."""

    test: Literal["first_tenth", "last_tenth", "by_folder", "all"] = Field(
        "last_tenth",
        description="PDEBench's test split: the first or last 10 % of every file. 'by_folder': "
        "the publisher's own splits, in folders named train, valid, test. 'all': nothing trains.",
    )
    valid: Literal["drawn", "last"] = Field(
        "drawn",
        description="'drawn' by a hash; 'last': the end of the training part, for trajectories "
        "that follow one another in time.",
    )
    valid_fraction: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.1, description="Share of all groups carved out of the training part for validation."
    )
    seed: NonNegativeInt = 0
    kept_apart_by: Literal["initial_condition", "coefficient", "trajectory", "content"] = Field(
        "trajectory",
        description="'initial_condition' or 'coefficient': position in the file names it, across "
        "all files; 'trajectory': every trajectory stands alone; 'content': trajectories with the "
        "same values count as one, and those that are also in the test split are left out.",
    )


class Generator(Config):
    """The built-in solver that makes this dataset, and what it makes by default."""

    kind: GeneratorKind
    file: str = Field(
        description="Name of the raw file, as published where there is one: 'u_nu{nu}.hdf5'."
    )
    parameters: dict[str, float] = Field(
        default_factory=dict, description="Values used by default."
    )
    drawn: tuple[str, ...] = Field((), description="Parameters drawn for each trajectory.")


class Artefact(Config):
    """A converted version that can be pulled."""

    version: str
    location: str
    manifest_sha256: Sha256


class DatasetCard(Config):
    """Identity, physics, layout and history of one dataset."""

    key: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    title: str = ""
    description: str = ""
    pde: Pde = Pde()
    discretisation: Discretisation
    time: Time
    fields: Annotated[tuple[FieldSpec, ...], Field(min_length=1)]
    inputs: tuple[FieldSpec, ...] = Field(
        (), description="Fields given with the problem, constant in time: coefficient, force."
    )
    parameters: tuple[Parameter, ...] = ()
    source: Source
    splits: Splits = Splits()
    known_issues: tuple[KnownIssue, ...] = ()
    generator: Generator | None = None
    artefacts: tuple[Artefact, ...] = ()
    config: str = Field("base.yaml", description="Default experiment in configs/.")
    pdebench_history: PositiveInt = Field(
        10, description="Frames given in PDEBench's protocol; of data that PDEBench lacks as well."
    )

    @model_validator(mode="after")
    def _names_agree(self) -> DatasetCard:
        fields = {field.name for field in self.fields}
        parameters = {parameter.name for parameter in self.parameters}
        for name in self.pde.conserved:
            if name not in fields:
                raise ValueError(f"pde.conserved: '{name}' is not one of the fields {fields}")
        for name in self.discretisation.velocity:
            if name not in fields:
                raise ValueError(f"discretisation.velocity: '{name}' is not one of the fields")
        used: list[Iterable[str]] = [file.parameters for file in self.source.files]
        used += [self.generator.parameters, self.generator.drawn] if self.generator else []
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
    def input_names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.inputs)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def periodic(self) -> tuple[bool, ...]:
        return tuple(axis.boundary == "periodic" for axis in self.discretisation.axes)

    def payload_bytes(self, file: RawFile) -> int | None:
        """Bytes of the values in a published file, float32, headers left out; None if unknown."""
        if file.trajectories is None:
            return None
        points = math.prod(file.points or (axis.points or 1 for axis in self.discretisation.axes))
        values = self.time.frames * len(self.fields) + len(self.inputs)
        return 4 * file.trajectories * points * values


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
