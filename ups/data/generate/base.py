"""What a solver is asked for and what it gives back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt
import torch
from torch import Tensor

from ups.data.layouts.base import PointTrajectory

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class GridAxis:
    """One space axis of the output: `points` cells of equal size over (low, low + length)."""

    low: float
    length: float
    points: int

    @property
    def spacing(self) -> float:
        return self.length / self.points

    def centres(self, refinement: int = 1) -> Tensor:
        """Distance from the left end of every cell centre, and of the points in between.

        Every `refinement`-th entry is a cell centre.

        Shape:
            output: (points * refinement,) float64
        """
        steps = torch.arange(self.points * refinement, dtype=torch.float64) / refinement
        return (steps + 0.5) * self.spacing


@dataclass(frozen=True)
class Grid:
    """Where and when a raw file holds values: cell centres and frame times."""

    axes: tuple[GridAxis, ...]
    times: tuple[float, ...]

    @property
    def space(self) -> tuple[int, ...]:
        return tuple(axis.points for axis in self.axes)


@dataclass(frozen=True)
class Task:
    """A batch to solve: which trajectories, from which seed, where, and how precisely.

    Trajectory i must depend on (seed, i), the grid and the parameters alone, not on the batch.

    Attributes:
        trajectories: Their numbers in the file.
        parameters: One value for the file; those the card draws per trajectory may be absent.
        dtype: Precision to solve in.
    """

    trajectories: range
    seed: int
    grid: Grid
    parameters: Mapping[str, float]
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Solution:
    """A solved batch, physical units.

    Attributes:
        fields: (trajectory, time, *space, channel); time has one entry for a static problem.
        inputs: (trajectory, *space, input), or None.
        drawn: Parameters drawn for each trajectory, (trajectory,) each.
    """

    fields: Tensor
    inputs: Tensor | None = None
    drawn: dict[str, Array] = field(default_factory=dict)


@runtime_checkable
class Solver(Protocol):
    """Solves a batch; raises DataError where a solution does not stay finite."""

    def __call__(self, task: Task) -> Solution: ...


@dataclass(frozen=True)
class PointTask:
    """A batch of trajectories on meshes or of particles to solve.

    Attributes:
        trajectories: Their numbers in the file; trajectory i depends on (seed, i) and on the
            other settings alone.
        times: Of the stored frames; one entry for a static problem.
        nodes: Fewest and most nodes or particles; each trajectory draws its own number.
        parameters: As in `Task`.
    """

    trajectories: range
    seed: int
    times: tuple[float, ...]
    nodes: tuple[int, int]
    parameters: Mapping[str, float]
    device: torch.device


@dataclass(frozen=True)
class SolvedPoints:
    """One solved trajectory and the parameters drawn for it."""

    trajectory: PointTrajectory
    drawn: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class PointSolver(Protocol):
    """Solves one trajectory after the other."""

    def __call__(self, task: PointTask) -> Iterator[SolvedPoints]: ...
