"""Raw files -> trajectory store: streamed, bounded memory, whole or not at all."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ups import files, paths
from ups.data.bulk import BulkWriter, create_contiguous, reserve
from ups.data.layouts import RawTrajectories, open_raw
from ups.data.splits import EXCLUDED, assign_splits, groups_of, split_hash
from ups.data.statistics import RunningStatistics
from ups.data.store import FORMAT, SourceFile, StoreMetadata, TrajectoryStore, store_path
from ups.errors import DataError, UsageError, translated_os_errors
from ups.registry import DatasetCard

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]
_BLOCK_BYTES = 32 * 2**20
_SAMPLES, _SAMPLE_BYTES = 1024, 4096
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Recipe:
    """How a version is made from its raw files.

    Attributes:
        limit: Trajectories taken from the start of each file; None takes all.
        stride_x, stride_t: Every which grid point (along each axis) and frame to keep.
        exclude_invalid: Put trajectories with NaN or infinity into no split instead of stopping.
    """

    limit: int | None = None
    stride_x: int = 1
    stride_t: int = 1
    exclude_invalid: bool = False

    def __post_init__(self) -> None:
        for name in ("limit", "stride_x", "stride_t"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')}: must be at least 1, found {value}")


@dataclass(frozen=True)
class Conversion:
    """A converted version, and whether it was there already."""

    store: TrajectoryStore
    reused: bool


def convert(
    card: DatasetCard,
    raw: Sequence[Path] = (),
    *,
    recipe: Recipe | None = None,
    version: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Convert raw files of one dataset into one version of its trajectory store.

    Peak memory does not depend on the input: values pass through in blocks of 32 MiB. The version
    appears under its name only when complete. A version made before from the same files in the
    same way is reused.

    Args:
        raw: Files or folders; empty means the dataset's raw folder.
        version: Name of the version; None derives it, for example `nu0.01-x4-t5`.
        force: Replace a version of that name that was made differently.
        progress: Called with (trajectories done, trajectories in all).

    Raises:
        DataError: A raw file is unusable, the files disagree, or values are not finite.
        UsageError: The version's name is no file name.
    """
    recipe = recipe or Recipe()
    if version is not None and (version == "latest" or not _VERSION.fullmatch(version)):
        raise UsageError(
            f"--version {version}: expected letters, digits and '._-', and not 'latest'"
        )
    with ExitStack() as stack:
        sources = [
            stack.enter_context(closing(open_raw(path, card))) for path in find_raw(card, raw)
        ]
        _check_agreement(sources)
        plan = _plan(card, sources, recipe, version)
        target = store_path(card.key, plan.version)
        with files.exclusive(target, f"converting {card.key}"):
            files.remove_leftovers(target.parent, target.name)
            if target.exists() and not force and _same_origin(target, plan):
                return Conversion(TrajectoryStore(target), reused=True)
            with files.atomic_path(target) as temporary:
                _write(temporary, card, sources, recipe, plan, progress)
    return Conversion(TrajectoryStore(target), reused=False)


def find_raw(card: DatasetCard, raw: Sequence[Path] = ()) -> list[Path]:
    """The dataset's raw files among the given files and folders, sorted by name.

    In a folder, files count whose names begin like the published ones.
    """
    places = list(raw) or [paths.raw_dir(card.key)]
    prefix = _common_start([file.name for file in card.source.files])
    found: list[Path] = []
    for place in places:
        with translated_os_errors(place, "reading"):
            if place.is_dir():
                os.scandir(place).close()  # rglob would pass over a folder that may not be read
                inside = [p for p in place.rglob("*") if p.name.startswith(prefix) and p.is_file()]
                found += sorted(inside, key=lambda p: p.name)
            elif place.exists() or raw:
                found.append(place)
    if not found:
        where = ", ".join(paths.display(place) for place in places)
        raise DataError(
            f"{card.key}: no raw file named {prefix}* in {where}",
            hint=f"ups data generate {card.key}",
        )
    return found


