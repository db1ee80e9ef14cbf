"""What physics asks of fields on grids: boundary values, divergence, and the equation itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor

from ups.codec.coded import geometry_of
from ups.data.reading.batches import boundary_codes
from ups.data.store import TrajectoryStore
from ups.evaluation.physics_measures import Fields, PerFrame, by_frame
from ups.evaluation.rollout import Batch
from ups.physics.boundary import boundary_violation
from ups.physics.derivatives import Ends
from ups.physics.divergence import relative_divergence
from ups.physics.grids import UniformGrid
from ups.physics.norms import relative, root
from ups.physics.residuals import EvaluatedBalance, Residual

_MOST, _LEAST = 256, 4
_VALUES = 2**24
_VALUES_AT_ONCE = 2**20


def grid_of(store: TrajectoryStore) -> UniformGrid:
    """Where the points of a store are, and what happens at its ends."""
    return UniformGrid.within(
        store.metadata.bounds,
        boundary_codes(store.metadata, store.name).tolist(),
        **geometry_of(store),
    )


@dataclass(frozen=True)
class Boundary:
    """`ups.physics.boundary.boundary_violation` of single frames."""

    grid: UniformGrid
    conditions: Mapping[str, tuple[Ends, ...]]
    name: str = "boundary"
    what: str = "violation of the boundary conditions / RMS of the field"
    allowance: float = 0.01

    def __call__(self, batch: Batch) -> tuple[PerFrame, PerFrame]:
        measure = partial(boundary_violation, grid=self.grid, conditions=self.conditions)
        return by_frame(measure, batch.prediction), by_frame(measure, batch.reference)


@dataclass(frozen=True)
class Divergence:
    """`ups.physics.divergence.relative_divergence` of single frames, RMS over vector fields."""

    grid: UniformGrid
    vectors: tuple[tuple[int, ...], ...]
    name: str = "divergence"
    what: str = "RMS divergence / RMS of the velocity's slopes"
    allowance: float = 0.01

    def __call__(self, batch: Batch) -> tuple[PerFrame, PerFrame]:
        return self._of(batch.prediction), self._of(batch.reference)

    def _of(self, fields: Fields) -> PerFrame:
        squares = [
            by_frame(
                partial(relative_divergence, grid=self.grid, vector=vector, scheme=4), fields
            ).square()
            for vector in self.vectors
        ]
        return torch.stack(squares).mean(0).sqrt()


@dataclass(frozen=True)
class EquationResidual:
    """What is left over of the card's equation, over the truth's largest term.

    That term's RMS is over the whole trajectory, so that a prediction cannot excuse itself with
    terms of its own. Of a rollout all predicted frames but the last have a number, and the last
    given frame counts as the one before the first.

    Attributes:
        dt: Between predicted frames; None for a steady equation.
        chosen: Trajectories that are looked at, rows of the store; not all, for it is expensive.
    """

    residual: Residual
    grid: UniformGrid
    store: TrajectoryStore
    dt: float | None
    chosen: tuple[int, ...]
    name: str = "pde_residual"
    what: str = "RMS residual of the equation / RMS of the truth's largest term"
    allowance: float = 0.01

    def __call__(self, batch: Batch) -> tuple[PerFrame, PerFrame]:
        parts = [self._measured(rows, batch) for rows in self._pieces(batch)]
        if not parts:
            nothing = torch.zeros(0, self._frames(batch), dtype=torch.float64)
            return nothing, nothing
        prediction, truth = zip(*parts, strict=True)
        return torch.cat(prediction), torch.cat(truth)

    def _frames(self, batch: Batch) -> int:
        """How many have a number."""
        return max(batch.prediction.shape[1] - 1, 1)

    def _pieces(self, batch: Batch) -> Iterator[list[int]]:
        """Chosen trajectories of a batch, few enough to stay in the processor's cache."""
        rows = np.flatnonzero(np.isin(batch.trajectories, self.chosen)).tolist()
        size = max(1, _VALUES_AT_ONCE // batch.prediction[0].numel())
        for first in range(0, len(rows), size):
            yield rows[first : first + size]

    def _measured(self, rows: list[int], batch: Batch) -> tuple[PerFrame, PerFrame]:
        given = None if batch.given is None else batch.given[rows][:, None]
        members = batch.trajectories[rows]
        truth = self._evaluated(batch.reference[rows], given, members)
        prediction = self._evaluated(batch.prediction[rows], given, members)
        return _relative_to(prediction, truth), _relative_to(truth, truth)

    def _evaluated(
        self, fields: Fields, given: Tensor | None, members: np.ndarray
    ) -> list[EvaluatedBalance]:
        inputs = self.store.inputs
        return self.residual.evaluated(
            fields if given is None else torch.cat([given, fields], 1),
            self.grid,
            dt=None if self.dt is None else torch.full((len(fields),), self.dt),
            parameters=torch.from_numpy(self.store.parameters[members]),
            inputs=None if inputs is None else torch.from_numpy(inputs[members]),
        )


def _relative_to(found: list[EvaluatedBalance], truth: list[EvaluatedBalance]) -> PerFrame:
    """Of all frames that every balance has; one without a rate has a frame more at each end."""
    kept = min(one.total.shape[1] for one in found)
    squares = []
    for one, true in zip(found, truth, strict=True):
        first = (one.total.shape[1] - kept + 1) // 2
        total = one.total[:, first : first + kept].square().flatten(2).mean(2).double()
        largest = true.largest[:, None].double().expand_as(total)
        squares.append(relative(total, largest).square())
    return root(torch.stack(squares).mean(0))


def few_of(members: np.ndarray, frames: int, store: TrajectoryStore) -> tuple[int, ...]:
    """Evenly spaced trajectories, 4 to 256 of them: about 16 million values in all."""
    values = (frames + 1) * prod(store.space) * store.num_fields
    wanted = min(max(_VALUES // values, _LEAST), _MOST, len(members))
    places = np.linspace(0, len(members) - 1, wanted).round().astype(int)
    return tuple(members[places].tolist())
