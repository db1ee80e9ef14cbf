"""Moving solutions: shifts, reflections and quarter turns of grids and points, and noise.

Pure functions of arrays that know nothing of cards; `ups.data.reading.symmetries` decides which of
them turn a solution of a problem into another solution of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.errors import ConfigError
from ups.registry import FieldSpec

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Orientation:
    """A signed permutation of the space axes: x'_i = signs[i] * x_{axes[i]} about the centre."""

    axes: tuple[int, ...]
    signs: tuple[int, ...]

    @classmethod
    def identity(cls, num_dims: int) -> Orientation:
        return cls(tuple(range(num_dims)), (1,) * num_dims)

    @classmethod
    def reflection(cls, num_dims: int, axis: int) -> Orientation:
        return cls(tuple(range(num_dims)), tuple(-1 if i == axis else 1 for i in range(num_dims)))

    @classmethod
    def rotation(cls, num_dims: int, plane: tuple[int, int], turns: int = 1) -> Orientation:
        """Quarter turns from the first axis of `plane` towards the second."""
        first, second = plane
        axes, signs = list(range(num_dims)), [1] * num_dims
        axes[first], axes[second], signs[first] = second, first, -1
        turn, result = cls(tuple(axes), tuple(signs)), cls.identity(num_dims)
        for _ in range(turns % 4):
            result = result.then(turn)
        return result

    def then(self, after: Orientation) -> Orientation:
        """This one followed by another."""
        return Orientation(
            tuple(self.axes[i] for i in after.axes),
            tuple(s * self.signs[i] for s, i in zip(after.signs, after.axes, strict=True)),
        )

    @property
    def is_identity(self) -> bool:
        return self == Orientation.identity(len(self.axes))

    @property
    def mirrors(self) -> bool:
        """Whether left and right hands are exchanged: determinant -1."""
        swaps = sum(a > b for i, a in enumerate(self.axes) for b in self.axes[i + 1 :])
        return (-1) ** swaps * math.prod(self.signs) < 0


def shift(values: Array, cells: Sequence[int], out: Array | None = None) -> Array:
    """Move a periodic grid's values forward by whole cells: out[i + cells] = values[i].

    Shape:
        values, out: (*any, *space, channel) with one entry of `cells` for each space axis
    """
    target = np.empty(values.shape, values.dtype) if out is None else out
    first = values.ndim - 1 - len(cells)
    pairs: list[list[tuple[slice, slice]]] = [[]]
    for axis, count in enumerate(cells):
        size = values.shape[first + axis]
        moved = count % size
        pieces = [(slice(moved, None), slice(0, size - moved))]
        if moved:
            pieces.append((slice(0, moved), slice(size - moved, None)))
        pairs = [[*done, piece] for done in pairs for piece in pieces]
    for block in pairs:
        to: Any = (..., *(piece for piece, _ in block), slice(None))
        source: Any = (..., *(piece for _, piece in block), slice(None))
        target[to] = values[source]
    return target


def oriented(values: Array, orientation: Orientation) -> Array:
    """A grid's values seen after reflections and quarter turns: a view; components untouched.

    Shape:
        values: (*any, *space, channel)
    """
    first = values.ndim - 1 - len(orientation.axes)
    order = (*range(first), *(first + axis for axis in orientation.axes), values.ndim - 1)
    flips: Any = (..., *(slice(None, None, sign) for sign in orientation.signs), slice(None))
    return np.asarray(values.transpose(order)[flips])


@dataclass(frozen=True)
class Components:
    """Which channels are components along which axis, and of which vector.

    Attributes:
        axis: Of each channel, None for scalars.
        partner: For each channel and axis, the channel of the same vector along that axis; None
            where there is none.
    """

    axis: tuple[int | None, ...]
    partner: tuple[tuple[int | None, ...], ...]

    def sources(self, orientation: Orientation) -> tuple[tuple[int, int], ...]:
        """For each channel, the channel it takes its values from, and the sign."""
        found = []
        for channel, axis in enumerate(self.axis):
            if axis is None:
                found.append((channel, 1))
                continue
            source = self.partner[channel][orientation.axes[axis]]
            if source is None:
                raise ValueError(f"channel {channel} has no component along axis {axis}'s image")
            found.append((source, orientation.signs[axis]))
        return tuple(found)


