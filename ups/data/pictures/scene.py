"""What is shown: one trajectory of one store, whatever kind of store it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.data.pictures import style
from ups.data.points import PointStore
from ups.data.splits import SPLITS
from ups.data.store import TrajectoryStore
from ups.errors import UsageError, did_you_mean
from ups.registry import DatasetCard, FieldSpec

Array = npt.NDArray[Any]
_MOST_PIXELS = 1024
_MOST_SAMPLES = 50_000


@dataclass(frozen=True)
class Quantity:
    """A field, an input, or the length of a vector of fields.

    Attributes:
        name: As in `--field`.
        label: With its unit: 'density (kg/m³)'.
        channels: Where its values are; with several, their Euclidean norm is shown.
        given: Whether it is an input, constant in time.
        signed: Whether zero is the middle of what it can be.
    """

    name: str
    label: str
    channels: tuple[int, ...]
    given: bool = False
    signed: bool = False

    @property
    def colours(self) -> str:
        return "cividis" if self.given else "viridis"


@dataclass(frozen=True, eq=False)
class Scene:
    """A trajectory with everything that is needed to draw and label it.

    Raises:
        UsageError: There is no such trajectory.
    """

    store: TrajectoryStore | PointStore
    card: DatasetCard
    trajectory: int

    def __post_init__(self) -> None:
        count = self.store.num_trajectories
        if not 0 <= self.trajectory < count:
            raise UsageError(
                f"{self.store.name}: no trajectory {self.trajectory}",
                hint=f"it has {count}: choose 0 to {count - 1}",
            )

    @property
    def static(self) -> bool:
        return self.store.num_frames == 1

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the space axes, with units."""
        return tuple(
            style.with_unit(axis.name, axis.unit) for axis in self.card.discretisation.axes
        )

    @property
    def title(self) -> str:
        """The card's title; on a second line what is shown. `$` encloses mathematics."""
        meta, index = self.store.metadata, self.trajectory
        code = int(self.store.splits[index])
        split = SPLITS[code] if code < len(SPLITS) else "excluded"
        facts = [style.plain(f"{self.store.name}: trajectory {index} ({split})")]
        symbols = {spec.name: (spec.symbol, spec.unit) for spec in self.card.parameters}
        for name, value in zip(meta.parameters, self.store.parameters[index], strict=True):
            symbol, unit = symbols.get(name, (name, "1"))
            if np.isfinite(value):
                text = f"{style.symbol(symbol)} = {style.number(float(value))}"
                facts.append(text if unit == "1" else f"{text} {style.plain(unit)}")
        return f"{style.plain(self.card.title)}\n" + "   ".join(facts)

    def time_text(self, frame: int) -> str:
        if self.static:
            return ""
        unit = "" if self.card.time.unit == "1" else f" {self.card.time.unit}"
        return f"t = {style.number(float(self.store.time[frame]))}{unit}"

    def values(self, quantity: Quantity, frame: int, place: Any = ...) -> Array:
        """Values of a quantity at one frame, float64; of a part of space with `place`.

        Shape:
            output: (*space), or (node,) on meshes and of particles
        """
        source = self._given() if quantity.given else self._frame(frame)
        parts = [np.asarray(source[..., c][place], np.float64) for c in quantity.channels]
        return parts[0] if len(parts) == 1 else np.sqrt(sum(part**2 for part in parts))

    def history(self, quantity: Quantity, frames: Sequence[int], place: Any = ...) -> Array:
        """Values at several frames, (frame, *space)."""
        return np.stack([self.values(quantity, frame, place) for frame in frames])

    @property
    def grid(self) -> tuple[Array, ...]:
        """Coordinates along every axis of a grid, (points,) each."""
        assert isinstance(self.store, TrajectoryStore)
        return self.store.coords

    def positions(self, frame: int) -> Array:
        """Of nodes or particles, (node, dim) float64."""
        store = self._points
        if not store.moves(self.trajectory):
            return np.asarray(store.coords(self.trajectory), np.float64)
        return np.asarray(store.coords(self.trajectory, slice(frame, frame + 1))[0], np.float64)

    def cells(self) -> Array | None:
        return self._points.cells(self.trajectory)

    @property
    def moves(self) -> bool:
        return self._points.moves(self.trajectory)

    @property
    def _points(self) -> PointStore:
        assert isinstance(self.store, PointStore)
        return self.store

    def _frame(self, frame: int) -> Array:
        if isinstance(self.store, TrajectoryStore):
            return self.store.fields[self.trajectory, frame]
        return self.store.fields(self.trajectory, slice(frame, frame + 1))[0]

    def _given(self) -> Array:
        if isinstance(self.store, TrajectoryStore):
            assert self.store.inputs is not None
            return self.store.inputs[self.trajectory]
        found = self.store.inputs(self.trajectory)
        assert found is not None
        return found


