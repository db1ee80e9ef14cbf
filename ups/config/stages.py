"""What training stages may say: optimizer, schedule, losses, curriculum."""

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

from ups.config.base import Config, Fraction, Share
from ups.config.models import BackboneConfig, PriorConfig, ResidualConfig


class AdamWConfig(Config):
    """AdamW for every weight."""

    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 1e-5
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    fused: bool = Field(False, description="One kernel for all weights; helps on a GPU.")


class MuonConfig(Config):
    """Muon for hidden matrices, AdamW for the rest."""

    kind: Literal["muon_hybrid"] = "muon_hybrid"
    lr: PositiveFloat = Field(2e-3, description="Of both, Muon's matched to AdamW's update RMS.")
    momentum: Fraction = 0.95
    weight_decay: NonNegativeFloat = 1e-5
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    fused: bool = False


OptimizerConfig = Annotated[AdamWConfig | MuonConfig, Field(discriminator="kind")]


class ScheduleConfig(Config):
    """Learning rate over the run: linear warm-up, then the chosen decay."""

    kind: Literal["cosine", "constant", "plateau"] = Field(
        "cosine", description="'plateau' lowers the rate where validation no longer improves."
    )
    warmup_steps: NonNegativeInt = 100
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    factor: Share = Field(0.5, description="Plateau: what the rate is multiplied with.")
    patience: NonNegativeInt = Field(3, description="Plateau: validations without improvement.")


class TrainingConfig(Config):
    """What all stages share: the loop's numbers."""

    steps: PositiveInt
    epochs: PositiveInt | None = Field(
        None, description="Instead of steps: passes over the frames of the training split."
    )
    batch_size: PositiveInt = 64
    optimizer: OptimizerConfig = MuonConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema_decay: Fraction = Field(0.0, description="Of the averaged weights; 0 keeps none.")
    grad_clip: PositiveFloat | None = Field(1.0, description="Largest gradient norm.")
    accumulate: PositiveInt = Field(1, description="Micro-batches per optimizer step.")
    amp: Literal["none", "bfloat16", "float16"] = "none"
    compile: bool = Field(False, description="torch.compile the trained module.")
    cuda_graphs: bool = Field(False, description="With compile: replay steps as CUDA graphs.")
    sharding: Literal["none", "fsdp"] = Field(
        "none", description="Several processes: 'fsdp' shards weights, 'none' copies them (DDP)."
    )
    log_every: PositiveInt = 20
    validate_every: PositiveInt = 500
    checkpoint_every: PositiveInt = 500
    max_skipped: NonNegativeInt = Field(
        5, description="Steps with a non-finite gradient that are skipped before the run stops."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> TrainingConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}"
            )
        if self.cuda_graphs and not self.compile:
            raise ValueError("cuda_graphs needs compile")
        return self


class CodecStageConfig(TrainingConfig):
    """Reconstruct single frames, on the grid and between its points."""

    steps: PositiveInt = 600
    off_grid_share: Share = Field(
        0.5, description="Weight of the points between grid points in the loss."
    )
    off_grid_points: PositiveInt = Field(
        512, description="Points between grid points in a step, at most."
    )


class Unroll(Config):
    """From this share of the run on, differentiate through that many operator steps."""

    start: Fraction
    steps: PositiveInt


class Term(Config):
    """The weight of one loss term over the run: zero before `start`, then a linear ramp."""

    weight: NonNegativeFloat = 0.0
    start: Fraction = Field(0.0, description="Share of the run before which it is left out.")
    ramp: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Share of the run over which it rises to `weight`."
    )

    @model_validator(mode="before")
    @classmethod
    def _number(cls, content: Any) -> Any:
        return {"weight": content} if isinstance(content, int | float) else content


class LossesConfig(Config):
    """Weights of the operator's loss terms; a number, or {weight, start, ramp}."""

    forward: Term = Field(Term(weight=1.0), description="Relative L2 of tokens, every step.")
    decoded: Term = Field(Term(), description="Relative L2 of decoded fields at query points.")
    nrmse: Term = Field(Term(), description="The metric itself on decoded fields, per field.")
    spectral: Term = Field(Term(), description="Relative error in each wave-number band.")
    inverse_encoding: Term = Field(
        Term(), description="Encoding what was decoded gives the tokens again."
    )
    inverse_decoding: Term = Field(
        Term(), description="Decoding what was encoded gives the fields again."
    )
    latent_norm: Term = Field(Term(), description="RMS of tokens kept at that of the truth.")
    diversity: Term = Field(Term(), description="Tokens of a batch kept from collapsing.")
    divergence: Term = Field(Term(), description="Divergence of decoded vector fields.")
    conservation: Term = Field(Term(), description="Drift of conserved means.")
    boundary: Term = Field(Term(), description="Violation of boundary conditions.")
    positivity: Term = Field(Term(), description="Negative values of positive fields.")
    pde_residual: Term = Field(Term(), description="Residual of the equation, where known.")
    rollout: Literal["full", "pushforward"] = Field(
        "full", description="Gradients through all unrolled steps, or through the last one only."
    )
    query_points: PositiveInt | None = Field(
        None, description="Points at which decoded terms are taken; null is the whole grid."
    )
    query_sampling: Literal["uniform", "error"] = Field(
        "uniform", description="'error' prefers points where the last errors were large."
    )


