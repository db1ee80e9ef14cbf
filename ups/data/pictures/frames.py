"""Fields on grids in 2D, as images: the first axis across, the second upwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from ups.data.pictures.scene import Quantity, Scene, pixels
from ups.data.pictures.sheet import Update
from ups.data.pictures.style import Array, Scale


@dataclass(frozen=True)
class Plane:
    """Two axes of a grid and the place on all others.

    Attributes:
        axes: Numbers of the axes across and upwards.
        at: Index on every other axis, by its number.
    """

    axes: tuple[int, int]
    at: tuple[tuple[int, int], ...] = ()


class GridPainter:
    """Images of planes through a grid.

    Args:
        planes: One for each view; without any the whole of a 2D grid, longitude across where the
            axes are those of the globe.
    """

    def __init__(self, scene: Scene, planes: tuple[Plane, ...] = ()) -> None:
        self.scene = scene
        flipped = scene.store.metadata.axes[0].startswith("lat")
        self.planes = planes or (Plane((1, 0) if flipped else (0, 1)),)
        self.views = len(self.planes)
        shown = [pixels(coords) for coords in self.scene.grid]
        self._chosen = [indices for indices, _ in shown]
        self._edges = [edges for _, edges in shown]
        units = [axis.unit for axis in scene.card.discretisation.axes]
        self._aspect: Literal["equal", "auto"] = "equal" if len(set(units)) == 1 else "auto"
        sizes = [[high - low for low, high in map(self._edges.__getitem__, plane.axes)]
                 for plane in self.planes]  # fmt: skip
        across, up = np.max(sizes, axis=0)
        self.size = (float(across), float(up)) if self._aspect == "equal" else (1.3, 1.0)

    def samples(self, quantity: Quantity, frame: int) -> Array:
        parts = [self._image(quantity, frame, plane).ravel() for plane in self.planes]
        return np.concatenate(parts)

    def labels(self, view: int) -> tuple[str, str]:
        across, up = self.planes[view].axes
        return self.scene.axes[across], self.scene.axes[up]

    def heading(self, view: int) -> str:
        axes, coords = self.scene.store.metadata.axes, self.scene.grid
        return ", ".join(f"{axes[i]} = {coords[i][k]:.3g}" for i, k in self.planes[view].at)

    def draw(self, axes: Axes, quantity: Quantity, frame: int, scale: Scale, view: int) -> Update:
        plane = self.planes[view]
        across, up = (self._edges[axis] for axis in plane.axes)
        image = axes.imshow(
            self._image(quantity, frame, plane), origin="lower", extent=(*across, *up),
            aspect=self._aspect, cmap=scale.map, norm=scale.norm,
        )  # fmt: skip

        def update(frame: int) -> None:
            image.set_data(self._image(quantity, frame, plane))

        return update

    def _image(self, quantity: Quantity, frame: int, plane: Plane) -> Array:
        """(up, across); only the pixels are read."""
        at = dict(plane.at)
        grid = np.ix_(*(self._chosen[axis] for axis in sorted(plane.axes)))
        cut = tuple(at.get(axis, slice(None)) for axis in range(len(self._chosen)))
        values = self.scene.values(quantity, frame, cut)[grid]
        values = values.T if plane.axes[0] < plane.axes[1] else values
        return np.where(np.isfinite(values), values, np.nan)
