"""Raw files -> trajectory store: streamed, resumable, by several processes or machines."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ups import files, paths
from ups.data.conversion.identity import without_duplicates
from ups.data.conversion.plan import Plan, Recipe, Unit, check_version_name, make_plan
from ups.data.conversion.sources import find_raw
from ups.data.conversion.units import UnitConverter, copy_unit
from ups.data.conversion.workspace import Workspace
from ups.data.layouts import open_raw
from ups.data.points import PointStore
from ups.data.store import TrajectoryStore, store_path
from ups.data.worker_pool import WorkerError, cores, in_processes
from ups.errors import DataError, UsageError, translated_os_errors
from ups.registry import DatasetCard

__all__ = ["Conversion", "Recipe", "Shard", "convert", "convert_shard", "find_raw", "merge_shards"]

Progress = Callable[[int, int], None]
_Units = Generator[Unit, None, None]
_ALONE_BYTES = 256 * 2**20
"""Less than this is done sooner than worker processes have started."""


@dataclass(frozen=True)
class Conversion:
    """A converted version, and whether it was there already."""

    store: TrajectoryStore | PointStore
    reused: bool


@dataclass(frozen=True)
class Shard:
    """A converted share of a version, waiting for the others."""

    folder: Path
    version: str
    num_trajectories: int


def convert(
    card: DatasetCard,
    raw: Sequence[Path] = (),
    *,
    recipe: Recipe | None = None,
    version: str | None = None,
    force: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Convert raw files of one dataset into one version of its trajectory store.

    Peak memory does not depend on the input: values pass through in blocks of 32 MiB. The version
    appears under its name only when complete. Killed and run again, it continues, and the result
    is byte for byte that of an uninterrupted run with any number of workers. A version made
    before from the same files in the same way is reused.

    Args:
        raw: Files or folders; empty means the dataset's raw folder.
        version: Name of the version; None derives it, for example `nu0.01-x4-t5`.
        force: Replace a version of that name that was made differently.
        workers: Processes; None takes one for small data, else one for each core, at most 8.
        progress: Called with (trajectories done, trajectories in all).

    Raises:
        DataError: A raw file is unusable, the files disagree, or values are not finite.
        UsageError: The version's name is no file name.
    """
    check_version_name(version)
    _check_workers(workers)
    if card.discretisation.kind != "grid":
        return _convert_points(card, raw, recipe or Recipe(), version, force, workers, progress)
    plan = _planned(card, raw, recipe or Recipe(), version)
    target = store_path(card.key, plan.metadata.version)
    with files.exclusive(target, f"converting {card.key}"):
        if target.exists() and not force and _same_origin(target, plan):
            shutil.rmtree(work_folder(target), ignore_errors=True)  # of a run killed at its end
            return Conversion(TrajectoryStore(target), reused=True)
        with translated_os_errors(target, "writing"):
            workspace = Workspace.prepare(work_folder(target), plan)
            _fill(workspace, workers, progress)
            workspace.finish(target)
    return Conversion(TrajectoryStore(target), reused=False)


