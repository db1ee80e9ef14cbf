"""Fields on grids in 3D: three slices through the middle, at right angles to one another."""

from __future__ import annotations

from ups.data.pictures.frames import GridPainter, Plane
from ups.data.pictures.scene import Scene


def slice_painter(scene: Scene) -> GridPainter:
    """The planes x-y, x-z and y-z, each at the middle of the axis that it leaves out."""
    middle = [len(coords) // 2 for coords in scene.grid]
    planes = [
        Plane((across, up), ((normal, middle[normal]),))
        for across, up, normal in ((0, 1, 2), (0, 2, 1), (1, 2, 0))
    ]
    return GridPainter(scene, tuple(planes))
