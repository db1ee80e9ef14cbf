"""A file to generate, cut into batches that any process can solve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import scipy.linalg  # with its BLAS, which `one_thread` could not see otherwise
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ups import __version__, files
from ups.data.generate.base import Grid, GridAxis, PointTask, Solution, SolvedPoints, Task
from ups.data.generate.raw_files import raw_writer
from ups.data.generate.request import Request
from ups.data.generate.solvers import grid_solver, point_solver
from ups.data.layouts.base import PointTrajectory
from ups.data.layouts.points import PointsWriter
from ups.errors import UsageError
from ups.registry import DatasetCard, Generator

Arrays = dict[str, npt.NDArray[Any]]
"""A solved batch by name, as the file needs it: plain numbers that can be stored anywhere."""

_BATCH_BYTES = 128 * 2**20
_MOST_AT_ONCE = 128
"""More trajectories in a batch are no faster on a processor, and leave other cores idle."""
_DRAWN = "drawn/"
_LIBRARIES = [torch.__version__, np.__version__, scipy.__version__]
"""Of torch, numpy and scipy: the last bits depend on them."""


@dataclass(frozen=True)
class Job:
    """A request that has been checked, and how it is worked on.

    The file depends on this alone, not on who solves which batch when.

    Attributes:
        batch_size: Trajectories solved at once; on meshes and for particles it is always 1.
    """

    card: DatasetCard
    request: Request
    device: torch.device
    batch_size: int

    @classmethod
    def of(
        cls, card: DatasetCard, request: Request, device: torch.device, batch_size: int | None
    ) -> Job:
        """With the default batch size, which follows from the request and the device."""
        if card.discretisation.kind != "grid":
            return cls(card, request, device, 1)
        return cls(card, request, device, batch_size or _batch_size(card, request, device))

    @property
    def batches(self) -> list[range]:
        total, size = self.request.num_trajectories, self.batch_size
        return [range(start, min(start + size, total)) for start in range(0, total, size)]

    @property
    def identity(self) -> str:
        """Hash of everything that a batch's bytes depend on."""
        return files.sha256_json(
            {
                "card": self.card.model_dump(mode="json"),
                "generator": generator_label(self.card),
                "request": self.request.to_json(),
                "device": self.device.type,
                "batch_size": self.batch_size,
                "libraries": _LIBRARIES,
            }
        )

    @property
    def provenance(self) -> dict[str, str | int]:
        """Attributes that the published files do not have; readers tolerate them."""
        return {
            "generator": generator_label(self.card),
            "generator_seed": self.request.seed,
            "generator_request": self.request.to_json(),
            "generator_device": self.device.type,
            "generator_batch_size": self.batch_size,
            "generator_libraries": " ".join(_LIBRARIES),
        }

    def solve(self, batch: range) -> Arrays:
        """Solve one of `batches`.

        Raises:
            DataError: A solution did not stay finite.
        """
        kind, request = generator_of(self.card).kind, self.request
        if self.card.discretisation.kind == "grid":
            task = Task(
                batch, request.seed, self._grid, request.parameters, self.device,
                getattr(torch, request.precision),
            )  # fmt: skip
            return _solution_arrays(grid_solver(kind)(task))
        nodes = (request.points[0], request.points[1])
        point_task = PointTask(
            batch, request.seed, request.times, nodes, request.parameters, self.device
        )
        (solved,) = point_solver(kind)(point_task)
        return _point_arrays(solved)

    def write(self, path: Path, solved: Iterable[Arrays]) -> None:
        """Write the file, given its batches in order."""
        if self.card.discretisation.kind == "grid":
            self._write_grid(path, solved)
        else:
            self._write_points(path, solved)

    @property
    def _grid(self) -> Grid:
        axes = zip(self.card.discretisation.axes, self.request.points, strict=True)
        return Grid(
            tuple(GridAxis(a.bounds[0], a.bounds[1] - a.bounds[0], n) for a, n in axes),
            self.request.times,
        )

    def _write_grid(self, path: Path, solved: Iterable[Arrays]) -> None:
        request = self.request
        with raw_writer(
            path, self.card, self._grid, request.num_trajectories, request.parameters,
            self.provenance,
        ) as writer:  # fmt: skip
            for arrays in solved:
                writer.append(_solution(arrays))

    def _write_points(self, path: Path, solved: Iterable[Arrays]) -> None:
        writer = PointsWriter(path, np.asarray(self.request.times), self.card)
        for arrays in solved:
            drawn = {name: float(value) for name, value in _drawn(arrays).items()}
            writer.append(_trajectory(arrays), {**self.request.parameters, **drawn})
        with h5py.File(path, "r+") as file:
            file.attrs.update(self.provenance)


def generator_label(card: DatasetCard) -> str:
    """What `generate` writes into a raw file as its maker: version of ups and solver."""
    return f"ups {__version__} {generator_of(card).kind}"


def generator_of(card: DatasetCard) -> Generator:
    """The card's generator, or an error that says it has none."""
    if card.generator is None:
        raise UsageError(f"{card.key}: has no built-in generator", hint="ups data list")
    return card.generator


def _batch_size(card: DatasetCard, request: Request, device: torch.device) -> int:
    values = len(request.times) * len(card.fields) + len(card.inputs)
    for points in request.points:
        values *= points
    fit = _BATCH_BYTES // (getattr(torch, request.precision).itemsize * values)
    return max(1, fit if device.type != "cpu" else min(fit, _MOST_AT_ONCE))


def _solution_arrays(solution: Solution) -> Arrays:
    arrays = {"fields": solution.fields.cpu().float().numpy()}
    if solution.inputs is not None:
        arrays["inputs"] = solution.inputs.cpu().float().numpy()
    return arrays | {_DRAWN + name: np.asarray(v) for name, v in solution.drawn.items()}


def _solution(arrays: Arrays) -> Solution:
    inputs = torch.from_numpy(arrays["inputs"]) if "inputs" in arrays else None
    return Solution(torch.from_numpy(arrays["fields"]), inputs, _drawn(arrays))


def _point_arrays(solved: SolvedPoints) -> Arrays:
    arrays = {name: value for name, value in vars(solved.trajectory).items() if value is not None}
    return arrays | {_DRAWN + name: np.asarray(v, np.float64) for name, v in solved.drawn.items()}


def _trajectory(arrays: Arrays) -> PointTrajectory:
    return PointTrajectory(**{n: v for n, v in arrays.items() if not n.startswith(_DRAWN)})


def _drawn(arrays: Arrays) -> Arrays:
    return {n.removeprefix(_DRAWN): v for n, v in arrays.items() if n.startswith(_DRAWN)}


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep every numerical library on one core for the block.

    The operations are short: a second thread gains a third on two idle cores and costs a factor
    of a hundred when another process holds one of them, because both wait for each other. And
    the sums, so the last bits, cannot depend on how many cores there are.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