def components_of(specs: Sequence[FieldSpec], axes: Sequence[str], where: str) -> Components:
    """Find the vectors among fields by the card's `component`.

    Components belong together if their names differ by the axis' name alone (velocity_x,
    velocity_y), or if there is one channel for each axis.

    Raises:
        ConfigError: A component names no axis.
    """
    for spec in specs:
        if spec.component is not None and spec.component not in axes:
            raise ConfigError(
                f"{where}: {spec.name}: component '{spec.component}' is none of the axes "
                f"{', '.join(axes)}"
            )
    along = [None if s.component is None else list(axes).index(s.component) for s in specs]
    single = all(along.count(axis) <= 1 for axis in range(len(axes)))
    stems = [_stem(spec) for spec in specs]

    def partner(channel: int, axis: int) -> int | None:
        for other, its_axis in enumerate(along):
            if its_axis == axis and (single or stems[other] == stems[channel]):
                return other
        return None

    return Components(
        tuple(along),
        tuple(
            tuple(None if along[c] is None else partner(c, a) for a in range(len(axes)))
            for c in range(len(specs))
        ),
    )


def _stem(spec: FieldSpec) -> tuple[str, ...]:
    """A name without the axis it ends with, or begins with."""
    return tuple(spec.name.rsplit(spec.component, 1)) if spec.component else (spec.name,)


def with_components(values: Array, components: Components, orientation: Orientation) -> Array:
    """Turn vectors as `oriented` turned the places they stand at.

    Shape:
        values: (*any, channel); returned as it is where nothing changes
    """
    sources = components.sources(orientation)
    if all(pair == (channel, 1) for channel, pair in enumerate(sources)):
        return values
    order, signs = zip(*sources, strict=True)
    turned = values if order == tuple(range(len(order))) else values[..., list(order)]
    return np.asarray(turned * np.asarray(signs, dtype=values.dtype))


def moved_points(
    coords: Array,
    orientation: Orientation,
    distances: Sequence[float],
    bounds: Sequence[tuple[float, float]],
    wrapped: Sequence[int] = (),
) -> Array:
    """Positions after an orientation about the domain's centre, then a shift.

    Args:
        wrapped: Axes along which positions are brought into [low, high).
    Shape:
        coords: (*any, node, dim)
    """
    low, high = np.asarray(bounds, dtype=np.float64).T
    centre = (low + high) / 2
    turned = (coords.astype(np.float64) - centre)[..., list(orientation.axes)]
    turned = turned * orientation.signs + centre + distances
    for axis in wrapped:
        inside = np.mod(turned[..., axis] - low[axis], high[axis] - low[axis])
        turned[..., axis] = inside + low[axis]
    result = turned.astype(coords.dtype)
    for axis in wrapped:  # rounding may reach the upper end, which is the lower one
        values = result[..., axis]
        values[values >= high[axis]] = low[axis]
    return result


def noisy(
    frames: Array,
    level: int | float,
    scale: Array,
    positive: Sequence[bool],
    random: np.random.Generator,
) -> Array:
    """Add independent normal noise to every value; what must stay positive is left where it
    would not.

    Args:
        level: Standard deviation relative to `scale`.
        scale: (channel,), physical units.
        positive: Of each channel.
    Shape:
        frames: (*any, channel)
    """
    noise = random.standard_normal(frames.shape, dtype=np.float32)
    noise *= (level * np.asarray(scale)).astype(np.float32)
    result = frames + noise
    kept = (result <= 0) & np.asarray(positive)
    return np.where(kept, frames, result) if kept.any() else result
