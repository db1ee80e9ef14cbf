"""One reader for each raw layout; `open_raw` and `open_raw_points` pick it by the card."""

from __future__ import annotations

from pathlib import Path

from ups.data.layouts.base import PointTrajectory, RawPoints, RawTrajectories
from ups.data.layouts.pdebench_darcy import PdebenchDarcy
from ups.data.layouts.pdebench_fields import PdebenchFields
from ups.data.layouts.pdebench_groups import PdebenchGroups
from ups.data.layouts.pdebench_ns_incompressible import PdebenchNsIncompressible
from ups.data.layouts.pdebench_tensor import PdebenchTensor
from ups.errors import UsageError
from ups.registry import DatasetCard

__all__ = ["PointTrajectory", "RawPoints", "RawTrajectories", "open_raw", "open_raw_points"]


def open_raw(path: Path, card: DatasetCard) -> RawTrajectories:
    """Open one raw file of a grid dataset and check that it is what the card says.

    Raises:
        DataError: The file is missing, unreadable, truncated or laid out differently.
        UsageError: The card's layout is one of meshes and particles.
    """
    match card.source.layout:
        case "pdebench_tensor":
            return PdebenchTensor(path, card)
        case "pdebench_fields":
            return PdebenchFields(path, card)
        case "pdebench_groups":
            return PdebenchGroups(path, card)
        case "pdebench_darcy":
            return PdebenchDarcy(path, card)
        case "pdebench_ns_incompressible":
            return PdebenchNsIncompressible(path, card)
        case "the_well":
            from ups.data.layouts.the_well import TheWell

            return TheWell(path, card)
        case "xarray":  # xarray is slow to import and wanted by few
            from ups.data.layouts.xarray_grid import XarrayGrid

            return XarrayGrid(path, card)
        case "points":
            raise UsageError(f"{card.key}: holds meshes or particles, not values on a grid")


def open_raw_points(path: Path, card: DatasetCard) -> RawPoints:
    """Open one raw file of a mesh or particle dataset and check that it is what the card says.

    Raises:
        DataError: The file is missing, unreadable, truncated or laid out differently.
        UsageError: The card's layout is one of grids.
    """
    if card.source.layout != "points":
        raise UsageError(f"{card.key}: holds values on a grid, not meshes or particles")
    from ups.data.layouts.points import PointsHdf5

    return PointsHdf5(path, card)
