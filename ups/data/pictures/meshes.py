"""Fields on triangulations in 2D: colours interpolated between nodes, cells as thin lines."""

from __future__ import annotations

from typing import cast

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import TriMesh
from matplotlib.tri import Triangulation

from ups.data.pictures.scene import Quantity, Scene
from ups.data.pictures.sheet import Update
from ups.data.pictures.style import Array, Scale
from ups.errors import DataError

_MOST_CELLS_WITH_LINES = 3000
_INK = 0.04


class MeshPainter:
    """Colours a mesh of triangles or quadrilaterals; what no cell covers stays white.

    Raises:
        DataError: Cells have other shapes, name nodes that are not there, or a node is nowhere.
    """

    views = 1

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._triangles, self._sides = _triangles(scene)
        corners = scene.positions(0)
        if not np.isfinite(corners).all():
            raise DataError(f"{scene.store.path}: trajectory {scene.trajectory}: a node is nowhere")
        low, high = corners.min(axis=0), corners.max(axis=0)
        margin = 0.01 * float((high - low).max()) or 0.5
        self._low, self._high = low - margin, high + margin
        across, up = self._high - self._low
        self.size = (float(across), float(up))

    def samples(self, quantity: Quantity, frame: int) -> Array:
        return self.scene.values(quantity, frame)

    def labels(self, view: int) -> tuple[str, str]:
        return self.scene.axes[0], self.scene.axes[1]

    def heading(self, view: int) -> str:
        return ""

    def draw(self, axes: Axes, quantity: Quantity, frame: int, scale: Scale, view: int) -> Update:
        axes.set_aspect("equal")
        axes.set_xlim(self._low[0], self._high[0])
        axes.set_ylim(self._low[1], self._high[1])
        drawn = self._paint(axes, quantity, frame, scale)

        def update(frame: int) -> None:
            nonlocal drawn
            if self.scene.moves:
                for artist in drawn:
                    artist.remove()
                drawn = self._paint(axes, quantity, frame, scale)
            else:
                cast(TriMesh, drawn[0]).set_array(self._values(quantity, frame))

        return update

    def _paint(self, axes: Axes, quantity: Quantity, frame: int, scale: Scale) -> list[Artist]:
        x, y = self.scene.positions(frame).T
        mesh = Triangulation(x, y, self._triangles)
        values = self._values(quantity, frame)
        drawn: list[Artist] = [
            axes.tripcolor(
                mesh, values, shading="gouraud", cmap=scale.map, norm=scale.norm, rasterized=True
            )
        ]
        if len(self._triangles) < _MOST_CELLS_WITH_LINES:
            ends = self._sides.T
            lines = np.full((2, 3 * ends.shape[1]), np.nan)
            lines[:, 0::3], lines[:, 1::3] = np.stack([x, y])[:, ends].swapaxes(0, 1)
            drawn += axes.plot(*lines, color="black", alpha=0.3, scalex=False, scaley=False,
                               linewidth=self._line_width(axes, x, y))  # fmt: skip
        return drawn

    def _line_width(self, axes: Axes, x: Array, y: Array) -> float:
        """A small part of the typical side: fine meshes are not drowned in ink."""
        lengths = np.hypot(*(points[self._sides[:, 0]] - points[self._sides[:, 1]]
                             for points in (x, y)))  # fmt: skip
        figure = axes.get_figure(root=True)
        assert figure is not None
        panel = axes.get_position().width * figure.get_figwidth() * 72
        return float(np.clip(_INK * np.median(lengths) / self.size[0] * panel, 0.04, 0.4))

    def _values(self, quantity: Quantity, frame: int) -> Array:
        values = self.scene.values(quantity, frame)
        return np.ma.masked_invalid(values)


def _triangles(scene: Scene) -> tuple[Array, Array]:
    """Corners of triangles, (triangle, 3), and the sides of the cells, (side, 2)."""
    cells = scene.cells()
    nodes = len(scene.positions(0))
    where = f"{scene.store.path}: trajectory {scene.trajectory}"
    if cells is None or cells.ndim != 2 or cells.shape[1] not in (3, 4) or not len(cells):
        shape = None if cells is None else cells.shape
        raise DataError(f"{where}: cells of shape {shape}; drawn are triangles and quadrilaterals")
    if cells.min() < 0 or cells.max() >= nodes:
        raise DataError(f"{where}: cells name nodes beyond the {nodes} that there are")
    corners = cells.shape[1]
    sides = np.concatenate([cells[:, [i, (i + 1) % corners]] for i in range(corners)])
    sides = np.unique(np.sort(sides, axis=1), axis=0)
    return triangles_of(cells), sides


def triangles_of(cells: Array) -> Array:
    """Triangles as they are, quadrilaterals cut into two: (triangle, 3)."""
    halves = [cells[:, :3]] if cells.shape[1] == 3 else [cells[:, :3], cells[:, [0, 2, 3]]]
    return np.concatenate(halves)
