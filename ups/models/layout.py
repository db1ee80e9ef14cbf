"""What a model must know of tokens, and what it is given besides them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of one task.

    The first `num_fields` channels of a token hold the mean of each field over its patch, times
    sqrt(points_per_token). All channels are isometric coordinates: the mean over tokens of their
    sum of squares, over `points_per_token`, is the mean square of the decoded fields (summed over
    fields, in the codec's units), where tokens have equal `weights`.

    Attributes:
        anchors: Tokens along each axis of the anchor grid; the last axis is the fastest.
        periodic: Whether each axis wraps.
        latent_dim: Channels of a token.
        num_fields: Fields that were encoded.
        separable: Whether channel `k * num_fields + c` belongs to field c alone.
        points_per_token: Values per field that a token stands for.
        weights: Share of the domain of each token, adding up to 1; None where all are equal.
        conserved: For each field, whether the PDE keeps its spatial mean (in the codec's units).
        num_parameters: PDE parameters of a trajectory.
        dt: The time step that counts as one; None for a steady problem.
        context_dim: Channels of what is given with the problem (coefficient, geometry) per token.
        kind: 'grid', 'mesh' or 'particles'.
        family: The card's `pde.family`.
        boundaries: Code of the boundary condition at the lower and upper end of each space axis:
            place in `ups.data.reading.batches.BOUNDARIES`.
    """

    anchors: tuple[int, ...]
    periodic: tuple[bool, ...]
    latent_dim: int
    num_fields: int
    separable: bool
    points_per_token: int
    conserved: tuple[bool, ...]
    num_parameters: int
    dt: float | None
    weights: tuple[float, ...] | None = None
    context_dim: int = 0
    kind: str = "grid"
    family: str = ""
    boundaries: tuple[tuple[int, int], ...] = ()

    @property
    def num_tokens(self) -> int:
        product = 1
        for size in self.anchors:
            product *= size
        return product

    @property
    def is_steady(self) -> bool:
        return self.dt is None


@dataclass(frozen=True)
class Given:
    """What a model is told about each sample of a batch besides its tokens.

    Shape:
        parameters: (batch, parameter), each mapped to [-1, 1] over the card's range
        dt: (batch,), in the card's unit; ones for a steady problem
        context: (batch, tokens, context_dim), or None where the layout has none
    """

    parameters: Float[Tensor, "batch parameter"]
    dt: Float[Tensor, " batch"]
    context: Float[Tensor, "batch tokens context"] | None = None

    def __len__(self) -> int:
        return len(self.dt)

    def repeated(self, times: int) -> Given:
        """Every sample `times` times, one after the other: for ensembles."""
        context = None if self.context is None else self.context.repeat_interleave(times, 0)
        return replace(
            self,
            parameters=self.parameters.repeat_interleave(times, 0),
            dt=self.dt.repeat_interleave(times, 0),
            context=context,
        )
