"""Everything about a converted version that is known before its values are read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ups import files
from ups.data.conversion.identity import how_made, identify
from ups.data.layouts.base import PlainTrajectories, RawPoints, RawTrajectories
from ups.data.splits import FileShare, assign_splits, groups_of, judged_only, split_hash
from ups.data.store import SourceFile, StoreMetadata
from ups.errors import DataError, UsageError
from ups.registry import DatasetCard

Array = npt.NDArray[Any]
_UNIT_BYTES = 64 * 2**20
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Recipe:
    """How a version is made from its raw files.

    Attributes:
        limit: Trajectories taken from the start of each file; None takes all.
        stride_x, stride_t: Every which grid point (along each axis) and frame to keep.
        exclude_invalid: Put trajectories with NaN or infinity into no split instead of stopping.
        trajectories: Places taken from each file, first and end; not together with `limit`.
        test_only: Everything is judged and nothing trained on; statistics are over all.
    """

    limit: int | None = None
    stride_x: int = 1
    stride_t: int = 1
    exclude_invalid: bool = False
    trajectories: tuple[int, int] | None = None
    test_only: bool = False

    def __post_init__(self) -> None:
        for name in ("limit", "stride_x", "stride_t"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')}: must be at least 1, found {value}")
        if self.trajectories and self.limit:
            raise UsageError("--limit and --trajectories exclude each other")
        if self.trajectories and not 0 <= self.trajectories[0] < self.trajectories[1]:
            first, end = self.trajectories
            raise UsageError(f"--trajectories {first}:{end}: expected FIRST:END with FIRST < END")

    @property
    def places(self) -> tuple[int, int] | None:
        """First and end of the places taken from each file; None takes all."""
        return (0, self.limit) if self.limit else self.trajectories


@dataclass(frozen=True)
class Unit:
    """Work that is done, recorded and repeated as a whole: neighbouring places of one file.

    Attributes:
        row: Of its first trajectory in the store.
    """

    index: int
    source: int
    first: int
    end: int
    row: int

    def __len__(self) -> int:
        return self.end - self.first


@dataclass(frozen=True, eq=False)
class Plan:
    """A conversion: where values come from, where they go, and what is known around them.

    Attributes:
        metadata: Complete but for what only the values tell.
        shape, input_shape: Of the store's arrays; the latter None where there are no inputs.
        plain: Where in each raw file its values begin, if all hold them as the store does.
        identity: Hash of all that decides the store's bytes.
    """

    card: DatasetCard
    recipe: Recipe
    paths: tuple[Path, ...]
    metadata: StoreMetadata
    times: Array
    coords: tuple[Array, ...]
    parameters: Array
    shares: tuple[FileShare, ...]
    shape: tuple[int, ...]
    input_shape: tuple[int, ...] | None
    units: tuple[Unit, ...]
    plain: tuple[int, ...] | None = None

    @property
    def identity(self) -> str:
        meta = self.metadata.without_making().to_json()
        return files.sha256_json([meta, self.recipe.exclude_invalid, len(self.units)])[:16]

    @property
    def trajectory_bytes(self) -> int:
        return 4 * math.prod(self.shape[1:])

    @property
    def input_bytes(self) -> int:
        return 4 * math.prod(self.input_shape[1:]) if self.input_shape else 0

    def share(self, index: int, count: int) -> tuple[Unit, ...]:
        """The units of shard `index` of `count`, neighbours all."""
        bounds = [len(self.units) * i // count for i in range(count + 1)]
        return self.units[bounds[index - 1] : bounds[index]]


def check_version_name(version: str | None) -> None:
    """A version becomes a file name, and 'latest' means another thing."""
    if version is not None and (version == "latest" or not _VERSION.fullmatch(version)):
        raise UsageError(
            f"--version {version}: expected letters, digits and '._-', and not 'latest'"
        )


def make_plan(
    card: DatasetCard,
    sources: Sequence[RawTrajectories],
    recipe: Recipe,
    *,
    version: str | None = None,
    duplicates: tuple[str, ...] = (),
) -> Plan:
    """Check that the files agree with each other and with the recipe, and lay the version out."""
    _check_agreement(card, sources)
    card = judged_only(card) if recipe.test_only else card
    shares = [share_of(source, recipe) for source in sources]
    by_content = card.splits.kept_apart_by == "content"  # divided once the values are known
    splits, groups = assign_splits(card.splits, shares), groups_of(card.splits, shares)
    times = sources[0].times[:: recipe.stride_t]
    coords = tuple(coord[:: recipe.stride_x] for coord in sources[0].coords)
    rows = [s.parameters[part.first : part.first + part.size]
            for s, part in zip(sources, shares, strict=True)]  # fmt: skip
    space = tuple(len(coord) for coord in coords)
    count = sum(part.size for part in shares)
    shape = (count, len(times), *space, len(card.fields))
    boundaries = _boundaries(card, sources)
    metadata = StoreMetadata(
        dataset=card.key,
        version=version or version_name(card, sources, recipe),
        fields=card.field_names,
        parameters=card.parameter_names,
        axes=tuple(axis.name for axis in card.discretisation.axes),
        bounds=tuple(_bounds(card, coord) for coord in sources[0].coords),
        periodic=tuple(boundary == "periodic" for boundary in boundaries),
        dt=time_step(card, times),
        stride_x=recipe.stride_x,
        stride_t=recipe.stride_t,
        sources=tuple(_source(card, s, p) for s, p in zip(sources, shares, strict=True)),
        split_hash="" if by_content else split_hash(splits, groups),
        data_sha256="",
        inputs=card.input_names,
        boundaries=boundaries,
        trajectories=recipe.places,
        test_only=recipe.test_only,
        duplicates=duplicates,
    )
    return Plan(
        card=card,
        recipe=recipe,
        paths=tuple(source.path.resolve() for source in sources),
        metadata=metadata,
        times=times,
        coords=coords,
        parameters=np.concatenate(rows),
        shares=tuple(shares),
        shape=shape,
        input_shape=(count, *space, len(card.inputs)) if card.inputs else None,
        units=_units(shares, 4 * math.prod(shape[1:])),
        plain=_plain(sources, recipe),
    )


def _plain(sources: Sequence[RawTrajectories], recipe: Recipe) -> tuple[int, ...] | None:
    if recipe.stride_x > 1 or recipe.stride_t > 1:
        return None
    found = [s.plain_offset() if isinstance(s, PlainTrajectories) else None for s in sources]
    offsets = tuple(offset for offset in found if offset is not None)
    return offsets if len(offsets) == len(sources) else None


def _units(shares: Sequence[FileShare], trajectory_bytes: int) -> tuple[Unit, ...]:
    step, row = max(1, _UNIT_BYTES // trajectory_bytes), 0
    units: list[Unit] = []
    for source, part in enumerate(shares):
        end = part.first + part.size
        for first in range(part.first, end, step):
            unit = Unit(len(units), source, first, min(first + step, end), row)
            units.append(unit)
            row += len(unit)
    return tuple(units)


def share_of(source: RawTrajectories | RawPoints, recipe: Recipe) -> FileShare:
    """The places of a raw file that the recipe takes."""
    first, end = recipe.places or (0, source.num_trajectories)
    size = min(end, source.num_trajectories) - first
    if size < 1:
        raise DataError(
            f"{source.path}: holds {source.num_trajectories} trajectories, none from {first} on",
            hint="choose others with --trajectories FIRST:END",
        )
    return FileShare(size, first, source.path.parent.name)


def time_step(card: DatasetCard, times: Array) -> float | None:
    """The constant time step, freed of float32 rounding; None for a static problem."""
    if len(times) < 2:
        return None
    steps = np.diff(times)
    if not np.allclose(steps, steps[0], rtol=1e-3):
        raise DataError(f"{card.key}: time steps vary from {steps.min():g} to {steps.max():g}")
    return float(f"{steps.mean():.6g}")


def version_name(
    card: DatasetCard, sources: Sequence[Any], recipe: Recipe, *, strides: bool = True
) -> str:
    """A name that says what is in a version: labels, parameters, strides, selection.

    Args:
        sources: Anything with `path` and `parameters` (trajectory, parameter).
    """
    published = [card.source.file(source.path.name) for source in sources]
    labels = {tuple(file.variant.items()) if file else () for file in published}
    alike = labels.pop() if len(labels) == 1 else ()
    parts = [value for item in alike if item != ("set", "train") for value in item[1:]]
    for index, parameter in enumerate(card.parameters):
        values = np.unique(np.concatenate([np.unique(s.parameters[:, index]) for s in sources]))
        if parameter.name in _drawn(card, sources):
            continue
        named = "_".join(f"{value:g}" for value in values)
        parts.append(f"{parameter.name}{named if len(values) <= 3 else f'_{len(values)}values'}")
    parts += [f"x{recipe.stride_x}"] if strides and recipe.stride_x > 1 else []
    parts += [f"t{recipe.stride_t}"] if recipe.stride_t > 1 else []
    parts += [f"n{recipe.limit}"] if recipe.limit else []
    parts += ["from{}to{}".format(*recipe.trajectories)] if recipe.trajectories else []
    parts += ["test"] if recipe.test_only else []
    return re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(parts)) or "full"


def _drawn(card: DatasetCard, sources: Sequence[Any]) -> set[str]:
    """Parameters that differ from trajectory to trajectory inside a file."""
    return {
        name
        for index, name in enumerate(card.parameter_names)
        if any(len(np.unique(source.parameters[:, index])) > 1 for source in sources)
    } | set(card.generator.drawn if card.generator else ())


def _source(card: DatasetCard, source: RawTrajectories, share: FileShare) -> SourceFile:
    drawn = _drawn(card, [source])
    constant = {
        name: float(source.parameters[0, index])
        for index, name in enumerate(card.parameter_names)
        if name not in drawn
    }
    size, fingerprint = identify(source.path)
    return SourceFile(
        source.path.name, size, fingerprint, share.size, constant, share.first,
        how_made(source.path),
    )  # fmt: skip


def _bounds(card: DatasetCard, coord: Array) -> tuple[float, float]:
    """The domain: half a cell beyond the first and last of cell-centred points."""
    cells = card.discretisation.centring == "cell" and len(coord) > 1
    half = (coord[-1] - coord[0]) / (len(coord) - 1) / 2 if cells else 0.0
    return (round(float(coord[0] - half), 6), round(float(coord[-1] + half), 6))


def _boundaries(card: DatasetCard, sources: Sequence[RawTrajectories]) -> tuple[str, ...]:
    """Of each axis; the card's file list may say otherwise than its axes."""
    found = set()
    for source in sources:
        file = card.source.file(source.path.name)
        own = file.boundary if file else None
        found.add(tuple(own or axis.boundaries for axis in card.discretisation.axes))
    if len(found) > 1:
        raise DataError(
            f"{card.key}: files of different boundary conditions: "
            f"{' and '.join(sorted('/'.join(each) for each in found))}",
            hint="convert them separately, each with --raw FILE",
        )
    return found.pop()


def _check_agreement(card: DatasetCard, sources: Sequence[RawTrajectories]) -> None:
    first = sources[0]
    for source in sources:
        if source.num_trajectories < 1:
            raise DataError(f"{source.path}: holds no trajectory")
        if len(source.coords) != card.num_dims:
            raise DataError(
                f"{source.path}: {len(source.coords)} space axes, the card has {card.num_dims}"
            )
        same_times = np.array_equal(source.times, first.times)
        same_coords = all(
            np.array_equal(a, b) for a, b in zip(source.coords, first.coords, strict=True)
        )
        if not (same_times and same_coords):
            raise DataError(
                f"{source.path}: its grid or its times differ from those of {first.path.name}",
                hint="convert them separately, each with --raw FILE",
            )
