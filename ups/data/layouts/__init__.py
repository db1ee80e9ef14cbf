"""One reader for each raw layout; `open_raw` picks it by the card."""

from __future__ import annotations

from pathlib import Path

from ups.data.layouts.base import RawTrajectories
from ups.data.layouts.pdebench_tensor import PdebenchTensor
from ups.registry import DatasetCard

__all__ = ["RawTrajectories", "open_raw"]


def open_raw(path: Path, card: DatasetCard) -> RawTrajectories:
    """Open one raw file of `card`'s layout and check that it is what the card says.

    Raises:
        DataError: The file is missing, unreadable, truncated or laid out differently.
    """
    match card.source.layout:
        case "pdebench_tensor":
            return PdebenchTensor(path, card)
