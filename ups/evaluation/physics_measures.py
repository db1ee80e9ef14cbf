"""What physics asks of single frames, for grids, meshes and particles: conservation and sign.

A measure looks at a batch and says by how much every frame of prediction and of truth misses one
requirement. All are dimensionless; 0 is perfect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ups.evaluation.rollout import Batch
from ups.physics.divergence import vectors_of
from ups.physics.flow_equations import GAMMA
from ups.physics.norms import ROUNDING, relative
from ups.physics.positivity import negativity
from ups.physics.table import equation_of
from ups.registry import DatasetCard

Fields = Float[Tensor, "batch time *space channel"]
PerFrame = Float64[Tensor, "trajectory time"]
Density: TypeAlias = Callable[[Tensor], Tensor]
"""Fields (batch, time, *space, channel) -> what is conserved, (batch, time, *space, component)."""

NodeWeights: TypeAlias = Callable[[int], Tensor]
"""Row of a trajectory -> share of the domain that each of its nodes stands for, (node,)."""


@runtime_checkable
class Measure(Protocol):
    """One requirement. It can be pickled."""

    @property
    def name(self) -> str: ...

    @property
    def what(self) -> str:
        """What the number is, without an article: 'drift of the mean of u / RMS of u'."""
        ...

    @property
    def allowance(self) -> float:
        """What is tolerated of a prediction where the truth misses nothing at all."""
        ...

    def __call__(self, batch: Batch) -> tuple[PerFrame, PerFrame]:
        """Of the prediction and of the truth; of some trajectories if it is expensive."""
        ...


@dataclass(frozen=True)
class Conservation:
    """Distance of the mean over space from that of the last given frame.

    In units of the RMS of what is conserved in that frame, for the prediction too.

    Attributes:
        density: What is conserved.
        weights: Of the nodes of a mesh; without them all points count alike.
    """

    name: str
    what: str
    density: Density
    weights: NodeWeights | None = None
    allowance: float = 0.01

    def __call__(self, batch: Batch) -> tuple[PerFrame, PerFrame]:
        assert batch.given is not None
        weights = None if self.weights is None else self.weights(int(batch.trajectories[0]))
        start = self.density(batch.given[:, None])
        before = _mean(start, weights)
        scale = _mean(start.square(), weights).sum(-1)

        def gap(fields: Fields) -> PerFrame:
            change = (_mean(self.density(fields), weights) - before).square().sum(-1)
            return relative(change, scale.expand_as(change))

        return gap(batch.prediction), gap(batch.reference)


def _mean(
    values: Float[Tensor, "batch time *space component"], weights: Tensor | None
) -> Float64[Tensor, "batch time component"]:
    flat = values.flatten(2, -2)
    if weights is not None:
        return (flat.double() * weights[:, None]).sum(2)
    return flat.mean(2, dtype=torch.float64)


def conserved_by(
    card: DatasetCard, periodic: Sequence[bool], *, weights: NodeWeights | None = None
) -> list[Conservation]:
    """What a problem conserves: the card's conserved fields, and what follows from its equation.

    Compressible flow on a periodic domain keeps mass, momentum and energy; advection keeps the
    mean square too. That a quantity is kept says nothing of a steady problem.
    """
    names = card.field_names
    found = {name: partial(channel, number=names.index(name)) for name in card.pde.conserved}
    laws = [
        Conservation(f"conservation_{name}", f"drift of the mean of {name} / RMS of {name}",
                     density, weights)
        for name, density in found.items()
    ]  # fmt: skip
    equation, vectors = equation_of(card), vectors_of(card)
    if equation is None or not all(periodic):
        return laws
    if card.pde.family == "advection":
        square = partial(mean_square_density, number=names.index(equation.fields[0]))
        laws.append(
            Conservation("conservation_energy", "drift of the mean square / its RMS", square)
        )
    if card.pde.family == "compressible_ns" and vectors:
        rho, velocity = names.index("density"), vectors[0]
        if "density" not in found:
            density = partial(channel, number=rho)
            what = "drift of the mean density / RMS density"
            laws.append(Conservation("conservation_density", what, density))
        flux = partial(momentum, density=rho, velocity=velocity)
        total = partial(
            gas_energy, density=rho, pressure=names.index("pressure"), velocity=velocity
        )
        laws += [
            Conservation(
                "conservation_momentum", "drift of the mean momentum / RMS momentum", flux
            ),
            Conservation("conservation_energy", "drift of the mean energy / RMS energy", total),
        ]
    return laws


def channel(fields: Tensor, *, number: int) -> Tensor:
    return fields[..., number : number + 1]


def mean_square_density(fields: Tensor, *, number: int) -> Tensor:
    return fields[..., number : number + 1].square()


def momentum(fields: Tensor, *, density: int, velocity: Sequence[int]) -> Tensor:
    return fields[..., density : density + 1] * fields[..., list(velocity)]


def kinetic_energy(fields: Tensor, *, density: int | None, velocity: Sequence[int]) -> Tensor:
    """v^2 / 2, times the density where there is one."""
    energy = 0.5 * fields[..., list(velocity)].square().sum(-1, keepdim=True)
    return energy if density is None else fields[..., density : density + 1] * energy


def gas_energy(fields: Tensor, *, density: int, pressure: int, velocity: Sequence[int]) -> Tensor:
    """p / (gamma - 1) + rho v^2 / 2 of PDEBench's ideal gas."""
    internal = fields[..., pressure : pressure + 1] / (GAMMA - 1)
    return internal + kinetic_energy(fields, density=density, velocity=velocity)


@dataclass(frozen=True)
class Positivity:
    """RMS of what lies below zero over the RMS of the field, over fields that are positive."""

    positive: tuple[bool, ...]
    name: str = "positivity"
    what: str = "RMS of negative values of positive fields / RMS of the field"
    allowance: float = ROUNDING

    def __call__(self, batch: Batch) -> tuple[PerFrame, PerFrame]:
        return (
            by_frame(partial(negativity, positive=self.positive), batch.prediction),
            by_frame(partial(negativity, positive=self.positive), batch.reference),
        )


def by_frame(measure: Callable[[Tensor], Tensor], fields: Fields) -> PerFrame:
    """A measure of trajectories, (batch, time, *space, channel) -> (batch,), of single frames."""
    single = fields.flatten(0, 1)[:, None]
    return measure(single).double().unflatten(0, tuple(fields.shape[:2]))
