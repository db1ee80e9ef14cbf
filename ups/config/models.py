"""What codecs, operators and the networks inside them may be asked to be."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ups.config.base import Config, Fraction, Share


class GridCodecConfig(Config):
    """Patches of a grid <-> tokens at the patch centres.

    A token holds orthonormal coefficients of its patch. Sizes that are not a multiple of the patch
    end in a smaller patch.
    """

    kind: Literal["grid"] = "grid"
    patch_size: PositiveInt = Field(8, description="Grid points per axis and token.")
    anchors: tuple[PositiveInt, ...] | None = Field(
        None,
        description="Tokens along each axis, instead of patch_size; a model can then be given "
        "fields at another resolution and asked at any.",
    )
    basis: Literal["dct", "pca"] = Field(
        "dct",
        description="Cosines of each field, or the principal components of patches of all fields "
        "together, fitted in one pass over the training split.",
    )
    compression: Annotated[float, Field(ge=1, le=64)] | None = Field(
        None, description="Values per patch / numbers per token; instead of `coefficients`."
    )
    coefficients: PositiveInt | None = Field(
        None,
        description="Coefficients kept per patch and field, lowest frequencies (or largest "
        "components) first. null keeps all: an exactly invertible embedding.",
    )
    encoder: Literal["linear", "learned"] = Field(
        "linear",
        description="'learned' adds a local network to the linear coefficients, means excepted.",
    )
    width: PositiveInt = Field(48, description="Channels of the learned local parts.")
    depth: PositiveInt = Field(2, description="Layers of the learned local parts.")
    gate: PositiveFloat = Field(
        0.002,
        description="Largest reconstruction nRMSE on the validation split with which an "
        "operator may be trained: a tenth of the rollout error aimed at.",
    )

    @model_validator(mode="after")
    def _one_size(self) -> GridCodecConfig:
        if self.compression is not None and self.coefficients is not None:
            raise ValueError("give compression or coefficients, not both")
        if (
            self.encoder == "learned"
            and self.coefficients is None
            and self.compression in (None, 1)
        ):
            raise ValueError("encoder: learned has nothing to learn without compression")
        return self


class PointCodecConfig(Config):
    """Nodes of a mesh or particles <-> tokens on a fixed grid of anchors.

    A local polynomial fit around each anchor, weighted by node volume, is the linear part; message
    passing over edges, pooled to supernodes, corrects it.
    """

    kind: Literal["points"] = "points"
    anchors: tuple[PositiveInt, ...] = Field(
        (16, 16), description="Tokens along each axis of the domain's box."
    )
    degree: NonNegativeInt = Field(2, description="Total degree of the local polynomials.")
    ridge: PositiveFloat = Field(
        3e-3,
        description="Pull towards a coarser fit, which decides where an anchor sees few nodes; "
        "relative to what nodes everywhere would weigh.",
    )
    learned: bool = Field(
        False,
        description="Train message passing and the attention decoder, which gain little in minutes "
        "on a CPU (docs/log.md).",
    )
    message_steps: Annotated[int, Field(ge=3)] = 3
    supernodes: PositiveInt = Field(256, description="Chosen by farthest-point sampling.")
    neighbours: PositiveInt = Field(
        8, description="Nearest anchors that a query attends to, and nodes that a supernode sees."
    )
    geometry: bool = Field(
        True, description="Boundary tags, volume and position of nodes as inputs of the encoder."
    )
    width: PositiveInt = 48
    gate: PositiveFloat = Field(0.05, description="As of the grid codec.")


CodecConfig = Annotated[GridCodecConfig | PointCodecConfig, Field(discriminator="kind")]
Family = Literal["grid1d", "grid2d", "grid3d", "mesh", "particles"]


# L and XL are transformers with heads of 64 channels: spectral weights, a matrix for each wave of
# each block, would be many times larger than all else.
_TRANSFORMER: dict[str, Any] = {"mixer": "attention", "mlp": "swiglu", "mlp_ratio": 4}
SIZES: dict[str, dict[str, Any]] = {
    "S": {"width": 64, "depth": 3, "heads": 4},
    "M": {"width": 128, "depth": 6, "heads": 4},
    "L": {"width": 384, "depth": 12, "heads": 6, **_TRANSFORMER},
    "XL": {"width": 768, "depth": 24, "heads": 12, **_TRANSFORMER},
}


class BackboneConfig(Config):
    """The network between tokens and tokens, shared by operator, corrector and prior."""

    size: Literal["S", "M", "L", "XL"] | None = Field(
        None,
        description="Sets width, depth and heads, where they are not given; L and XL also mixer "
        "attention, mlp swiglu and mlp_ratio 4.",
    )
    architecture: Literal["pdet_stack", "pdet_unet"] = Field(
        "pdet_stack", description="Blocks of one resolution, or a U over the anchor grid."
    )
    mixer: Literal["spectral", "conv", "attention"] = Field(
        "spectral", description="How tokens exchange information across the domain."
    )
    local: bool = Field(
        False, description="A depthwise convolution beside a global mixer: local plus global."
    )
    positions: bool = Field(
        False,
        description="A learned offset at every anchor, along axes that do not wrap: for problems "
        "in which places differ by more than what is given with them.",
    )
    mlp: Literal["neighbours", "mlp", "swiglu"] = Field(
        "neighbours",
        description="Per-token network; 'neighbours' also sees the face neighbours of its token.",
    )
    width: PositiveInt = 64
    depth: PositiveInt = Field(3, description="Blocks of pdet_stack.")
    depths: tuple[PositiveInt, ...] = Field(
        (2, 2, 2), description="Blocks of pdet_unet at each level; the middle one is the coarsest."
    )
    mlp_ratio: PositiveInt = 2
    modes: PositiveInt | None = Field(
        None, description="Spectral mixer: Fourier modes kept per axis; null keeps all."
    )
    heads: PositiveInt = Field(4, description="Attention mixer: number of heads.")
    window: PositiveInt | None = Field(
        None,
        description="Attention inside windows of so many anchors per axis, shifted by half in "
        "every other block; null attends everywhere.",
    )
    kernel_size: PositiveInt = Field(5, description="Convolutions: tokens per axis, odd.")
    drop_path: Fraction = Field(0.0, description="Blocks left out at random, rising with depth.")
    activation_checkpointing: bool = Field(
        False, description="Compute blocks again in the backward pass instead of keeping them."
    )
    offload: bool = Field(
        False, description="Keep activations in main memory between the passes (GPU only)."
    )

    @model_validator(mode="before")
    @classmethod
    def _dial(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("size") in SIZES:
            return {**SIZES[content["size"]], **content}
        return content

    @model_validator(mode="after")
    def _shapes_fit(self) -> BackboneConfig:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, found {self.kernel_size}")
        if self.mixer == "attention" and self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} must be a multiple of 2 x heads = {2 * self.heads}"
            )
        if self.architecture == "pdet_unet" and len(self.depths) % 2 == 0:
            raise ValueError(f"depths must be odd in number, found {len(self.depths)}")
        if self.window is not None and self.mixer != "attention":
            raise ValueError(f"window: only attention has windows, and mixer is '{self.mixer}'")
        if self.local and self.mixer == "conv":
            raise ValueError("local: the mixer 'conv' is a convolution already")
        return self

    def of_network(self) -> dict[str, Any]:
        """What describes the network alone, without what a subclass adds."""
        return self.model_dump(include=set(BackboneConfig.model_fields))


class LatentOperatorConfig(BackboneConfig):
    """Advance tokens by one step: amplitude-normalised, mean-conserving residual form."""

    kind: Literal["latent"] = "latent"
    history: PositiveInt = Field(1, description="Frames that the operator is given.")
    normalise: bool = Field(
        True, description="Divide deviations from the mean by their RMS, per sample and field."
    )
    conserve: bool = Field(
        True, description="Take the mean off the update of fields whose mean the PDE keeps."
    )
    conditioning: bool = Field(
        True, description="Tell the network PDE parameters, amplitudes and means of a sample."
    )
    input_scaling: Literal["none", "channel"] = Field(
        "none",
        description="'channel': divide every token channel by its own size over the training "
        "split, with a floor, at the input only.",
    )
    scale_floor: PositiveFloat = Field(
        0.05, description="Least size of a channel in `input_scaling`, relative to the largest."
    )


class ResidualConfig(BackboneConfig):
    """A generative model of what an operator leaves over."""

    objective: Literal["flow", "diffusion"] = Field(
        "flow", description="Flow matching along straight lines, or v-prediction diffusion."
    )
    sampling_steps: PositiveInt = Field(16, description="Evaluations for one sample.")


class PriorConfig(BackboneConfig):
    """Solutions of steady problems: a prediction, then refinements."""

    refinement_steps: Annotated[int, Field(ge=1, le=8)] = Field(
        4, description="Evaluations in use: the first predicts, the others refine."
    )
    smallest_noise: PositiveFloat = Field(
        1e-3, description="Noise level of the last refinement, relative to the solution."
    )


_ONLY_OF: dict[str, tuple[str, ...]] = {
    "modes": ("fno", "tfno", "uno", "cosine_fno"),
    "padding": ("fno", "tfno", "uno"),
    "rank": ("tfno",),
    "levels": ("unet",),
    "patch": ("dit",),
    "heads": ("dit",),
}


class FieldOperatorConfig(Config):
    """A network on the grid itself: the baselines. Needs `codec: {patch_size: 1}`."""

    kind: Literal["fno", "tfno", "uno", "cosine_fno", "unet", "dit"] = Field(
        "fno",
        description="neuraloperator's, dense, Tucker-factorised or U-shaped; ours with waves that "
        "fit the boundary conditions; a convolutional U-Net; a transformer on patches.",
    )
    width: PositiveInt = Field(32, description="Channels; unet: of the finest level.")
    depth: PositiveInt = Field(
        4, description="Layers or blocks; unet: blocks of each level, on either side."
    )
    modes: PositiveInt = Field(16, description="Waves kept along each axis, lowest first.")
    history: PositiveInt = 1
    wrapper: bool = Field(
        False, description="The amplitude-normalised, conserving residual form around it."
    )
    padding: Fraction = Field(
        0.0, description="fno, tfno, uno: share of the domain padded at both ends, for no period."
    )
    rank: Share = Field(0.5, description="tfno: share of the spectral weights that are kept.")
    levels: PositiveInt = Field(
        4, description="unet: resolutions, each half as fine and twice as wide as the one above."
    )
    patch: PositiveInt = Field(4, description="dit: grid points of a token along each axis.")
    heads: PositiveInt = Field(4, description="dit: number of attention heads.")
    coarsen: PositiveInt = Field(
        1, description="Work on a grid that is coarser by this factor, by band-limited resampling."
    )
    coordinates: bool = Field(
        False, description="Positions along axes that do not wrap as further inputs."
    )

    @model_validator(mode="after")
    def _options_fit(self) -> FieldOperatorConfig:
        if self.padding and self.kind == "cosine_fno":
            raise ValueError("padding: cosine_fno fits the boundary conditions without")
        for name, kinds in _ONLY_OF.items():
            usual = type(self).model_fields[name].default
            if self.kind not in kinds and getattr(self, name) != usual:
                raise ValueError(f"{name}: is of {', '.join(kinds)}, and kind is '{self.kind}'")
        if self.kind == "dit" and self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} must be a multiple of 2 x heads = {2 * self.heads}"
            )
        return self


class TrivialOperatorConfig(Config):
    """A predictor without weights, which every other one must beat."""

    kind: Literal["persistence", "mean"] = Field(
        "persistence",
        description="The present state again, or its mean over space; of a steady problem 'mean' "
        "is each field's mean over the training split.",
    )
    history: Literal[1] = 1


OperatorConfig = Annotated[
    LatentOperatorConfig | FieldOperatorConfig | TrivialOperatorConfig,
    Field(discriminator="kind"),
]
