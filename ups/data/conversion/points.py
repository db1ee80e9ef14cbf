"""Raw meshes and particles -> point store: streamed, resumable, by several processes.

    data/<key>/.<version>.converting/       beside the store; nothing reads it but the next run
        plan                                identity of the plan
        units/<index>/                      arrays and record of each finished unit
        store.zarr/                         the store, while it is laid out

Units are converted first, in any order; then the store is laid out from them, shard by shard, in
the order of the plan. So neither the number of processes nor a kill shows in the result.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ups import files
from ups.data.conversion.plan import Recipe, check_version_name
from ups.data.conversion.point_assembly import lay_out
from ups.data.conversion.point_plan import PointPlan, make_point_plan
from ups.data.conversion.point_units import PointRecord, PointUnit, UnitConverter, unit_folder
from ups.data.points import PointStore, point_store_path
from ups.data.worker_pool import WorkerError, in_processes
from ups.errors import DataError, UsageError, translated_os_errors
from ups.registry import DatasetCard

Progress = Callable[[int, int], None]


class PointConversion(NamedTuple):
    """A converted version, and whether it was there already."""

    store: PointStore
    reused: bool


def convert_points(
    card: DatasetCard,
    raw_paths: Sequence[Path] = (),
    *,
    recipe: Recipe,
    version: str | None = None,
    force: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> PointConversion:
    """Convert raw files of a mesh or particle dataset into one version of its point store.

    In memory there is one trajectory for each process, or one shard. Killed and run again, it
    continues, and every file of the result is byte for byte that of an uninterrupted run with any
    number of workers. Needs the store's size once more on disk while it runs.

    Args:
        raw_paths: Files or folders; empty means the dataset's raw folder.
        version: Name of the version; None derives it.
        force: Replace a version of that name that was made differently.
        workers: Processes.
        progress: Called with (trajectories done, trajectories in all).

    Raises:
        DataError: A raw file is unusable, the files disagree, or values are not finite.
        UsageError: The version's name is no file name, or the recipe is one for grids.
    """
    check_version_name(version)
    if recipe.stride_x != 1:
        raise UsageError(
            f"--stride-x {recipe.stride_x}: {card.key} has nodes of any place, not a grid"
        )
    if workers < 1:
        raise UsageError(f"--workers {workers}: must be at least 1")
    plan = make_point_plan(card, raw_paths, recipe, version)
    target = point_store_path(card.key, plan.metadata.version)
    work = target.with_name(f".{target.stem}.converting")
    with files.exclusive(target, f"converting {card.key}"), translated_os_errors(target, "writing"):
        _restore(work, target)
        if target.exists() and not force and _same_origin(target, plan):
            shutil.rmtree(work, ignore_errors=True)  # of a run killed at its end
            return PointConversion(PointStore(target), reused=True)
        _prepare(work, plan)
        _convert_units(work, plan, workers, progress)
        lay_out(work / "store.zarr", plan, _records(work, plan), work / "units")
        _put_in_place(work, target)
    return PointConversion(PointStore(target), reused=False)


def _same_origin(target: Path, plan: PointPlan) -> bool:
    """Whether `target` was made by `plan`; a version made otherwise is not overwritten."""
    if PointStore(target).identity == plan.identity:
        return True
    raise DataError(
        f"{target}: version '{plan.metadata.version}' exists, made from other files or another "
        "recipe",
        hint="--version NAME to keep both, --force to replace it",
    )


def _prepare(work: Path, plan: PointPlan) -> None:
    """The work folder of this plan: kept if it is, else made new."""
    record = work / "plan"
    if not record.is_file() or record.read_bytes() != plan.identity.encode():
        shutil.rmtree(work, ignore_errors=True)
    (work / "units").mkdir(parents=True, exist_ok=True)
    for leftover in (work / "units").glob(".*"):  # of a killed process
        shutil.rmtree(leftover)
    files.write_text(record, plan.identity)


def _records(work: Path, plan: PointPlan) -> list[PointRecord]:
    found = [_record(work, plan, unit) for unit in plan.units]
    records = [record for record in found if record is not None]
    if len(records) != len(plan.units):
        raise DataError(f"{work}: units disappeared while the store was laid out")
    return records


def _record(work: Path, plan: PointPlan, unit: PointUnit) -> PointRecord | None:
    found = PointRecord.load(unit_folder(work / "units", unit.index), len(plan.times))
    return found if found and len(found.digests) == len(unit) else None


def _convert_units(work: Path, plan: PointPlan, workers: int, progress: Progress | None) -> None:
    """Convert every unit that is not there; a value that may not be leaves nothing behind."""
    missing = [unit for unit in plan.units if _record(work, plan, unit) is None]
    done = plan.num_trajectories - sum(len(unit) for unit in missing)
    converter = UnitConverter(plan.card, plan.recipe, plan.sources, work / "units")
    processes = min(workers, len(missing))
    run: Generator[PointUnit, None, None] = (
        in_processes(partial(_same, converter), missing, processes, where=work)
        if processes > 1
        else _here(converter, missing)
    )
    try:
        with closing(run):
            for unit in run:
                done += len(unit)
                if progress:
                    progress(done, plan.num_trajectories)
    except WorkerError:
        raise  # what the others did is kept: the next run continues
    except DataError:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _here(converter: UnitConverter, units: Sequence[PointUnit]) -> Generator[PointUnit, None, None]:
    with closing(converter):
        for unit in units:
            converter(unit)
            yield unit


def _same(converter: UnitConverter) -> UnitConverter:
    """What a worker process works with: the converter as it was pickled."""
    return converter


def _put_in_place(work: Path, target: Path) -> None:
    """Give the finished store its name; a version that it replaces is kept until then."""
    if target.exists():
        os.rename(target, work / "replaced.zarr")
    os.rename(work / "store.zarr", target)
    files.flush(target.parent)
    shutil.rmtree(work, ignore_errors=True)


def _restore(work: Path, target: Path) -> None:
    """Put a version back that a kill caught between its two names."""
    replaced = work / "replaced.zarr"
    if replaced.is_dir() and not target.exists():
        os.rename(replaced, target)
