"""Particles as circles, to scale where their radii are known; 3D seen from above one corner."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.quiver import Quiver

from ups.data.pictures.scene import Quantity, Scene, vectors_of
from ups.data.pictures.sheet import Update
from ups.data.pictures.style import GREY, Array, Scale
from ups.errors import UsageError

_AZIMUTH, _ELEVATION = math.radians(-58), math.radians(18)
_FOG = 0.6
_MOST_ARROWS = 400
_ARROW = 0.05


class ParticlePainter:
    """Circles in the box, coloured by a quantity; in 3D the far ones are paler.

    Args:
        arrows: Whether to draw velocities too; an RMS speed is a twentieth of the box long.

    Raises:
        UsageError: Arrows are wanted of particles whose velocity is not stored.
    """

    views = 1

    def __init__(self, scene: Scene, *, arrows: bool = False) -> None:
        self.scene = scene
        self.dims = len(scene.store.metadata.axes)
        self._low, self._high = np.asarray(scene.store.metadata.bounds, np.float64).T
        self._camera = _camera() if self.dims == 3 else np.eye(2)
        corners = np.asarray(list(itertools.product(*zip(self._low, self._high, strict=True))))
        self._corners = corners @ self._camera.T
        low, high = self._corners[:, :2].min(axis=0), self._corners[:, :2].max(axis=0)
        margin = 0.06 * (high - low) if self.dims == 3 else 0
        self._window = low - margin, high + margin
        across, up = self._window[1] - self._window[0]
        self.size = (float(across), float(up))
        self._velocity = _velocity(scene) if arrows else None
        self._diameters = _diameters(scene)

    def samples(self, quantity: Quantity, frame: int) -> Array:
        return self.scene.values(quantity, frame)

    def labels(self, view: int) -> tuple[str, str]:
        return (self.scene.axes[0], self.scene.axes[1]) if self.dims == 2 else ("", "")

    def heading(self, view: int) -> str:
        return ""

    def draw(self, axes: Axes, quantity: Quantity, frame: int, scale: Scale, view: int) -> Update:
        axes.set_aspect("equal")
        axes.set_xlim(self._window[0][0], self._window[1][0])
        axes.set_ylim(self._window[0][1], self._window[1][1])
        if self.dims == 3:
            self._draw_box(axes)
        circles, arrows = self._circles(axes), self._arrows(axes, frame)

        def update(frame: int) -> None:
            places = self.scene.positions(frame) @ self._camera.T
            order = self._order(places)
            circles.set_offsets(places[order, :2])
            circles.set_facecolor(list(self._shades(quantity, frame, scale, places)[order]))
            if self._diameters is not None:
                _resize(circles, self._diameters[order])
            if arrows is not None:
                self._turn(arrows, frame)

        update(frame)
        return update

    def _circles(self, axes: Axes) -> EllipseCollection:
        size = self._diameters
        units: Literal["xy", "points"] = "xy"
        if size is None:
            figure = axes.get_figure(root=True)
            assert figure is not None
            panel = axes.get_position().width * figure.get_figwidth() * 72
            count = max(len(self.scene.positions(0)), 1)
            points = np.clip(0.45 * panel / math.sqrt(count), 1.2, 7)
            size, units = np.full(1, points), "points"
        circles = EllipseCollection(
            size, size, np.zeros_like(size), units=units, offsets=np.zeros((1, 2)),
            offset_transform=axes.transData, edgecolors="0.15",
            linewidths=0.35 if self.dims == 3 else 0.2, zorder=2,
        )  # fmt: skip
        axes.add_collection(circles, autolim=False)
        return circles

    def _order(self, places: Array) -> Array:
        """Particles that are somewhere, the farthest first."""
        here = np.flatnonzero(np.isfinite(places).all(axis=1))
        if self.dims == 2:
            return here
        return here[np.argsort(places[here, 2], kind="stable")]

    def _shades(self, quantity: Quantity, frame: int, scale: Scale, places: Array) -> Array:
        values = np.ma.masked_invalid(self.scene.values(quantity, frame))
        shades = np.array(scale.map(scale.norm(values)))
        if self.dims == 3:
            near, far = self._corners[:, 2].max(), self._corners[:, 2].min()
            fog = _FOG * np.clip((near - places[:, 2]) / (near - far), 0, 1)
            fog = np.nan_to_num(fog)[:, None]
            shades[:, :3] = (1 - fog) * shades[:, :3] + fog
        return shades

    def _arrows(self, axes: Axes, frame: int) -> Quiver | None:
        if self._velocity is None:
            return None
        first = self.scene.positions(frame) @ self._camera.T
        chosen = self._sparse(len(first))
        speeds = self.scene.values(self._velocity, frame)
        finite = speeds[np.isfinite(speeds)]
        rms = float(np.sqrt((finite**2).mean())) if finite.any() else 1.0
        zero = np.zeros(len(chosen))
        return axes.quiver(
            *first[chosen, :2].T, zero, zero, angles="xy", scale_units="xy",
            scale=rms / (_ARROW * max(self.size)), width=0.0035, zorder=3,
        )  # fmt: skip

    def _turn(self, arrows: Quiver, frame: int) -> None:
        assert self._velocity is not None
        places = self.scene.positions(frame) @ self._camera.T
        chosen = self._sparse(len(places))
        parts = [self.scene.values(one, frame) for one in _components(self._velocity)]
        across, up = (np.stack(parts, axis=-1) @ self._camera.T)[chosen, :2].T
        arrows.set_offsets(places[chosen, :2])
        arrows.set_UVC(across, up)

    def _sparse(self, count: int) -> Array:
        return np.arange(0, count, max(1, -(-count // _MOST_ARROWS)))

    def _draw_box(self, axes: Axes) -> None:
        """Edges of the box; those that meet in the corner nearest to the eye are left out."""
        axes.set_axis_off()
        signs = list(itertools.product((0, 1), repeat=3))
        nearest = int(np.argmax(self._corners[:, 2]))
        pairs = [(i, j) for i, j in itertools.combinations(range(8), 2)
                 if sum(a != b for a, b in zip(signs[i], signs[j], strict=True)) == 1]  # fmt: skip
        back = [p for p in pairs if nearest not in p]
        lines = [self._corners[list(pair), :2] for pair in back]
        axes.add_collection(LineCollection(lines, colors=GREY, linewidths=0.6, zorder=1), False)
        front = [self._corners[list(pair), :2] for pair in pairs if nearest in pair]
        axes.add_collection(
            LineCollection(front, colors=GREY, linewidths=0.4, linestyles=":", zorder=4), False
        )
        self._name_axes(axes)

    def _name_axes(self, axes: Axes) -> None:
        """The name of each axis at the middle of an outer edge, its bounds at the ends."""
        (x0, y0, z0), (x1, y1, z1) = self._low, self._high
        edges = (
            ((x0, y0, z0), (x1, y0, z0), (-0.02, -0.045)),
            ((x1, y0, z0), (x1, y1, z0), (0.035, -0.03)),
            ((x0, y0, z0), (x0, y0, z1), (-0.05, 0)),
        )
        height = self.size[1]
        for name, (start, end, (right, up)) in zip(self.scene.axes, edges, strict=True):
            ends = np.asarray([start, end]) @ self._camera.T
            middle = ends.mean(axis=0)[:2] + np.array([right, up]) * height
            axes.text(
                middle[0], middle[1], name, ha="center", va="center", fontsize=9, clip_on=False
            )


def _camera() -> Array:
    """Rows: right, up, towards the eye; a parallel projection."""
    sa, ca, se, ce = (f(a) for a in (_AZIMUTH, _ELEVATION) for f in (math.sin, math.cos))
    return np.array([[-sa, ca, 0], [-se * ca, -se * sa, ce], [ce * ca, ce * sa, se]])


def _diameters(scene: Scene) -> Array | None:
    """Twice the input `radius`, (particle,); None without one."""
    if "radius" not in scene.store.metadata.inputs:
        return None
    channel = scene.store.metadata.inputs.index("radius")
    radii = scene.values(Quantity("radius", "radius", (channel,), given=True), 0)
    return 2 * np.where(np.isfinite(radii) & (radii > 0), radii, 0.0)


def _velocity(scene: Scene) -> Quantity:
    found = vectors_of(scene)
    if not found:
        raise UsageError(f"{scene.store.name}: --arrows: it holds no velocity in all directions")
    return found[0]


def _components(vector: Quantity) -> list[Quantity]:
    return [Quantity(vector.name, "", (channel,)) for channel in vector.channels]


def _resize(circles: Any, diameters: Array) -> None:
    circles.set_widths(diameters)
    circles.set_heights(diameters)
    circles.set_angles(np.zeros_like(diameters))
