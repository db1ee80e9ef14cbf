"""Which augmentations are valid: what maps equation, boundaries and grid onto themselves.

A card says which symmetries its equation has (`pde.symmetries`); a store says on which domain and
grid it was solved. `permit` decides from both, once; `Permitted` then draws a `Move` for each
window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.data.reading.augment import Components, Orientation, components_of
from ups.errors import ConfigError, did_you_mean
from ups.registry import DatasetCard

Array = npt.NDArray[Any]
NAMES = ("shift", "reflection", "rotation", "noise")
_TOLERANCE = 0.01
"""Of a cell: how far a mirrored grid point may lie from a grid point."""


@dataclass(frozen=True)
class Augmentation:
    """What is asked for.

    Attributes:
        shift: By a different number of cells (any distance for particles) along periodic axes.
        reflection: Of each axis with probability 1/2.
        rotation: By quarter turns in the planes of equal axes, all equally likely.
        noise: Standard deviation on history frames, relative to the scale by which the card
            normalises a channel: RMS, or standard deviation.
    """

    shift: bool = False
    reflection: bool = False
    rotation: bool = False
    noise: int | float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ConfigError(f"augment: noise: {self.noise} is not zero or more")

    @classmethod
    def parse(cls, text: str) -> Augmentation:
        """From names separated by commas: `shift,reflection,noise=0.01`."""
        chosen: dict[str, Any] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = item.partition("=")
            if name not in NAMES:
                near = did_you_mean(name, NAMES)
                raise ConfigError(f"augment: unknown '{name}'{near}", hint=", ".join(NAMES))
            if (name == "noise") != bool(equals):
                raise ConfigError(f"augment: '{item}'", hint="shift,reflection,noise=0.01")
            chosen[name] = _number(item, value) if equals else True
        return cls(**chosen)

    @property
    def moves(self) -> bool:
        """Whether anything but noise is asked for."""
        return self.shift or self.reflection or self.rotation


def _number(item: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigError(f"augment: '{item}': '{value}' is not a number") from error


@dataclass(frozen=True)
class Geometry:
    """What an augmentation has to map onto itself.

    Attributes:
        where: Names the store in messages.
        coords: One (points,) array for each axis of a grid as it is read; None for points.
    """

    where: str
    kind: str
    bounds: tuple[tuple[float, float], ...]
    boundaries: tuple[str, ...]
    coords: tuple[Array, ...] | None

    def length(self, axis: int) -> float:
        low, high = self.bounds[axis]
        return high - low

    def spacing(self, axis: int) -> float:
        """Of a uniform grid; NaN for another one."""
        assert self.coords is not None
        steps = np.diff(self.coords[axis])
        if not len(steps) or np.ptp(steps) > _TOLERANCE * steps.mean():
            return math.nan
        return float(steps.mean())


@dataclass(frozen=True)
class Move:
    """What one window undergoes: an orientation, then a shift by these shares of the domain."""

    orientation: Orientation
    shares: tuple[float, ...]

    def cells(self, space: Sequence[int]) -> tuple[int, ...]:
        return tuple(int(share * size) for share, size in zip(self.shares, space, strict=True))

    def distances(self, geometry: Geometry) -> tuple[float, ...]:
        return tuple(share * geometry.length(axis) for axis, share in enumerate(self.shares))


@dataclass(frozen=True)
class Permitted:
    """The moves that a card and a store allow.

    Attributes:
        shifted, flipped: Axes.
        turned: Sets of axes that may be exchanged.
    """

    num_dims: int
    shifted: tuple[int, ...] = ()
    flipped: tuple[int, ...] = ()
    turned: tuple[tuple[int, ...], ...] = ()

    def draw(self, random: np.random.Generator) -> Move:
        """One move; reflections and rotations are uniform over the group they generate."""
        orientation = Orientation.identity(self.num_dims)
        for axes in self.turned:
            orientation = orientation.then(_random_turn(self.num_dims, axes, random))
        for axis in self.flipped:
            if random.random() < 0.5:
                orientation = orientation.then(Orientation.reflection(self.num_dims, axis))
        shares = [0.0] * self.num_dims
        for axis in self.shifted:
            shares[axis] = float(random.random())
        return Move(orientation, tuple(shares))


def _random_turn(num_dims: int, axes: tuple[int, ...], random: np.random.Generator) -> Orientation:
    """Uniform over the rotations that map the given axes onto each other."""
    order, signs = list(range(num_dims)), [1] * num_dims
    for axis, source in zip(axes, random.permutation(axes).tolist(), strict=True):
        order[axis], signs[axis] = source, 1 if random.random() < 0.5 else -1
    drawn = Orientation(tuple(order), tuple(signs))
    if drawn.mirrors:
        signs[axes[0]] *= -1
    return Orientation(tuple(order), tuple(signs))


def permit(asked: Augmentation, card: DatasetCard, geometry: Geometry) -> Permitted:
    """What of `asked` is valid along which axes.

    Raises:
        ConfigError: The card does not list a symmetry, no axis of this store has it, or the card's
            vectors cannot be turned.
    """
    for name in ("shift", "reflection", "rotation"):
        if getattr(asked, name) and name not in card.pde.symmetries:
            has = ", ".join(card.pde.symmetries) or "none"
            raise ConfigError(
                f"{card.key}: augment: '{name}' is not among the card's pde.symmetries ({has})",
                hint="leave it out: it would turn solutions into what solves another problem",
            )
    if asked.noise and card.time.step is None:
        raise ConfigError(
            f"{card.key}: augment: noise is put on history frames, and a static problem has none"
        )
    dims = range(card.num_dims)
    free = "shift" in card.pde.symmetries
    permitted = Permitted(
        card.num_dims,
        shifted=tuple(a for a in dims if asked.shift and _may_shift(geometry, a)),
        flipped=tuple(a for a in dims if asked.reflection and _may_flip(geometry, a, free)),
        turned=_equal_axes(geometry, card.num_dims, free) if asked.rotation else (),
    )
    for name, found in (("shift", permitted.shifted), ("reflection", permitted.flipped),
                        ("rotation", permitted.turned)):  # fmt: skip
        if getattr(asked, name) and not found:
            raise ConfigError(
                f"{geometry.where}: augment: '{name}': {_WHY[name]} "
                f"(boundaries: {', '.join(geometry.boundaries)})",
                hint="leave it out, or convert without --stride-x",
            )
    _check_vectors(card, permitted)
    return permitted


_WHY = {
    "shift": "no axis of a grid or of particles is periodic with one whole period stored",
    "reflection": "no axis has like ends and points symmetric about the domain's centre",
    "rotation": "no two axes have equal lengths, boundaries and points, symmetric about the centre",
}


def _may_shift(geometry: Geometry, axis: int) -> bool:
    """A mesh would be torn where it leaves the box."""
    if geometry.boundaries[axis] != "periodic" or geometry.kind == "mesh":
        return False
    if geometry.coords is None:
        return True
    spacing = geometry.spacing(axis)
    period = spacing * len(geometry.coords[axis])
    return abs(period - geometry.length(axis)) < 0.25 * spacing  # False for NaN


def _may_flip(geometry: Geometry, axis: int, free: bool) -> bool:
    """Points of a grid must lie on points again; where shifts are allowed, any centre will do.

    Ends of different boundary conditions cannot be exchanged.
    """
    if "/" in geometry.boundaries[axis]:
        return False
    if geometry.coords is None:
        return True
    coords, (low, high) = geometry.coords[axis], geometry.bounds[axis]
    if len(coords) < 2:
        return False
    twice = coords[0] + coords[-1] if free and _may_shift(geometry, axis) else low + high
    return bool(np.abs(coords + coords[::-1] - twice).max() < _TOLERANCE * np.diff(coords).min())


def _equal_axes(geometry: Geometry, num_dims: int, free: bool) -> tuple[tuple[int, ...], ...]:
    """Sets of two or more axes that a quarter turn exchanges."""
    sets: list[list[int]] = []
    for axis in range(num_dims):
        if not _may_flip(geometry, axis, free):
            continue
        home = next((axes for axes in sets if _alike(geometry, axes[0], axis)), None)
        if home is None:
            sets.append([axis])
        else:
            home.append(axis)
    return tuple(tuple(axes) for axes in sets if len(axes) > 1)


def _alike(geometry: Geometry, one: int, other: int) -> bool:
    lengths = geometry.length(one), geometry.length(other)
    if geometry.boundaries[one] != geometry.boundaries[other]:
        return False
    if not math.isclose(*lengths, rel_tol=1e-5):
        return False
    if geometry.coords is None:
        return True
    first, second = geometry.coords[one], geometry.coords[other]
    if len(first) != len(second):
        return False
    apart = np.abs((first - first[0]) - (second - second[0])).max()
    return bool(apart < _TOLERANCE * np.diff(first).min())


def _check_vectors(card: DatasetCard, permitted: Permitted) -> None:
    """Every vector needs a component along each axis that is turned into one of its own."""
    if not (permitted.flipped or permitted.turned):
        return
    for components, specs in zip(vectors_of(card), (card.fields, card.inputs), strict=True):
        for channel, axis in enumerate(components.axis):
            together = next((axes for axes in permitted.turned if axis in axes), ())
            if any(components.partner[channel][other] is None for other in together):
                raise ConfigError(
                    f"{card.key}: augment: rotation: '{specs[channel].name}' is a component of a "
                    "vector without the others",
                    hint="name them alike but for the axis, as velocity_x and velocity_y",
                )


def vectors_of(card: DatasetCard) -> tuple[Components, Components]:
    """The vectors among the card's fields, and among its inputs."""
    axes = [axis.name for axis in card.discretisation.axes]
    where = f"{card.key}: fields"
    return components_of(card.fields, axes, where), components_of(card.inputs, axes, where)
