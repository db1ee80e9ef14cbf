"""What an experiment may say: one frozen tree, from the dataset to the gates.

Every number that changes a result is here and nowhere else. `ups config schema` prints this tree
as JSON Schema; `ups config show` prints one resolved instance.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from ups.config.base import Config

Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]


class DataConfig(Config):
    """Which trajectories, and how they are stepped through."""

    dataset: str = Field(description="Key in registry/, for example 'burgers1d'.")
    version: str = Field(
        "latest",
        description="Converted version, for example 'nu0.01-x4-t5'; 'latest' is the newest.",
    )
    stride: PositiveInt = Field(1, description="Stored frames that one operator step advances.")


class GridCodecConfig(Config):
    """Patches of a grid <-> tokens at the patch centres."""

    kind: Literal["grid"] = "grid"
    patch_size: PositiveInt = Field(8, description="Grid points per axis and token.")
    coefficients: PositiveInt | None = Field(
        None,
        description="Cosine coefficients kept per patch and field, lowest frequencies first. "
        "null keeps all: an orthonormal, exactly invertible embedding.",
    )
    width: PositiveInt = Field(48, description="Channels of the learned local parts.")
    depth: PositiveInt = Field(2, description="Layers of the learned local parts.")
    gate: PositiveFloat = Field(
        0.002,
        description="Largest reconstruction nRMSE on the validation split with which an "
        "operator may be trained: a tenth of the rollout error aimed at.",
    )


class LatentOperatorConfig(Config):
    """Advance tokens by one step: amplitude-normalised, mean-conserving residual form."""

    kind: Literal["latent"] = "latent"
    mixer: Literal["spectral", "conv", "attention"] = Field(
        "spectral", description="How tokens exchange information across the domain."
    )
    width: PositiveInt = 64
    depth: PositiveInt = 3
    mlp_ratio: PositiveInt = 2
    modes: PositiveInt | None = Field(
        None, description="Spectral mixer: Fourier modes kept per axis; null keeps all."
    )
    heads: PositiveInt = Field(4, description="Attention mixer: number of heads.")
    kernel_size: PositiveInt = Field(5, description="Convolution mixer: tokens per axis, odd.")

    @model_validator(mode="after")
    def _shapes_fit(self) -> LatentOperatorConfig:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, found {self.kernel_size}")
        if self.mixer == "attention" and self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} must be a multiple of 2 x heads = {2 * self.heads}"
            )
        return self


class AdamWConfig(Config):
    """AdamW for every weight."""

    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 1e-5
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)


class MuonConfig(Config):
    """Muon for hidden matrices, AdamW for the rest."""

    kind: Literal["muon"] = "muon"
    lr: PositiveFloat = Field(2e-3, description="Of both, Muon's matched to AdamW's update RMS.")
    momentum: Fraction = 0.95
    weight_decay: NonNegativeFloat = 1e-5
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)


OptimizerConfig = Annotated[AdamWConfig | MuonConfig, Field(discriminator="kind")]


class ScheduleConfig(Config):
    """Learning rate over the run: linear warm-up, then the chosen decay."""

    kind: Literal["cosine", "constant"] = "cosine"
    warmup_steps: NonNegativeInt = 100
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01


class TrainingConfig(Config):
    """What all stages share: the loop's numbers."""

    steps: PositiveInt
    batch_size: PositiveInt = 64
    optimizer: OptimizerConfig = MuonConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema_decay: Fraction = Field(0.0, description="Of the averaged weights; 0 keeps none.")
    grad_clip: PositiveFloat | None = Field(1.0, description="Largest gradient norm.")
    accumulate: PositiveInt = Field(1, description="Micro-batches per optimizer step.")
    amp: Literal["none", "bfloat16", "float16"] = "none"
    compile: bool = Field(False, description="torch.compile the trained module.")
    log_every: PositiveInt = 20
    validate_every: PositiveInt = 500
    checkpoint_every: PositiveInt = 500
    max_skipped: NonNegativeInt = Field(
        5, description="Steps with a non-finite gradient that are skipped before the run stops."
    )

    @model_validator(mode="after")
    def _micro_batches_fit(self) -> TrainingConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}"
            )
        return self


class CodecStageConfig(TrainingConfig):
    """Reconstruct single frames, on the grid and between its points."""

    steps: PositiveInt = 600
    off_grid_share: Share = Field(
        0.5, description="Weight of the points between grid points in the loss."
    )


class Unroll(Config):
    """From this share of the run on, differentiate through that many operator steps."""

    start: Fraction
    steps: PositiveInt


class OperatorStageConfig(TrainingConfig):
    """Advance cached tokens, unrolled."""

    steps: PositiveInt = 4000
    unroll: tuple[Unroll, ...] = (
        Unroll(start=0.0, steps=1),
        Unroll(start=0.3, steps=2),
        Unroll(start=0.6, steps=4),
    )
    early_bias: PositiveFloat = Field(
        2.0, description="Windows start at frame (range x u^bias), u uniform: 1 is uniform."
    )
    validation_trajectories: PositiveInt = Field(
        64, description="Rolled out to the end at each validation; they choose the checkpoint."
    )

    @model_validator(mode="after")
    def _unroll_rises(self) -> OperatorStageConfig:
        starts = [item.start for item in self.unroll]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(f"unroll: starts must rise from 0, found {starts}")
        return self


class StagesConfig(Config):
    """One entry for each stage."""

    codec: CodecStageConfig = CodecStageConfig()
    operator: OperatorStageConfig = OperatorStageConfig()


class CacheConfig(Config):
    """How tokens are stored."""

    dtype: Literal["float16", "float32"] = "float16"
    shard_bytes: PositiveInt = Field(256 * 2**20, description="Upper size of one shard file.")


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
    batch_size: PositiveInt = 64
    gates: GatesConfig = GatesConfig()


class TrackingConfig(Config):
    """Where metrics go besides metrics.jsonl."""

    wandb: Literal["disabled", "offline", "online"] = "disabled"
    project: str = "ups"


class Experiment(Config):
    """One run, complete: this object, the data and a commit are enough to repeat it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: NonNegativeInt = 0
    device: str = Field("auto", description="'auto', 'cpu', 'cuda' or 'cuda:N'.")
    threads: PositiveInt | None = Field(None, description="CPU threads; null is torch's default.")
    data: DataConfig
    codec: GridCodecConfig = GridCodecConfig()
    cache: CacheConfig = CacheConfig()
    operator: LatentOperatorConfig = LatentOperatorConfig()
    stages: StagesConfig = StagesConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