def convert_shard(
    card: DatasetCard,
    raw: Sequence[Path] = (),
    *,
    shard: tuple[int, int],
    recipe: Recipe | None = None,
    version: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Shard:
    """Convert share `index` of `count`, counted from 1, into a folder beside the version.

    For data that one machine would take too long for. Every machine sees the same raw files and
    gives the same recipe; `merge_shards` makes the version, the same as `convert` would.
    """
    plan = _shardable(card, raw, recipe or Recipe(), version, shard)
    index, count = shard
    folder = shard_folder(plan, index, count)
    busy = files.exclusive(folder, f"converting shard {index}/{count} of {card.key}")
    with busy, translated_os_errors(folder, "writing"):
        workspace = Workspace.prepare_shard(folder, plan, index, count)
        _fill(workspace, workers, progress)
    done = sum(len(unit) for unit in workspace.units)
    return Shard(folder, plan.metadata.version, done)


def merge_shards(
    card: DatasetCard,
    raw: Sequence[Path] = (),
    *,
    count: int,
    recipe: Recipe | None = None,
    version: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Make the version out of its `count` shards; every byte is hashed on the way.

    Raises:
        DataError: A shard is missing, unfinished, of another recipe or damaged; it is named.
    """
    plan = _shardable(card, raw, recipe or Recipe(), version, (1, count))
    target = store_path(card.key, plan.metadata.version)
    shards = [_finished_shard(plan, index, count) for index in range(1, count + 1)]
    with files.exclusive(target, f"merging shards of {card.key}"):
        if target.exists() and not force and _same_origin(target, plan):
            shutil.rmtree(work_folder(target), ignore_errors=True)  # of a run killed at its end
            return Conversion(TrajectoryStore(target), reused=True)
        with translated_os_errors(target, "writing"):
            whole = Workspace.prepare(work_folder(target), plan)
            done = 0
            for shard in shards:
                for unit in shard.units:
                    _take_over(unit, shard, whole)
                    done += len(unit)
                    if progress:
                        progress(done, plan.shape[0])
            whole.finish(target)
            shutil.rmtree(shards[0].folder.parent)  # with the locks of its shards
    return Conversion(TrajectoryStore(target), reused=False)


def work_folder(target: Path) -> Path:
    """Where the conversion into `target` is under way, or was when it was killed."""
    return target.with_name(f".{target.stem}.converting")


def shard_folder(plan: Plan, index: int, count: int) -> Path:
    name = f"{plan.metadata.version}.shards"
    return paths.data_dir(plan.card.key) / name / f"{index}-of-{count}"


def _planned(card: DatasetCard, raw: Sequence[Path], recipe: Recipe, version: str | None) -> Plan:
    found, duplicates = without_duplicates(find_raw(card, raw))
    with ExitStack() as stack:
        sources = [stack.enter_context(closing(open_raw(path, card))) for path in found]
        return make_plan(card, sources, recipe, version=version, duplicates=duplicates)


def _shardable(
    card: DatasetCard,
    raw: Sequence[Path],
    recipe: Recipe,
    version: str | None,
    shard: tuple[int, int],
) -> Plan:
    check_version_name(version)
    index, count = shard
    if not 1 <= index <= count:
        raise UsageError(f"--shard {index}/{count}: expected I/N with 1 <= I <= N")
    if card.discretisation.kind != "grid":
        raise UsageError(f"{card.key}: only grids are converted in shards; leave --shard out")
    plan = _planned(card, raw, recipe, version)
    if count > len(plan.units):
        raise UsageError(
            f"--shard {index}/{count}: the work has {len(plan.units)} parts of about 64 MiB",
            hint=f"use at most {len(plan.units)} shards",
        )
    return plan


def _convert_points(
    card: DatasetCard,
    raw: Sequence[Path],
    recipe: Recipe,
    version: str | None,
    force: bool,
    workers: int | None,
    progress: Progress | None,
) -> Conversion:
    from ups.data.conversion.points import convert_points

    made = convert_points(
        card, find_raw(card, raw), recipe=recipe, version=version, force=force,
        workers=workers or cores(), progress=progress,
    )  # fmt: skip
    return Conversion(made.store, made.reused)


def _same_origin(target: Path, plan: Plan) -> bool:
    """Whether `target` was made by `plan`; a version made otherwise is not overwritten."""
    made = TrajectoryStore(target).metadata.without_making()
    meta = plan.metadata.without_making()
    divided = made.split_hash if meta.split_hash and not made.excluded else meta.split_hash
    if replace(made, data_sha256="", excluded=(), split_hash=divided) == meta:
        return True
    raise DataError(
        f"{target}: version '{meta.version}' exists, made from other files or another recipe",
        hint="--version NAME to keep both, --force to replace it",
    )


def _fill(workspace: Workspace, workers: int | None, progress: Progress | None) -> None:
    """Convert every unit that is not there; a value that may not be leaves nothing behind."""
    plan = workspace.plan
    total = sum(len(unit) for unit in workspace.units)
    missing = [unit for unit in workspace.units if not workspace.is_true(unit)]
    done = total - sum(len(unit) for unit in missing)
    processes = min(_processes(workers, plan, missing), len(missing))
    try:
        with closing(_converted(workspace, missing, processes)) as units:
            for unit in units:
                done += len(unit)
                if progress:
                    progress(done, total)
    except WorkerError:
        raise  # what is done is of use to the next run
    except DataError:
        workspace.remove()
        raise


def _converted(workspace: Workspace, units: Sequence[Unit], workers: int) -> _Units:
    """Convert units and yield each when it is recorded.

    Bytes that are copied as they are need no process: hashing and copying let other threads run.
    """
    if workers <= 1:
        return _here(workspace, units)
    if workspace.plan.plain:
        return _in_threads(workspace, units, workers)
    make = partial(_unit_worker, workspace)
    return in_processes(make, units, workers, where=workspace.folder)


def _processes(workers: int | None, plan: Plan, missing: Sequence[Unit]) -> int:
    if workers is not None:
        return workers
    num_bytes = sum(len(unit) for unit in missing) * (plan.trajectory_bytes + plan.input_bytes)
    return 1 if num_bytes < _ALONE_BYTES else cores()


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: must be at least 1")


def _here(workspace: Workspace, units: Sequence[Unit]) -> _Units:
    with closing(UnitConverter(workspace.plan, workspace.place)) as converter:
        for unit in units:
            converter(unit).save(workspace.record_path(unit))
            yield unit


def _in_threads(workspace: Workspace, units: Sequence[Unit], workers: int) -> _Units:
    kept = threading.local()
    made: list[UnitConverter] = []

    def work(unit: Unit) -> None:
        if not hasattr(kept, "converter"):
            kept.converter = UnitConverter(workspace.plan, workspace.place)
            made.append(kept.converter)
        kept.converter(unit).save(workspace.record_path(unit))

    pool = ThreadPoolExecutor(workers)
    by_future = {pool.submit(work, unit): unit for unit in units}
    try:
        for future in as_completed(by_future):
            future.result()
            yield by_future[future]
    finally:  # what runs is finished, what waits is dropped
        pool.shutdown(wait=True, cancel_futures=True)
        for converter in made:
            converter.close()


def _unit_worker(workspace: Workspace) -> Callable[[Unit], None]:
    converter = UnitConverter(workspace.plan, workspace.place)

    def work(unit: Unit) -> None:
        with translated_os_errors(workspace.folder, "writing"):
            converter(unit).save(workspace.record_path(unit))

    return work


def _finished_shard(plan: Plan, index: int, count: int) -> Workspace:
    folder = shard_folder(plan, index, count)
    shard = Workspace.of_shard(folder, plan, index, count)
    what = None
    if shard is None:
        what = "is of another recipe or other files" if folder.exists() else "is not there"
    elif any(shard.record(unit) is None for unit in shard.units):
        what = "is not finished"
    if shard is None or what:
        raise DataError(
            f"{folder}: shard {index}/{count} {what}",
            hint=f"run the same command with --shard {index}/{count}",
        )
    return shard


def _take_over(unit: Unit, shard: Workspace, whole: Workspace) -> None:
    """Copy a unit from its shard; what was copied must be what was recorded."""
    record = shard.record(unit)
    found = copy_unit(shard.plan, unit, shard.place, whole.place)
    if record is None or not np.array_equal(found, record.digests):
        raise DataError(
            f"{shard.folder}: damaged: trajectories {unit.row} to {unit.row + len(unit) - 1} are "
            "not what was recorded",
            hint="remove that folder and convert the shard again",
        )
    record.save(whole.record_path(unit))