def _common_start(names: Sequence[str]) -> str:
    """The characters with which all names begin."""
    columns = zip(*names, strict=False)
    return "".join(c[0] for c in itertools.takewhile(lambda c: len(set(c)) == 1, columns))


def _plan(
    card: DatasetCard, sources: Sequence[RawTrajectories], recipe: Recipe, version: str | None
) -> StoreMetadata:
    """Everything about the version that is known before its values are read."""
    used = [_used(source, recipe) for source in sources]
    splits = assign_splits(card.splits, used)
    times = sources[0].times[:: recipe.stride_t]
    return StoreMetadata(
        dataset=card.key,
        version=version or _version_name(card, sources, recipe),
        fields=card.field_names,
        parameters=card.parameter_names,
        axes=tuple(axis.name for axis in card.discretisation.axes),
        bounds=tuple(_bounds(coord) for coord in sources[0].coords),
        periodic=card.periodic,
        dt=_step(card, times),
        stride_x=recipe.stride_x,
        stride_t=recipe.stride_t,
        limit=recipe.limit,
        sources=tuple(_identify(s, n) for s, n in zip(sources, used, strict=True)),
        split_hash=split_hash(splits, groups_of(card.splits, used)),
        data_sha256="",
    )


def _step(card: DatasetCard, times: Array) -> float | None:
    """The constant time step, freed of float32 rounding."""
    if len(times) < 2:
        return None
    steps = np.diff(times)
    if not np.allclose(steps, steps[0], rtol=1e-3):
        raise DataError(f"{card.key}: time steps vary from {steps.min():g} to {steps.max():g}")
    return float(f"{steps.mean():.6g}")


def _version_name(card: DatasetCard, sources: Sequence[RawTrajectories], recipe: Recipe) -> str:
    parts = []
    for parameter in card.parameters:
        values = sorted({source.parameters[parameter.name] for source in sources})
        named = "_".join(f"{value:g}" for value in values)
        parts.append(f"{parameter.name}{named if len(values) <= 3 else f'_{len(values)}values'}")
    parts += [f"x{recipe.stride_x}"] if recipe.stride_x > 1 else []
    parts += [f"t{recipe.stride_t}"] if recipe.stride_t > 1 else []
    parts += [f"n{recipe.limit}"] if recipe.limit else []
    return "-".join(parts) or "full"


def _used(source: RawTrajectories, recipe: Recipe) -> int:
    return min(source.num_trajectories, recipe.limit or source.num_trajectories)


def _bounds(coord: Array) -> tuple[float, float]:
    """The domain of cell-centred points: half a cell beyond the first and last."""
    half = (coord[-1] - coord[0]) / (len(coord) - 1) / 2
    return (round(float(coord[0] - half), 6), round(float(coord[-1] + half), 6))


def _identify(source: RawTrajectories, used: int) -> SourceFile:
    """Name, size and a fingerprint of a raw file, without reading all of it."""
    size = source.path.stat().st_size
    digest = hashlib.sha256()
    with source.path.open("rb") as file:
        for place in np.linspace(0, max(0, size - _SAMPLE_BYTES), _SAMPLES).astype(int):
            file.seek(int(place))
            digest.update(file.read(_SAMPLE_BYTES))
    fingerprint = digest.hexdigest()[:16]
    return SourceFile(source.path.name, size, fingerprint, used, source.parameters)


def _same_origin(target: Path, plan: StoreMetadata) -> bool:
    """Whether `target` was made by `plan`; a version made otherwise is not overwritten."""
    made = TrajectoryStore(target).metadata
    divided = plan.split_hash if made.excluded else made.split_hash
    if replace(made, data_sha256="", excluded=(), split_hash=divided) == plan:
        return True
    raise DataError(
        f"{target}: version '{plan.version}' exists, made from other files or another recipe",
        hint="--version NAME to keep both, --force to replace it",
    )


def _check_agreement(sources: Sequence[RawTrajectories]) -> None:
    first = sources[0]
    for source in sources[1:]:
        same_times = np.array_equal(source.times, first.times)
        same_coords = len(source.coords) == len(first.coords) and all(
            np.array_equal(a, b) for a, b in zip(source.coords, first.coords, strict=True)
        )
        if not (same_times and same_coords):
            raise DataError(
                f"{source.path}: its grid or its times differ from those of {first.path.name}",
                hint="convert them separately, each with --raw FILE",
            )


