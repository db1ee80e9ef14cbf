"""The box that meshes and particles are in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ups.data.points import PointStore
from ups.errors import ConfigError


@dataclass(frozen=True)
class PointGeometry:
    """The box that nodes are in, and what is known at them.

    Attributes:
        bounds: Lower and upper end along each axis.
        periodic: Whether each axis wraps.
        fields: Names of the channels.
        inputs: Names of the fields that are given with a problem.
        transforms: 'none' or 'log' for each field; empty is 'none' for all.
        num_tags: Kinds of boundary that tags tell apart; tag 0 is inside.
    """

    bounds: tuple[tuple[float, float], ...]
    periodic: tuple[bool, ...]
    fields: tuple[str, ...]
    inputs: tuple[str, ...]
    kind: Literal["mesh", "particles"]
    transforms: tuple[str, ...] = ()
    num_tags: int = 0

    def __post_init__(self) -> None:
        unknown = set(self.transforms) - {"none", "log"}
        if unknown or len(self.transforms) not in (0, len(self.fields)):
            raise ValueError(f"transforms {self.transforms} for the fields {self.fields}")
        if len(self.bounds) != len(self.periodic):
            raise ValueError(f"{len(self.bounds)} bounds and {len(self.periodic)} periodic axes")

    @property
    def num_dims(self) -> int:
        return len(self.bounds)

    @property
    def is_log(self) -> tuple[bool, ...]:
        """For each field, whether the codec works with its logarithm."""
        return tuple(name == "log" for name in self.transforms) or (False,) * len(self.fields)


def point_geometry(store: PointStore, transforms: Sequence[str] = ()) -> PointGeometry:
    """The geometry of a store; `transforms` are those of the card's fields."""
    metadata = store.metadata
    tags = [store.tags(row) for row in range(store.num_trajectories)]
    largest = max((int(each.max()) for each in tags if each is not None and len(each)), default=0)
    return PointGeometry(
        bounds=tuple((float(low), float(high)) for low, high in metadata.bounds),
        periodic=tuple(bool(wraps) for wraps in metadata.periodic),
        fields=tuple(metadata.fields),
        inputs=tuple(metadata.inputs),
        kind=store.kind,
        transforms=tuple(transforms),
        num_tags=largest,
    )


def check_anchors(anchors: Sequence[int], geometry: PointGeometry) -> None:
    """Raise ConfigError unless there is a number of anchors for each axis."""
    dims = geometry.num_dims
    if len(anchors) != dims:
        suggested = ",".join([{1: "32", 2: "16"}.get(dims, "8")] * dims)
        raise ConfigError(
            f"codec.anchors: {list(anchors)} for data in {dims} dimensions",
            hint=f"--set 'codec.anchors=[{suggested}]'",
        )
