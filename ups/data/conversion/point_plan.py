"""What is known of a mesh or particle conversion before its values are read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ups import files
from ups.data.conversion.identity import how_made, identify, without_duplicates
from ups.data.conversion.plan import Recipe, share_of, time_step, version_name
from ups.data.conversion.point_units import PointUnit
from ups.data.conversion.sources import find_raw
from ups.data.layouts import open_raw_points
from ups.data.layouts.base import RawPoints
from ups.data.points import FORMAT
from ups.data.splits import FileShare, assign_splits, judged_only
from ups.data.store import SourceFile, StoreMetadata
from ups.errors import DataError
from ups.registry import DatasetCard

Array = npt.NDArray[Any]
_UNIT_BYTES = 32 * 2**20
_MOST_IN_UNIT = 64


@dataclass(frozen=True, eq=False)
class PointPlan:
    """A conversion: what is known before values are read.

    Attributes:
        sources: Raw files.
        metadata: Complete but for what only the values tell.
        shares: What is taken from each file.
        parameters: (trajectory, parameter).
    """

    card: DatasetCard
    recipe: Recipe
    sources: tuple[Path, ...]
    metadata: StoreMetadata
    shares: tuple[FileShare, ...]
    times: Array
    parameters: Array
    units: tuple[PointUnit, ...]

    @property
    def identity(self) -> str:
        """Hash of all that decides the store's bytes."""
        kind = self.card.discretisation
        units = [[unit.source, unit.first, unit.end] for unit in self.units]
        metadata = self.metadata.without_making().to_json()
        return files.sha256_json(
            [FORMAT, metadata, self.recipe.exclude_invalid, units, kind.kind,
             kind.neighbour_radius, self.card.splits.model_dump(mode="json"),
             [[field.raw or field.name for field in (*self.card.fields, *self.card.inputs)]]]
        )  # fmt: skip

    @property
    def num_trajectories(self) -> int:
        return sum(share.size for share in self.shares)


def make_point_plan(
    card: DatasetCard, raw_paths: Sequence[Path], recipe: Recipe, version: str | None
) -> PointPlan:
    """Check that the files agree with each other and with the recipe, and divide the work."""
    found, duplicates = without_duplicates(find_raw(card, raw_paths))
    with ExitStack() as stack:
        sources = [stack.enter_context(closing(open_raw_points(path, card))) for path in found]
        _check_times(sources)
        card = judged_only(card) if recipe.test_only else card
        shares = tuple(share_of(source, recipe) for source in sources)
        assign_splits(card.splits, shares)  # says now, not at the end, that there are too few
        parts = list(zip(sources, shares, strict=True))
        times = sources[0].times[:: recipe.stride_t]
        axes = card.discretisation.axes
        metadata = StoreMetadata(
            dataset=card.key,
            version=version or version_name(card, sources, recipe),
            fields=card.field_names,
            parameters=card.parameter_names,
            axes=tuple(axis.name for axis in axes),
            bounds=tuple(axis.bounds for axis in axes),
            periodic=card.periodic,
            dt=time_step(card, times),
            stride_x=1,
            stride_t=recipe.stride_t,
            sources=tuple(_source(card, source, share) for source, share in parts),
            split_hash="",
            data_sha256="",
            inputs=card.input_names,
            boundaries=tuple(axis.boundaries for axis in axes),
            trajectories=recipe.places,
            test_only=recipe.test_only,
            duplicates=duplicates,
        )
        rows = [source.parameters[share.first : share.first + share.size]
                for source, share in parts]  # fmt: skip
        return PointPlan(
            card=card,
            recipe=recipe,
            sources=tuple(source.path.resolve() for source in sources),
            metadata=metadata,
            shares=shares,
            times=times,
            parameters=np.concatenate(rows),
            units=_units(sources, shares),
        )


def _check_times(sources: Sequence[RawPoints]) -> None:
    for source in sources[1:]:
        if not np.array_equal(source.times, sources[0].times):
            raise DataError(
                f"{source.path}: its times differ from those of {sources[0].path.name}",
                hint="convert them separately, each with --raw FILE",
            )


def _source(card: DatasetCard, source: RawPoints, share: FileShare) -> SourceFile:
    constant = {
        name: float(column[0])
        for name, column in zip(card.parameter_names, source.parameters.T, strict=True)
        if (column == column[0]).all()
    }
    size, fingerprint = identify(source.path)
    return SourceFile(
        source.path.name, size, fingerprint, share.size, constant, share.first,
        how_made(source.path),
    )  # fmt: skip


def _units(sources: Sequence[RawPoints], shares: Sequence[FileShare]) -> tuple[PointUnit, ...]:
    """Runs of trajectories, as many as hold about 32 MiB if all are as large as the first."""
    first = sources[0].read(shares[0].first)
    size = first.fields.nbytes + first.coords.nbytes
    step, units = min(_MOST_IN_UNIT, max(1, _UNIT_BYTES // size)), list[PointUnit]()
    for source, share in enumerate(shares):
        end = share.first + share.size
        for begin in range(share.first, end, step):
            units.append(PointUnit(len(units), source, begin, min(begin + step, end)))
    return tuple(units)
