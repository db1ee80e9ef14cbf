"""The anchor grid of a task as networks see it: the same number of axes for every task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ups.models.layout import TokenLayout


@dataclass(frozen=True)
class AnchorGrid:
    """Anchors along each axis.

    Axes of one token are there for tasks with fewer dimensions than others. A network takes what
    it sees as constant along them, so that one set of weights serves all.
    """

    anchors: tuple[int, ...]
    periodic: tuple[bool, ...]

    @property
    def label(self) -> str:
        """For names of buffers, for example '32p_1p': wraps ('p') or ends at walls ('w')."""
        axes = zip(self.anchors, self.periodic, strict=True)
        return "_".join(f"{size}{'p' if wraps else 'w'}" for size, wraps in axes)

    @property
    def singletons(self) -> tuple[int, ...]:
        """Axes of one token."""
        return tuple(axis for axis, size in enumerate(self.anchors) if size == 1)

    def coarser(self) -> AnchorGrid:
        """Half as many anchors along each axis, rounded up."""
        return AnchorGrid(tuple(-(-size // 2) for size in self.anchors), self.periodic)


def anchor_grids(layouts: Mapping[str, TokenLayout]) -> dict[str, AnchorGrid]:
    """The grid of each task, with trailing axes of one token up to the most axes of all."""
    most = max(len(layout.anchors) for layout in layouts.values())
    grids = {}
    for task, layout in layouts.items():
        missing = most - len(layout.anchors)
        # Whether an axis of one token wraps makes no difference to any network.
        wraps = [w or size == 1 for size, w in zip(layout.anchors, layout.periodic, strict=True)]
        grids[task] = AnchorGrid((*layout.anchors, *(1,) * missing), (*wraps, *(True,) * missing))
    return grids


def distinct(grids: Iterable[AnchorGrid]) -> list[AnchorGrid]:
    """The grids without repetitions, in order."""
    return list(dict.fromkeys(grids))


def extended(
    x: Float[Tensor, "batch *anchors width"], axis: int, reach: int, wraps: bool
) -> Float[Tensor, "batch *longer width"]:
    """Extend by `reach` tokens at both ends of an axis: around, or by the outermost one."""
    size = x.shape[axis]
    around = torch.arange(-reach, size + reach, device=x.device)
    return x.index_select(axis, around % size if wraps else around.clamp(0, size - 1))
