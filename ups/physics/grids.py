"""Where the points of a uniform grid are and what happens at its ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ups.data.reading.batches import BOUNDARIES


@dataclass(frozen=True)
class UniformGrid:
    """A uniform grid in a box, as derivatives and boundary conditions need to know it.

    Attributes:
        spacing: Distance between points along each axis.
        boundaries: Name of the boundary condition at the lower and upper end of each axis; one
            of `ups.data.reading.batches.BOUNDARIES`.
        gaps: Distance from the lower end of the domain to the first point, and from the last
            point to the upper end, for each axis. Half a cell on cell-centred grids.
    """

    spacing: tuple[float, ...]
    boundaries: tuple[tuple[str, str], ...]
    gaps: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not len(self.spacing) == len(self.boundaries) == len(self.gaps):
            raise ValueError("spacing, boundaries and gaps need one entry for each axis")
        unknown = {name for ends in self.boundaries for name in ends} - set(BOUNDARIES)
        if unknown:
            raise ValueError(f"boundary conditions {sorted(unknown)} are none of {BOUNDARIES}")

    @classmethod
    def cells(cls, spacing: Sequence[float], boundaries: Sequence[tuple[str, str]]) -> UniformGrid:
        """A grid of cell centres: the domain ends half a cell outside of them."""
        gaps = tuple((step / 2, step / 2) for step in spacing)
        return cls(tuple(spacing), tuple(boundaries), gaps)

    @classmethod
    def within(
        cls,
        bounds: Sequence[tuple[float, float]],
        codes: Sequence[Sequence[int]],
        *,
        space: Sequence[int],
        origin: Sequence[float],
        spacing: Sequence[float],
    ) -> UniformGrid:
        """A grid of `space` points from `origin` on, in the box `bounds`.

        Args:
            codes: For each axis and end the place in `BOUNDARIES`, as in a `TokenLayout`.
        """
        axes = zip(bounds, space, origin, spacing, strict=True)
        gaps = [
            (start - low, high - (start + (size - 1) * step))
            for (low, high), size, start, step in axes
        ]
        names = [(BOUNDARIES[lower], BOUNDARIES[upper]) for lower, upper in codes]
        return cls(tuple(spacing), tuple(names), tuple(gaps))

    @property
    def num_dims(self) -> int:
        return len(self.spacing)

    @property
    def periodic(self) -> tuple[bool, ...]:
        return tuple(lower == "periodic" for lower, _ in self.boundaries)