def _write(
    path: Path,
    card: DatasetCard,
    sources: Sequence[RawTrajectories],
    recipe: Recipe,
    plan: StoreMetadata,
    progress: Progress | None,
) -> None:
    """Lay the file out, fill the field values in one pass, then write what the pass found."""
    used = [source.trajectories for source in plan.sources]
    splits, groups = assign_splits(card.splits, used), groups_of(card.splits, used)
    coords = [coord[:: recipe.stride_x] for coord in sources[0].coords]
    times = sources[0].times[:: recipe.stride_t]
    shape = (sum(used), len(times), *(len(coord) for coord in coords), len(card.fields))
    num_bytes = 4 * math.prod(shape)
    reserve(path, num_bytes)
    with h5py.File(path, "w") as file:
        offset = create_contiguous(file, "fields", shape, np.float32)
    statistics, digest, done = RunningStatistics(), hashlib.sha256(), 0
    with BulkWriter(path, offset, num_bytes) as fields, ThreadPoolExecutor(2) as threads:
        for source, start, block in _blocks(sources, used, recipe):
            chosen = splits[done : done + len(block)]
            _exclude_invalid(block, chosen, source, start, recipe)
            beside = [threads.submit(digest.update, block.data),
                      threads.submit(fields.append, block)]  # fmt: skip
            statistics.update(block[chosen == 0])
            for work in beside:
                work.result()
            done += len(block)
            if progress:
                progress(done, shape[0])
    metadata = replace(
        plan,
        data_sha256=digest.hexdigest(),
        split_hash=split_hash(splits, groups),
        excluded=tuple(int(i) for i in np.flatnonzero(splits == EXCLUDED)),
    )
    around = {
        "time": times,
        **{f"coords/{axis}": coord for axis, coord in zip(plan.axes, coords, strict=True)},
        "parameters": _parameter_rows(card, plan),
        "group": groups,
        "split": splits,
        **{f"statistics/{name}": values for name, values in statistics.result().items()},
    }
    with h5py.File(path, "r+") as file:
        for name, array in around.items():
            file[name] = array
        file.attrs["metadata"] = metadata.to_json()
        file.attrs["format"] = FORMAT


def _blocks(
    sources: Sequence[RawTrajectories], used: Sequence[int], recipe: Recipe
) -> Iterator[tuple[RawTrajectories, int, Array]]:
    """Reduced blocks of trajectories with their origin: (source, first trajectory, values)."""
    for source, count in zip(sources, used, strict=True):
        points = len(source.times) * int(np.prod([len(coord) for coord in source.coords]))
        step = max(1, _BLOCK_BYTES // (4 * points))
        for start in range(0, count, step):
            block = source.read(start, min(start + step, count))
            space = (slice(None, None, recipe.stride_x),) * len(source.coords)
            reduced = block[(slice(None), slice(None, None, recipe.stride_t), *space)]
            yield source, start, np.ascontiguousarray(reduced)


def _exclude_invalid(
    block: Array, splits: Array, source: RawTrajectories, start: int, recipe: Recipe
) -> None:
    """Mark trajectories with NaN or infinity as excluded, in place, or stop at the first."""
    finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
    if finite.all():
        return
    if not recipe.exclude_invalid:
        index = int(np.flatnonzero(~finite)[0])
        frame = int(np.argwhere(~np.isfinite(block[index]))[0][0]) * recipe.stride_t
        raise DataError(
            f"{source.path}: trajectory {start + index}: NaN or infinity first at frame {frame}",
            hint="--exclude-invalid keeps such trajectories out of every split and records them",
        )
    splits[~finite] = EXCLUDED


def _parameter_rows(card: DatasetCard, plan: StoreMetadata) -> Array:
    rows = [
        [source.parameters[name] for name in card.parameter_names]
        for source in plan.sources
        for _ in range(source.trajectories)
    ]
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), len(card.parameters))
