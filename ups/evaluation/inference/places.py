"""Where a forecast is asked for: on a grid, on a mesh, at any points."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from ups.codec.coded import Codec
from ups.codec.geometry import GridGeometry
from ups.codec.grid import GridCodec
from ups.errors import DataError, UsageError
from ups.evaluation.inference.arrays import Arrays, read_arrays

Array = npt.NDArray[Any]
_GRID = re.compile(r"grid:(\d+(?:x\d+)*)")


@dataclass(frozen=True, eq=False)
class Places:
    """Points in physical coordinates.

    Attributes:
        coords: (point, axis) float64; of a grid all its points, last axis fastest.
        axes: Coordinates along each axis of a grid; None for points in no order.
        cells: (cell, corner), of a mesh.
    """

    coords: Array
    axes: tuple[Array, ...] | None = None
    cells: Array | None = None

    @classmethod
    def on_grid(cls, axes: Sequence[Array]) -> Places:
        lines = tuple(np.asarray(axis, np.float64) for axis in axes)
        grid = np.meshgrid(*lines, indexing="ij")
        return cls(np.stack(grid, -1).reshape(-1, len(lines)), lines)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the space axes of a field there."""
        if self.axes is None:
            return (len(self.coords),)
        return tuple(len(axis) for axis in self.axes)

    @property
    def text(self) -> str:
        """`64 x 64 points`, `812 nodes`."""
        if self.axes is not None:
            return " x ".join(map(str, self.shape)) + " points"
        return f"{len(self.coords)} {'points' if self.cells is None else 'nodes'}"

    def geometry(self, own: GridGeometry) -> GridGeometry | None:
        """The evenly spaced grid that these places are; None where they are not one."""
        return None if self.axes is None else even_grid(self.axes, own)


def even_grid(axes: Sequence[Array], own: GridGeometry) -> GridGeometry | None:
    """The grid with these coordinates along its axes; None where they are not evenly spaced."""
    steps = []
    for axis in axes:
        if len(axis) < 2:
            return None
        step = (axis[-1] - axis[0]) / (len(axis) - 1)
        if step <= 0 or np.abs(np.diff(axis) - step).max() > 1e-3 * step:
            return None
        steps.append(float(step))
    origin = tuple(float(axis[0]) for axis in axes)
    space = tuple(len(axis) for axis in axes)
    return replace(own, space=space, origin=origin, spacing=tuple(steps))


def box_of(codec: Codec) -> tuple[tuple[float, float], ...]:
    """Lower and upper end of the domain along each axis."""
    geometry = codec.geometry
    if not isinstance(geometry, GridGeometry):
        return geometry.bounds
    parts = zip(geometry.origin, geometry.spacing, geometry.space, strict=True)
    return tuple((start - h / 2, start - h / 2 + n * h) for start, h, n in parts)


def chosen_places(text: str, codec: Codec, names: Sequence[str]) -> Places:
    """What `--points` says: `grid:64x64`, cell centres of the domain's box, or a file of points.

    A file holds `coords` (point, axis), and `cells` of a mesh; or one array for each axis of a
    grid, by its name.

    Args:
        names: Of the space axes.
    Raises:
        UsageError: Not of that form, or with another number of axes.
        DataError: The file does not hold points of the domain.
    """
    box = box_of(codec)
    if text.startswith("grid:"):
        match = _GRID.fullmatch(text)
        counts = [int(part) for part in match[1].split("x")] if match else []
        if len(counts) != len(box) or 0 in counts:
            example = "x".join(["64"] * len(box))
            raise UsageError(f"--points {text}: expected grid:{example}, one number for each axis")
        lines = [low + (np.arange(n) + 0.5) * (high - low) / n
                 for n, (low, high) in zip(counts, box, strict=True)]  # fmt: skip
        return Places.on_grid(lines)
    places = _places_of(read_arrays(Path(text)), names)
    check_inside(places, codec, text, names)
    return places


def _places_of(found: Arrays, names: Sequence[str]) -> Places:
    dims = len(names)
    coords = next(iter(found.values.values())) if found.is_bare else found.find("coords")
    if coords is None:
        axes = axes_of(found, names)
        if axes is None:
            raise DataError(
                f"{found.path}: no points: expected 'coords' (point, {dims}), or the axes of a "
                f"grid: {', '.join(names)}"
            )
        return Places.on_grid(axes)
    coords = np.asarray(coords, np.float64)
    coords = coords[:, None] if coords.ndim == 1 and dims == 1 else coords
    if coords.ndim != 2 or coords.shape[1] != dims or not len(coords):
        raise DataError(f"{found.path}: coords: shape {coords.shape}, expected (point, {dims})")
    if dims == 1 and (np.diff(coords[:, 0]) > 0).all():
        return Places.on_grid([coords[:, 0]])
    return Places(coords, cells=found.find("cells"))


def axes_of(found: Arrays, names: Sequence[str]) -> list[Array] | None:
    """Coordinates along every axis of a grid; None where the file has none.

    Raises:
        DataError: Some are missing, are no lists, or do not rise.
    """
    axes = [found.find(name, "coords") for name in names]
    if all(axis is None for axis in axes):
        return None
    lines = []
    for name, axis in zip(names, axes, strict=True):
        if axis is None:
            raise DataError(f"{found.path}: no coordinates '{name}'; expected {', '.join(names)}")
        if axis.ndim != 1 or not (np.diff(axis) > 0).all():
            raise DataError(f"{found.path}: coordinates '{name}': expected a list that rises")
        lines.append(np.asarray(axis, np.float64))
    return lines


def check_inside(places: Places, codec: Codec, where: str, names: Sequence[str]) -> None:
    """Raise DataError for points that are nowhere, or beyond an end of an axis that has ends."""
    if not np.isfinite(places.coords).all():
        raise DataError(f"{where}: a point is nowhere: coordinates must be finite")
    for axis, (low, high) in enumerate(box_of(codec)):
        if codec.geometry.periodic[axis]:
            continue
        room = 1e-3 * (high - low)
        least, most = places.coords[:, axis].min(), places.coords[:, axis].max()
        if least < low - room or most > high + room:
            raise DataError(
                f"{where}: points from {names[axis]} = {least:g} to {most:g}, the domain reaches "
                f"from {low:g} to {high:g}"
            )


@torch.no_grad()
def fields_at(
    codec: Codec, tokens: Float[Tensor, "frame tokens dim"], places: Places
) -> Float[Tensor, "frame *space channel"]:
    """Physical fields of every frame."""
    coords = torch.from_numpy(places.coords).to(tokens.device)
    if not isinstance(codec, GridCodec):
        return codec.decode_frames(tokens, coords.float()).unflatten(1, places.shape)
    geometry = places.geometry(codec.geometry)
    if geometry is not None and codec.geometry.is_same_grid(geometry):
        return codec.decode(tokens)
    return codec.decode(tokens, coords).unflatten(1, places.shape)
