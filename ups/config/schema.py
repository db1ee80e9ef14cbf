"""What an experiment may say: one frozen tree, from the dataset to the gates.

Every number that changes a result is here and nowhere else. `ups config schema` prints this tree
as JSON Schema; `ups config show` prints one resolved instance.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from ups.config.base import Config
from ups.config.models import (
    CodecConfig,
    Family,
    GridCodecConfig,
    LatentOperatorConfig,
    OperatorConfig,
    PointCodecConfig,
)
from ups.config.stages import StagesConfig


class TaskConfig(Config):
    """One dataset of a run."""

    dataset: str = Field(description="Key in registry/, for example 'burgers1d'.")
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z][A-Za-z0-9_]*$",
        description="In logs and reports; null is the dataset's key.",
    )
    version: str = Field(
        "latest",
        description="Converted version, for example 'nu0.01-x4-t5'; 'latest' is the newest.",
    )
    stride: PositiveInt = Field(1, description="Stored frames that one operator step advances.")
    first_frame: NonNegativeInt = Field(0, description="Stored frames before it are left out.")
    last_frame: PositiveInt | None = Field(None, description="Those after it are too.")
    weight: PositiveFloat = Field(1.0, description="Share of batches where `mixing` is 'custom'.")

    @property
    def key(self) -> str:
        """What the task is called."""
        return self.name or self.dataset


_OF_ONE_DATASET = ("version", "stride", "first_frame", "last_frame")


class DataConfig(Config):
    """Which trajectories, and how they are stepped through.

    One dataset is named by `dataset`; several, for one shared operator, by `task`:
    `task: [burgers1d, {dataset: darcy2d_mesh, weight: 2}]`.
    """

    dataset: str | None = Field(None, description="Key in registry/, for example 'burgers1d'.")
    version: str = Field("latest", description="As in `task`, of the one dataset.")
    stride: PositiveInt = Field(1, description="As in `task`, of the one dataset.")
    first_frame: NonNegativeInt = Field(0, description="As in `task`, of the one dataset.")
    last_frame: PositiveInt | None = Field(None, description="As in `task`, of the one dataset.")
    task: tuple[TaskConfig, ...] = Field((), description="Several datasets, or one.")
    mixing: Literal["uniform", "size", "custom", "inverse_nrmse"] = Field(
        "uniform",
        description="Share of batches of each task; 'inverse_nrmse' is for the operator stage, "
        "others draw uniformly then.",
    )
    augment: tuple[Literal["shift", "reflection", "rotation"], ...] = Field(
        (),
        description="Symmetries by which each sample is moved at random, where its card has them; "
        "samples are then encoded anew in every step.",
    )
    noise: NonNegativeFloat = Field(
        0.0, description="Noise on given states, relative to the amplitude of each sample."
    )

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "task" not in content:
            return content
        given = content["task"]
        items = [given] if isinstance(given, str | dict) else given
        if not isinstance(items, list | tuple):
            return content
        return {**content, "task": tuple({"dataset": item} if isinstance(item, str) else item
                                         for item in items)}  # fmt: skip

    @model_validator(mode="after")
    def _one_way_to_name_data(self) -> DataConfig:
        if (self.dataset is None) == (not self.task):
            raise ValueError("name either one `dataset` or a list `task`")
        names = [task.key for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"task: names must differ, found {', '.join(names)}; give a `name`")
        elsewhere = [
            name
            for name in _OF_ONE_DATASET
            if self.task and getattr(self, name) != type(self).model_fields[name].default
        ]
        if elsewhere:
            raise ValueError(
                f"{elsewhere[0]}: is of one `dataset`; of several, each `task` has its own"
            )
        return self

    @property
    def tasks(self) -> tuple[TaskConfig, ...]:
        """Every task in full."""
        if self.dataset is None:
            return self.task
        shared = {name: getattr(self, name) for name in _OF_ONE_DATASET}
        return (TaskConfig(dataset=self.dataset, **shared),)


class CacheConfig(Config):
    """How tokens are stored, and where they are while they are trained on."""

    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float16", description="`ups cache build` prints the decoded error that each type costs."
    )
    shard_bytes: PositiveInt = Field(256 * 2**20, description="Upper size of one shard file.")
    repeats: PositiveInt = Field(
        1,
        description="How often the training split is encoded: once as it is, else moved by the "
        "symmetries of the card that its grid has too. Training draws from all of them.",
    )
    seed: NonNegativeInt = Field(0, description="Of the moves of `repeats`.")
    residence: Literal["auto", "device", "memory", "stream"] = Field(
        "auto",
        description="Where tokens are while they are trained on: all on the device, all in main "
        "memory, or in memory-mapped shards. 'auto': the first of these of whose free memory "
        "they take at most half. The batches are the same.",
    )
    pull: bool | Annotated[str, Field(min_length=1)] = Field(
        False,
        description="Where a cache that is not here is taken from before it is built: a remote's "
        "name, or true for the default remote. Codec and data that are missing come along.",
    )


class GatesConfig(Config):
    """Limits that the evaluation must meet; null is no limit."""

    nrmse_mean: PositiveFloat | None = None
    nrmse_median: PositiveFloat | None = None
    persistence_ratio: PositiveFloat | None = Field(
        None, description="Smallest persistence nRMSE / model nRMSE, of the means."
    )


class EvaluationConfig(Config):
    """How the finished run is judged."""

    split: Literal["valid", "test", "all"] = Field(
        "test", description="'all' is for a version that shares nothing with the training data."
    )
    history: PositiveInt = Field(1, description="True frames given.")
    horizon: PositiveInt | None = Field(None, description="Frames predicted; null is to the end.")
    protocols: tuple[str, ...] = Field(
        ("ic", "pdebench"),
        description="Judged beside the protocol that history and horizon describe, where there "
        "is time: 'ic' gives one frame, 'pdebench' ten (or what the card says), 'well' four; or "
        "files.",
    )
    batch_size: PositiveInt = 64
    gates: GatesConfig = GatesConfig()


class TrackingConfig(Config):
    """Where metrics go besides metrics.jsonl."""

    wandb: Literal["auto", "disabled", "offline", "online"] = Field(
        "auto",
        description="Weights & Biases. 'auto': online where a key is found (WANDB_API_KEY, `wandb "
        "login`); without one offline if `project` is named, else not at all. 'online' without a "
        "key is offline. Offline runs are sent later: wandb sync.",
    )
    project: str | None = Field(None, description="W&B project; null is 'ups'.")
    entity: str | None = Field(None, description="W&B user or team; null is your default.")


class Experiment(Config):
    """One run, complete: this object, the data and a commit are enough to repeat it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: NonNegativeInt = 0
    device: str = Field("auto", description="'auto', 'cpu', 'cuda' or 'cuda:N'.")
    threads: PositiveInt | None = Field(None, description="CPU threads; null is torch's default.")
    data: DataConfig
    codec: CodecConfig = GridCodecConfig()
    codecs: dict[Family, CodecConfig] = Field(
        default_factory=dict,
        description="Instead of `codec` for tasks of this kind: one codec for each family.",
    )
    cache: CacheConfig = CacheConfig()
    operator: OperatorConfig = LatentOperatorConfig()
    stages: StagesConfig = StagesConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _usual_kinds(cls, content: Any) -> Any:
        """`kind` may be left out where there is a usual one."""
        if not isinstance(content, dict):
            return content
        found = dict(content)
        for key, kind in (("codec", "grid"), ("operator", "latent")):
            if isinstance(found.get(key), dict):
                found[key] = {"kind": kind, **found[key]}
        if isinstance(found.get("codecs"), dict):
            found["codecs"] = {
                family: {"kind": "grid" if str(family).startswith("grid") else "points", **codec}
                if isinstance(codec, dict) else codec
                for family, codec in found["codecs"].items()
            }  # fmt: skip
        return found

    def codec_for(self, family: Family) -> GridCodecConfig | PointCodecConfig:
        """The codec of a family of discretisations."""
        kind = "grid" if family.startswith("grid") else "points"
        chosen = self.codecs.get(family, self.codec)
        if chosen.kind == kind:
            return chosen
        return GridCodecConfig() if kind == "grid" else PointCodecConfig()

    @model_validator(mode="after")
    def _moved_once(self) -> Experiment:
        if self.cache.repeats > 1 and self.data.augment:
            raise ValueError(
                "cache.repeats: data.augment encodes every sample anew, moved, and would not use "
                "the repeats; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _codecs_fit(self) -> Experiment:
        for family, codec in self.codecs.items():
            if (codec.kind == "grid") != family.startswith("grid"):
                raise ValueError(f"codecs.{family}: kind '{codec.kind}' does not fit")
        return self
