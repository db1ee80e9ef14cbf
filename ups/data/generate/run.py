"""Solve the batches of a job here or in other processes, and put the file together."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from ups.data.generate.job import Arrays, Job, one_thread
from ups.data.generate.pieces import Pieces
from ups.data.worker_pool import WorkerError, cores, in_processes
from ups.errors import DataError, UpsError

Progress = Callable[[int, int], None]
_Solved = Generator[range, None, None]

_SHORT_SECONDS = 10.0
"""Less work than this is worth neither storing nor processes, each of which imports torch."""


def make_file(
    job: Job, path: Path, pieces: Pieces, workers: int | None, progress: Progress | None
) -> None:
    """Make the job's file at `path`; continue where a killed run stopped.

    Batches are solved in any order, kept as pieces, and written in order: the file's size is
    needed twice. (An HDF5 file cannot be continued after a kill inside a write, so no piece may
    go before the file is whole.) One batch, or short work, goes straight into the file.

    Args:
        pieces: Of this job and path; the caller holds their lock.
        workers: As for `ups.data.generate.generate`.
    """
    try:
        pieces.prepare(job)
        with one_thread():
            if len(job.batches) > 1:
                _solve_missing(job, path, pieces, workers, progress)
            job.write(pieces.file, _in_order(job, pieces, progress))
        pieces.finish(path)
    except (WorkerError, DiskError):
        raise  # what is done is of use to the next run
    except UpsError:
        pieces.remove()
        raise
    finally:
        pieces.close()


def _in_order(job: Job, pieces: Pieces, progress: Progress | None) -> Iterator[Arrays]:
    """Every batch: as it is stored, else (not yet solved, or damaged) solved now."""
    done = sum(len(batch) for batch in job.batches if pieces.has(batch))
    for batch in job.batches:
        stored = pieces.load(batch)
        yield job.solve(batch) if stored is None else stored
        if not pieces.has(batch):
            done += len(batch)
            if progress is not None:
                progress(done, job.request.num_trajectories)


def _solve_missing(
    job: Job, path: Path, pieces: Pieces, workers: int | None, progress: Progress | None
) -> None:
    """Have a piece of each batch, but for short work, of which only the first may be there."""
    total = job.request.num_trajectories
    missing = [batch for batch in job.batches if not pieces.has(batch)]
    done = total - sum(map(len, missing))
    if done and progress is not None:
        progress(done, total)
    with closing(_solved(job, pieces, missing, workers)) as solved:
        for number, batch in enumerate(solved):
            done += len(batch)
            if number == 1:  # so this is no short work
                _check_space(path, pieces.size(batch) / len(batch) * (2 * total - done))
            if progress is not None:
                progress(done, total)


class DiskError(DataError):
    """The disk has no room for what is to come."""


def _check_space(path: Path, needed: float) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise DiskError(
            f"{path}: needs {needed / 1e9:.1f} GB more while it is made, and {free / 1e9:.1f} GB "
            "are free",
            hint="--out FOLDER on a larger disk, or fewer --num-trajectories",
        )


def _solved(job: Job, pieces: Pieces, missing: Sequence[range], workers: int | None) -> _Solved:
    """Solve and store batches; without a number of workers the first one's time decides."""
    if workers is None and missing:
        seconds = time.perf_counter()
        pieces.save(missing[0], job.solve(missing[0]))
        seconds = time.perf_counter() - seconds
        yield missing[0]
        missing = missing[1:]
        if seconds * len(missing) < _SHORT_SECONDS:
            return
    on_gpu = job.device.type != "cpu"
    yield from _by(1 if on_gpu else workers or cores(), job, pieces, missing)


def _by(workers: int, job: Job, pieces: Pieces, batches: Sequence[range]) -> _Solved:
    if min(workers, len(batches)) > 1:
        make = partial(_worker, job, pieces)
        yield from in_processes(make, batches, workers, where=pieces.folder)
    else:
        for batch in batches:
            pieces.save(batch, job.solve(batch))
            yield batch


def _worker(job: Job, pieces: Pieces) -> Callable[[range], None]:
    """What a worker process does with a batch."""

    def work(batch: range) -> None:
        with one_thread():
            pieces.save(batch, job.solve(batch))

    return work
