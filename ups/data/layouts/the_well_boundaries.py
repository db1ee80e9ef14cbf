"""What a file of The Well's layout says about its boundaries, against what the card says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ups.data.layouts.base import Array
from ups.errors import DataError
from ups.registry import DatasetCard

# The Well tells three kinds apart; the card's boundary must be one that the kind may stand for.
_MAY_BE = {
    "periodic": ("periodic",),
    "wall": ("wall", "dirichlet", "neumann", "robin"),
    "open": ("outflow", "neumann"),
}


def check_boundaries(file: h5py.File, axes: tuple[str, ...], card: DatasetCard, path: Path) -> None:
    """Compare every boundary that lies at an end of an axis with the card's.

    A mask that touches neither end (an obstacle) is about the inside and is left alone, unless
    it is empty: then nobody has filled it in, and the type is about the axis.

    Raises:
        DataError: A type that is none of The Well's, or one that the card contradicts.
    """
    group = file.get("boundary_conditions")
    if not isinstance(group, h5py.Group):
        return
    stated = {
        name: axis.boundary for name, axis in zip(axes, card.discretisation.axes, strict=True)
    }
    for name in group:
        kind = _kind(group[name], f"{path}: boundary_conditions/{name}")
        for axis in _axes_of(group[name], axes, kind):
            if stated[axis] not in _MAY_BE[kind]:
                raise DataError(
                    f"{path}: boundary_conditions/{name}: '{kind}' along {axis}, where the card "
                    f"says '{stated[axis]}'",
                    hint=f"'{kind}' may be {', '.join(_MAY_BE[kind])} in the card",
                )


def _kind(condition: Any, where: str) -> str:
    found = "".join(words(condition.attrs.get("bc_type", ()))).lower()
    if found not in _MAY_BE:
        raise DataError(f"{where}: bc_type '{found[:40]}' is not one of {sorted(_MAY_BE)}")
    return found


def _axes_of(condition: Any, axes: tuple[str, ...], kind: str) -> list[str]:
    """The axes at whose ends the condition holds."""
    named = words(condition.attrs.get("associated_dims", ()))
    mask = condition.get("mask") if isinstance(condition, h5py.Group) else None
    if kind == "periodic" or not isinstance(mask, h5py.Dataset) or mask.ndim < len(named):
        return [axis for axis in named if axis in axes]
    stored = np.asarray(mask[()], dtype=bool)
    held: Any = stored.reshape(-1, *stored.shape[stored.ndim - len(named) :]).any(axis=0)
    return [
        axis
        for place, axis in enumerate(named)
        if axis in axes and (not held.any() or _at_an_end(held, place, kind))
    ]


def _at_an_end(held: Array, axis: int, kind: str) -> bool:
    """A wall fills the whole face; the other kinds may share it."""
    faces = held.take([0, -1], axis=axis).swapaxes(0, axis).reshape(2, -1)
    whole = faces.all(axis=1) if kind == "wall" else faces.any(axis=1)
    return bool(whole.any())


def words(value: Any) -> tuple[str, ...]:
    """The strings of an attribute: one, or an array of them."""
    items = np.atleast_1d(np.asarray(value)).tolist()
    return tuple(i.decode(errors="replace") if isinstance(i, bytes) else str(i) for i in items)


def flag(dataset: h5py.Dataset, name: str, default: bool) -> bool:
    """A yes-or-no attribute."""
    value = np.asarray(dataset.attrs.get(name, default))
    return bool(value.reshape(-1)[0]) if value.size == 1 else default
