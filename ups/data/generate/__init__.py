"""Built-in solvers that make a dataset's raw files, in the layout of the published ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch

from ups import __version__
from ups.data.generate.base import Grid, PointTask, Task
from ups.data.generate.raw_files import raw_writer
from ups.data.generate.request import (
    Precision,
    check_counts,
    checked_device,
    checked_grid,
    checked_nodes,
    checked_parameters,
    checked_precision,
    checked_times,
)
from ups.data.generate.solvers import grid_solver, point_solver
from ups.data.layouts.points import PointsWriter
from ups.errors import DataError, UsageError
from ups.files import atomic_path
from ups.registry import DatasetCard, Generator

Progress = Callable[[int, int], None]
_BATCH_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Request:
    """What makes a generated file what it is.

    Attributes:
        points: Grid points of each axis, or fewest and most nodes.
    """

    num_trajectories: int
    seed: int
    points: tuple[int, ...]
    times: tuple[float, ...]
    parameters: dict[str, float]
    precision: str

    def to_json(self) -> str:
        return json.dumps(vars(self), sort_keys=True)


def generate(
    card: DatasetCard,
    *,
    parameters: Mapping[str, float],
    num_trajectories: int,
    seed: int,
    out_dir: Path,
    points: int | None = None,
    frames: int | None = None,
    device: str | torch.device = "cpu",
    dtype: Precision = torch.float32,
    batch_size: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Solve the card's equation from random initial states and write one raw file.

    The file has the keys, shapes, types, storage, attributes and name of the published file for
    these parameters, plus attributes that say how it was made. Trajectory i depends on
    (seed, i), the grid and the parameters alone. Written batch by batch under a temporary name,
    then renamed.

    Args:
        parameters: A value for each of the card's parameters, for example {"nu": 0.01}; those
            that the card draws for each trajectory may be left out.
        points: Points of each axis of the output, or nodes of each trajectory; as the card says
            by default. The solver's own grid is finer where the solution needs it.
        frames: Stored frames over the card's time interval, both ends included.
        dtype: Precision to solve in; the file is float32. Meshes and particles use float64.
        force: Replace a file of that name that was not made so. Without it, such a file, which may
            be a published original, is left alone, and one that was made so is returned as it is.
        batch_size: Trajectories solved at once; by default what 128 MiB of output hold.
        progress: Called with (trajectories done, all) after every batch.
    Returns:
        The file's path in `out_dir`.
    Raises:
        UsageError: A parameter, count, precision or device that cannot be used.
        DataError: A solution did not stay finite, the file could not be written, or another file
            of its name is there.
    """
    _generator(card)
    check_counts(num_trajectories, seed, batch_size)
    values = checked_parameters(card, parameters)
    path = Path(out_dir) / raw_file_name(card, values)
    where, precision = checked_device(device), checked_precision(dtype)
    request = _request(card, num_trajectories, seed, points, frames, values, precision)
    if path.exists() and not force:
        if _made_by(path) == (generator_label(card), request.to_json()):
            return path
        raise DataError(
            f"{path}: is there already, and not what this command would make",
            hint="--out FOLDER to keep both, --force to replace it",
        )
    with atomic_path(path) as temporary, _one_thread():
        if card.discretisation.kind == "grid":
            grid = checked_grid(card, points, frames)
            size = batch_size or _batch_size(card, grid, precision)
            _solve_grid(temporary, card, request, grid, where, precision, size, progress)
        else:
            _solve_points(temporary, card, request, where, progress)
    return path


def raw_file_name(card: DatasetCard, parameters: Mapping[str, float]) -> str:
    """The name `generate` gives a file: the published one, where these parameters have one."""
    template = _generator(card).file
    names = {name: repr(float(value)) for name, value in parameters.items()}
    try:
        return template.format(**names)
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(
            f"{card.key}: generator.file: '{template}': no parameter {error}"
        ) from error


def is_generated(
    path: Path,
    card: DatasetCard,
    *,
    parameters: Mapping[str, float],
    num_trajectories: int,
    seed: int,
    points: int | None = None,
    frames: int | None = None,
    dtype: Precision = torch.float32,
) -> bool:
    """Whether `path` is what this version's generator makes of these numbers."""
    values, precision = checked_parameters(card, parameters), checked_precision(dtype)
    request = _request(card, num_trajectories, seed, points, frames, values, precision)
    return _made_by(path) == (generator_label(card), request.to_json())


def generator_label(card: DatasetCard) -> str:
    """What `generate` writes into a raw file as its maker: version of ups and solver."""
    return f"ups {__version__} {_generator(card).kind}"


def _generator(card: DatasetCard) -> Generator:
    if card.generator is None:
        raise UsageError(f"{card.key}: has no built-in generator", hint="ups data list")
    return card.generator


def _request(
    card: DatasetCard,
    num_trajectories: int,
    seed: int,
    points: int | None,
    frames: int | None,
    parameters: dict[str, float],
    precision: torch.dtype,
) -> Request:
    times = checked_times(card, frames)
    if card.discretisation.kind == "grid":
        size = checked_grid(card, points, frames).space
        name = str(precision).removeprefix("torch.")
    else:
        size, name = checked_nodes(card, points), "float64"
    return Request(num_trajectories, seed, size, times, parameters, name)


def _made_by(path: Path) -> tuple[str, str] | None:
    """Maker and request of a generated file; None for any other."""
    try:
        with h5py.File(path) as file:
            return str(file.attrs["generator"]), str(file.attrs["generator_request"])
    except (OSError, KeyError):
        return None


def _provenance(card: DatasetCard, request: Request) -> dict[str, str | int]:
    """Attributes that the published files do not have; readers tolerate them."""
    return {
        "generator": generator_label(card),
        "generator_seed": request.seed,
        "generator_request": request.to_json(),
    }


def _solve_grid(
    path: Path,
    card: DatasetCard,
    request: Request,
    grid: Grid,
    device: torch.device,
    precision: torch.dtype,
    batch_size: int,
    progress: Progress | None,
) -> None:
    solver, total = grid_solver(_generator(card).kind), request.num_trajectories
    provenance = _provenance(card, request)
    with raw_writer(path, card, grid, total, request.parameters, provenance) as writer:
        for start in range(0, total, batch_size):
            batch = range(start, min(start + batch_size, total))
            task = Task(batch, request.seed, grid, request.parameters, device, precision)
            writer.append(solver(task))
            if progress is not None:
                progress(batch.stop, total)


def _solve_points(
    path: Path, card: DatasetCard, request: Request, device: torch.device, progress: Progress | None
) -> None:
    solver, total = point_solver(_generator(card).kind), request.num_trajectories
    task = PointTask(
        range(total), request.seed, request.times, (request.points[0], request.points[1]),
        request.parameters, device,
    )  # fmt: skip
    writer = PointsWriter(path, np.asarray(request.times), card)
    for index, solved in enumerate(solver(task)):
        writer.append(solved.trajectory, {**request.parameters, **solved.drawn})
        if progress is not None:
            progress(index + 1, total)
    with h5py.File(path, "r+") as file:
        file.attrs.update(_provenance(card, request))


def _batch_size(card: DatasetCard, grid: Grid, precision: torch.dtype) -> int:
    values = len(grid.times) * len(card.fields) + len(card.inputs)
    for points in grid.space:
        values *= points
    return max(1, _BATCH_BYTES // (precision.itemsize * values))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch on one core for the block.

    The operations are short: a second thread gains a third on two idle cores and costs a factor
    of a hundred when another process holds one of them, because both wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