class Phase(Config):
    """A part of a curriculum."""

    steps: PositiveInt | None = None
    epochs: PositiveInt | None = None
    tasks: tuple[str, ...] | None = Field(None, description="null takes all.")
    mixing: Literal["uniform", "size", "custom", "inverse_nrmse"] | None = None
    weights: dict[str, PositiveFloat] | None = Field(None, description="With mixing 'custom'.")
    unroll: PositiveInt | None = Field(None, description="Operator steps; null as `unroll` says.")

    @model_validator(mode="after")
    def _one_length(self) -> Phase:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("a phase needs steps or epochs")
        return self


class OperatorStageConfig(TrainingConfig):
    """Advance cached tokens, unrolled."""

    steps: PositiveInt = 4000
    unroll: tuple[Unroll, ...] = (
        Unroll(start=0.0, steps=1),
        Unroll(start=0.3, steps=2),
        Unroll(start=0.6, steps=4),
    )
    losses: LossesConfig = LossesConfig()
    curriculum: tuple[Phase, ...] = Field(
        (), description="Phases in order; they replace steps, epochs and data.mixing."
    )
    early_bias: PositiveFloat = Field(
        2.0, description="Windows start at frame (range x u^bias), u uniform: 1 is uniform."
    )
    max_stride: PositiveInt = Field(
        1, description="Windows at a random stride up to this; the operator is told dt."
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


class TauConfig(Config):
    """How times of the flow between noise (0) and data (1) are drawn."""

    kind: Literal["uniform", "beta"] = "uniform"
    alpha: PositiveFloat = 1.0
    beta: PositiveFloat = 1.0


class DiffResidualStageConfig(TrainingConfig):
    """What the frozen operator leaves over, as a distribution: generative model of the residual."""

    steps: PositiveInt = 4000
    backbone: BackboneConfig | None = Field(None, description="null is the operator's.")
    objective: Literal["flow", "diffusion"] = Field(
        "flow", description="Flow matching along straight lines, or v-prediction diffusion."
    )
    tau: TauConfig = TauConfig()
    sampling_steps: PositiveInt = Field(16, description="Evaluations for one sample.")
    ensemble: Annotated[int, Field(ge=2)] = Field(8, description="Members in validation.")
    early_bias: PositiveFloat = 2.0
    validation_trajectories: PositiveInt = 16
    validation_horizon: PositiveInt | None = Field(None, description="null is to the end.")

    def model(self, default: BackboneConfig) -> ResidualConfig:
        """The residual model to be trained; `default` is the operator's network."""
        network = (self.backbone or default).of_network()
        return ResidualConfig(
            **network, objective=self.objective, sampling_steps=self.sampling_steps
        )


class ConsistencyStageConfig(TrainingConfig):
    """Distil the residual model's many steps into one to four: a flow map between two times."""

    steps: PositiveInt = 2000
    teacher_steps: PositiveInt = Field(
        16, description="Evaluations of the teacher for a trajectory."
    )
    student_steps: Annotated[int, Field(ge=1, le=4)] = 1
    micro_batches: PositiveInt = Field(
        4, description="Pairs of times taken from one teacher trajectory, one update each."
    )
    tau_schedule: Literal["uniform", "from_short"] = Field(
        "from_short", description="'from_short' begins with short jumps and ends with whole ones."
    )
    target_loss: PositiveFloat | None = Field(None, description="Stop when it is reached.")
    ensemble: Annotated[int, Field(ge=2)] = 8
    early_bias: PositiveFloat = 2.0
    validation_trajectories: PositiveInt = 16
    validation_horizon: PositiveInt | None = None


class SteadyPriorStageConfig(TrainingConfig):
    """Steady problems: tokens of the solution from those of coefficient, boundary, parameters."""

    steps: PositiveInt = 4000
    backbone: BackboneConfig | None = Field(None, description="null is the operator's.")
    refinement_steps: Annotated[int, Field(ge=1, le=8)] = Field(
        4, description="Evaluations in use: the first predicts, the others refine."
    )
    smallest_noise: PositiveFloat = Field(
        1e-3, description="Noise level of the last refinement, relative to the solution."
    )
    first_share: Share = Field(0.8, description="Share of samples that train the prediction.")
    validation_trajectories: PositiveInt = 256

    def model(self, default: BackboneConfig) -> PriorConfig:
        """The prior to be trained; `default` is the operator's network."""
        network = (self.backbone or default).of_network()
        return PriorConfig(
            **network, refinement_steps=self.refinement_steps, smallest_noise=self.smallest_noise
        )


StageName = Literal["codec", "operator", "diff_residual", "consistency_distill", "steady_prior"]
STAGES: tuple[StageName, ...] = (
    "codec", "operator", "diff_residual", "consistency_distill", "steady_prior",
)  # fmt: skip


class StagesConfig(Config):
    """One entry for each stage."""

    order: tuple[StageName, ...] | None = Field(
        None,
        description="What `ups train` runs; null: codec and operator, or codec and steady_prior.",
    )
    codec: CodecStageConfig = CodecStageConfig()
    operator: OperatorStageConfig = OperatorStageConfig()
    diff_residual: DiffResidualStageConfig = DiffResidualStageConfig()
    consistency_distill: ConsistencyStageConfig = ConsistencyStageConfig()
    steady_prior: SteadyPriorStageConfig = SteadyPriorStageConfig()