def quantities_of(scene: Scene, field: str | None = None) -> tuple[Quantity, ...]:
    """What to show: the named field, input or vector, or what suits the kind of data.

    By default the speed of particles, input and solution of a static problem, else all fields.

    Raises:
        UsageError: There is nothing of this name.
    """
    meta, card = scene.store.metadata, scene.card
    specs = {spec.name: spec for spec in (*card.fields, *card.inputs)}
    fields = [_quantity(n, i, specs.get(n), False) for i, n in enumerate(meta.fields)]
    inputs = [_quantity(n, i, specs.get(n), True) for i, n in enumerate(meta.inputs)]
    lengths = vectors_of(scene)
    if field is None:
        if isinstance(scene.store, PointStore) and scene.store.kind == "particles" and lengths:
            return (lengths[0],)
        return tuple(inputs + fields if scene.static else fields)
    known = {quantity.name: quantity for quantity in [*lengths, *inputs, *fields]}
    if lengths:
        known.setdefault("speed", lengths[0])
    if field not in known:
        raise UsageError(
            f"{scene.store.name}: no field '{field}'{did_you_mean(field, known)}",
            hint=f"it has {', '.join(sorted(known))}",
        )
    return (known[field],)


def vectors_of(scene: Scene) -> list[Quantity]:
    """Fields that are together a vector: velocity_x and velocity_y, as the length of `velocity`."""
    axes, specs = scene.store.metadata.axes, {spec.name: spec for spec in scene.card.fields}
    groups: dict[str, dict[str, int]] = {}
    for channel, name in enumerate(scene.store.metadata.fields):
        component = specs[name].component if name in specs else None
        if component and name.endswith(component) and len(axes) > 1:
            stem = name.removesuffix(component).rstrip("_")
            groups.setdefault(stem, {})[component] = channel
    found = []
    for stem, channels in groups.items():
        if stem and set(channels) == set(axes):
            order = tuple(channels[axis] for axis in axes)
            unit = specs[scene.store.metadata.fields[order[0]]].unit
            found.append(Quantity(stem, style.with_unit(f"|{stem}|", unit), order))
    return found


def _quantity(name: str, channel: int, spec: FieldSpec | None, given: bool) -> Quantity:
    unit = spec.unit if spec else "1"
    signed = spec is None or (spec.normalisation == "rms" and not spec.positive)
    return Quantity(name, style.with_unit(name, unit), (channel,), given, signed)


def pixels(coords: Array, most: int = _MOST_PIXELS) -> tuple[Array, tuple[float, float]]:
    """Which points of an axis to draw as equally wide pixels, and where these begin and end.

    At most `most`; points that are not equally spaced are repeated as far as they reach.
    """
    steps = np.diff(coords)
    if not len(steps):
        return np.zeros(1, np.int64), (float(coords[0]) - 0.5, float(coords[0]) + 0.5)
    edges = (float(coords[0] - steps[0] / 2), float(coords[-1] + steps[-1] / 2))
    even = np.allclose(steps, steps.mean(), rtol=0.01, atol=0)
    count = min(len(coords), most) if even else most
    centres = edges[0] + (np.arange(count) + 0.5) * (edges[1] - edges[0]) / count
    right = np.searchsorted((coords[1:] + coords[:-1]) / 2, centres)
    return right.astype(np.int64), edges


def thinned(values: Array) -> Array:
    """At most some ten thousand of the values, evenly spread, for the colour scale."""
    flat = values.ravel()
    return flat[:: max(1, -(-flat.size // _MOST_SAMPLES))]
