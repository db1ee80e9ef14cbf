"""By how much consecutive frames miss the equation that their card states, in strong form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ups.models.normalisation import at_least_float32
from ups.physics.boundary import conditions_of
from ups.physics.derivatives import Scheme
from ups.physics.divergence import vectors_of
from ups.physics.equations import Balance, Equation, Frames
from ups.physics.grids import UniformGrid
from ups.physics.norms import ROUNDING, mean_square, per_sample, relative, root
from ups.physics.table import equation_of
from ups.registry import DatasetCard

Fields = Float[Tensor, "batch time *space channel"]


def residual_for(card: DatasetCard) -> Residual | None:
    """The residual of the card's equation; None where `table.why_no_residual` says why."""
    equation = equation_of(card)
    return None if equation is None else Residual(card, equation)


@dataclass(frozen=True)
class EvaluatedBalance:
    """What is left over of one balance, and the size of what should cancel.

    Shape:
        total: (batch, time, *space), of a vector (batch, time, component, *space)
        largest: (batch,), mean square of the largest term, with what rounding makes of it
    """

    total: Tensor
    largest: Float[Tensor, " batch"]


@dataclass(frozen=True)
class Residual:
    """RMS of the residual over the RMS of its largest term, for each sample.

    Over three frames and more, d/dt is the central difference and the other terms are averaged by
    Simpson's rule, (f_0 + 4 f_1 + f_2) / 6: fourth order in dt, for every frame but the first and
    the last. Over two frames it is the difference and the mean of both, second order. A system's
    equations count alike (root mean square of their numbers).

    It does not vanish on true data: frames are finite differences apart, sampled, and rounded to
    float32. Compare with the truth's own.
    """

    card: DatasetCard
    equation: Equation

    def __call__(
        self,
        fields: Fields,
        grid: UniformGrid,
        *,
        dt: Float[Tensor, " batch"] | None,
        parameters: Float[Tensor, "batch parameter"],
        inputs: Float[Tensor, "batch *space input"] | None = None,
        scheme: Scheme | None = None,
    ) -> Float[Tensor, " batch"]:
        """One number for each sample; arguments and errors are those of `evaluated`."""
        found = self.evaluated(
            fields, grid, dt=dt, parameters=parameters, inputs=inputs, scheme=scheme
        )
        squares = [relative(mean_square(one.total), one.largest).square() for one in found]
        return root(torch.stack(squares).mean(0))

    def evaluated(
        self,
        fields: Fields,
        grid: UniformGrid,
        *,
        dt: Float[Tensor, " batch"] | None,
        parameters: Float[Tensor, "batch parameter"],
        inputs: Float[Tensor, "batch *space input"] | None = None,
        scheme: Scheme | None = None,
    ) -> list[EvaluatedBalance]:
        """Each balance in every cell, of all frames but the first and the last.

        Of two frames: between them. A balance without a rate keeps all frames.

        Args:
            fields: Frames `dt` apart, physical units.
            dt: In the card's unit; None for a steady equation.
            parameters: As stored, a column for each of the card's.
            inputs: As stored; Darcy needs its coefficient, the curl of a driven flow its force.
            scheme: Of derivatives, in place of the equation's own.
        Raises:
            ValueError: Too few frames, no dt, or an input that the equation needs is missing.
        """
        if not self.equation.is_steady and (dt is None or fields.shape[1] < 2):
            raise ValueError("the residual of an evolution needs dt and at least two frames")
        if self.equation.is_steady and inputs is None:
            raise ValueError(f"{self.card.key}: the residual needs the problem's inputs")
        frames = self._frames(fields, grid, parameters, inputs, scheme or self.equation.scheme)
        balances = self.equation.balances(frames)
        return [_evaluated(_inner(balance, grid), dt) for balance in balances]

    def _frames(
        self,
        fields: Tensor,
        grid: UniformGrid,
        parameters: Tensor,
        inputs: Tensor | None,
        scheme: Scheme,
    ) -> Frames:
        card, values = self.card, at_least_float32(fields)
        vectors = vectors_of(card)
        given = (
            {} if inputs is None else dict(zip(card.input_names, inputs.unbind(-1), strict=True))
        )
        columns = zip(card.parameter_names, parameters.unbind(-1), strict=True)
        return Frames(
            grid=grid,
            scheme=scheme,
            fields=dict(zip(card.field_names, values.unbind(-1), strict=True)),
            inputs={name: at_least_float32(value)[:, None] for name, value in given.items()},
            parameters={
                name: per_sample(column.to(values), values[..., 0]) for name, column in columns
            },
            velocity=tuple(card.field_names[c] for c in vectors[0]) if vectors else (),
            conditions=conditions_of(card, grid),
        )


def _inner(balance: Balance, grid: UniformGrid) -> Balance:
    """Without the margin at ends that are not periodic."""

    def cut(values: Tensor) -> Tensor:
        for axis, periodic in enumerate(grid.periodic):
            dim = axis - grid.num_dims
            if not periodic:
                values = values.narrow(dim, balance.margin, values.shape[dim] - 2 * balance.margin)
        return values

    if not balance.margin:
        return balance
    quantity = None if balance.quantity is None else cut(balance.quantity)
    return Balance(quantity, tuple(cut(term) for term in balance.terms))


def _evaluated(balance: Balance, dt: Tensor | None) -> EvaluatedBalance:
    """The sum of all terms, d/dt included, and the mean square of the largest."""
    if balance.quantity is None or dt is None:
        terms, rounding = balance.terms, torch.zeros(())
    else:
        step = per_sample(dt.to(balance.quantity), balance.quantity)
        terms = (
            _rate(balance.quantity, step), *(_over_frames(term) for term in balance.terms),
        )  # fmt: skip
        rounding = ROUNDING**2 * mean_square(balance.quantity / step)
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    largest = torch.stack([mean_square(term) for term in terms]).amax(0)
    return EvaluatedBalance(total, largest + rounding.to(largest))


def _rate(quantity: Tensor, step: Tensor) -> Tensor:
    if quantity.shape[1] == 2:
        return (quantity[:, 1:] - quantity[:, :-1]) / step
    return (quantity[:, 2:] - quantity[:, :-2]) / (2 * step)


def _over_frames(term: Tensor) -> Tensor:
    """Mean over the time that `_rate` spans; a term with one frame is constant in time."""
    if term.shape[1] == 1:
        return term
    if term.shape[1] == 2:
        return (term[:, 1:] + term[:, :-1]) / 2
    return (term[:, :-2] + 4 * term[:, 1:-1] + term[:, 2:]) / 6
