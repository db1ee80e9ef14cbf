"""Built-in solvers that make a dataset's raw files, in the layout of the published ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
from torch import Tensor

from ups import __version__
from ups.data.bulk import BulkWriter, create_contiguous, reserve
from ups.data.generate.advection1d import advect_family
from ups.data.generate.burgers1d import internal_refinement, solve_burgers1d
from ups.data.generate.initial_conditions import SineFamily, draw_initial_conditions
from ups.errors import DataError, UsageError, did_you_mean
from ups.files import atomic_path
from ups.registry import DatasetCard

Progress = Callable[[int, int], None]
Precision = Literal["float32", "float64"] | torch.dtype

_BATCH_BYTES = 128 * 2**20
_MIN_POINTS = 16
_MIN_NU = 1e-4
"""Below it the solver's grid would pass 40000 points."""


@dataclass(frozen=True)
class _Grid:
    """Where and when a raw file holds values: cell centres and frame times."""

    low: float
    length: float
    points: int
    times: tuple[float, ...]

    def centres(self, refinement: int = 1) -> Tensor:
        """Distance from the left end of every cell centre, and of the points in between.

        Every `refinement`-th entry is a cell centre.
        """
        steps = torch.arange(self.points * refinement, dtype=torch.float64) / refinement
        return (steps + 0.5) * (self.length / self.points)


_Solver = Callable[[SineFamily, _Grid, torch.device, torch.dtype], Tensor]


def generate(
    card: DatasetCard,
    *,
    parameters: dict[str, float],
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
    (seed, i) and the grid alone; equal seeds give equal initial states for every parameter and
    for both datasets. Written batch by batch under a temporary name, then renamed.

    Args:
        parameters: A value for each of the card's parameters, for example {"nu": 0.01}.
        points: Grid points of the output; the card's resolution by default. The solver's own
            grid is finer where the solution needs it.
        frames: Stored frames over the card's time interval, both ends included.
        dtype: Precision to solve in; the file is float32.
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
    name, attribute, solver = _recipe(card, parameters)
    grid = _grid(card, points, frames)
    _check_counts(num_trajectories, seed, batch_size)
    precision, where = _precision(dtype), _device(device)
    batch = batch_size or _batch_size(grid, precision)
    path = Path(out_dir) / name
    if path.exists() and not force:
        if is_generated(path, card, num_trajectories, seed, grid.points, len(grid.times)):
            return path
        raise DataError(
            f"{path}: is there already, and not what this command would make",
            hint="--out FOLDER to keep both, --force to replace it",
        )
    num_bytes = 4 * num_trajectories * len(grid.times) * grid.points
    with atomic_path(path) as temporary, _one_thread(), ExitStack() as stack:
        reserve(temporary, num_bytes)
        with h5py.File(temporary, "w") as file:
            offset = _lay_out(file, grid, num_trajectories)
            file.attrs.update(attribute)
            file.attrs.update(_provenance(card, seed, precision))
        tensor = stack.enter_context(BulkWriter(temporary, offset, num_bytes))
        for start in range(0, num_trajectories, batch):
            stop = min(start + batch, num_trajectories)
            family = draw_initial_conditions(seed, range(start, stop))
            values = solver(family, grid, where, precision)
            tensor.append(values.to("cpu", torch.float32).numpy())
            if progress is not None:
                progress(stop, num_trajectories)
    return path


def raw_file_name(card: DatasetCard, parameters: dict[str, float]) -> str:
    """The name `generate` gives a file: the published one, where these parameters have one."""
    return _recipe(card, parameters)[0]


def is_generated(
    path: Path, card: DatasetCard, num_trajectories: int, seed: int, points: int, frames: int
) -> bool:
    """Whether `path` is what this version's generator makes of these numbers."""
    try:
        with h5py.File(path) as file:
            made = (file["tensor"].shape, file.attrs["generator"], file.attrs["generator_seed"])
            return made == ((num_trajectories, frames, points), generator_label(card), seed)
    except (OSError, KeyError):
        return False


def generator_label(card: DatasetCard) -> str:
    """What `generate` writes into a raw file as its maker: version of ups and solver."""
    return f"ups {__version__} {card.generator.kind if card.generator else ''}"


def _recipe(
    card: DatasetCard, parameters: dict[str, float]
) -> tuple[str, dict[str, np.float64], _Solver]:
    """File name, the parameter as the raw file's attribute, and the solver."""
    if card.generator is None:
        raise UsageError(f"{card.key}: has no built-in generator", hint="ups data list")
    match card.generator.kind:
        case "burgers1d":
            nu = _parameter(card, parameters, "nu", least=_MIN_NU)
            return f"1D_Burgers_Sols_Nu{nu!r}.hdf5", {"Nu": np.float64(nu)}, partial(_burgers, nu)
        case "advection1d":
            beta = _parameter(card, parameters, "beta")
            attribute = {"beta": np.float64(beta)}
            return f"1D_Advection_Sols_beta{beta!r}.hdf5", attribute, partial(_advection, beta)
        case kind:
            raise UsageError(f"{card.key}: generator.kind: unknown kind '{kind}'")


def _burgers(
    nu: float, family: SineFamily, grid: _Grid, device: torch.device, dtype: torch.dtype
) -> Tensor:
    refinement = internal_refinement(grid.points, nu=nu, domain_length=grid.length)
    initial = family.evaluate(grid.centres(refinement) / grid.length).to(device, dtype)
    return solve_burgers1d(
        initial, nu=nu, times=grid.times, domain_length=grid.length, output_stride=refinement
    )


def _advection(
    beta: float, family: SineFamily, grid: _Grid, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """On the CPU whatever the device: there is nothing to step."""
    x = grid.centres()
    return advect_family(
        family, x, beta=beta, times=grid.times, domain_length=grid.length, dtype=dtype
    )


def _parameter(
    card: DatasetCard, parameters: dict[str, float], name: str, *, least: float = -math.inf
) -> float:
    """The one parameter of a card, checked."""
    for given in parameters:
        if given != name:
            near = did_you_mean(given, [name])
            raise UsageError(f"{card.key}: unknown parameter '{given}'{near}; it takes '{name}'")
    if name not in parameters:
        raise UsageError(f"{card.key}: parameter '{name}' is missing")
    value = float(parameters[name])
    if not math.isfinite(value) or value < least:
        allowed = "finite" if least == -math.inf else f"finite and at least {least:g}"
        raise UsageError(f"{card.key}: parameter {name}={value:g} must be {allowed}")
    return value


def _grid(card: DatasetCard, points: int | None, frames: int | None) -> _Grid:
    (axis,) = card.discretisation.axes
    points = axis.points if points is None else points
    frames = card.time.frames if frames is None else frames
    if points < _MIN_POINTS:
        raise UsageError(f"{card.key}: points={points} must be at least {_MIN_POINTS}")
    if frames < 2 or card.time.step is None:
        raise UsageError(f"{card.key}: frames={frames} must be at least 2")
    end = (card.time.frames - 1) * card.time.step
    low, high = axis.bounds
    times = tuple(index * end / (frames - 1) for index in range(frames))
    return _Grid(low=low, length=high - low, points=points, times=times)


def _check_counts(num_trajectories: int, seed: int, batch_size: int | None) -> None:
    if num_trajectories < 1:
        raise UsageError(f"num_trajectories={num_trajectories} must be at least 1")
    if seed < 0:
        raise UsageError(f"seed={seed} must not be negative")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch_size={batch_size} must be at least 1")


def _batch_size(grid: _Grid, precision: torch.dtype) -> int:
    return max(1, _BATCH_BYTES // (precision.itemsize * len(grid.times) * grid.points))


def _precision(dtype: Precision) -> torch.dtype:
    known = {"float32": torch.float32, "float64": torch.float64}
    found = known.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise UsageError(f"dtype={dtype}: solvers run in {' or '.join(known)}")
    return found


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device={device}: cannot be used here: {error}") from error


def _provenance(card: DatasetCard, seed: int, precision: torch.dtype) -> dict[str, str | int]:
    """Attributes that the published files do not have; readers tolerate them."""
    return {
        "generator": generator_label(card),
        "generator_seed": seed,
        "generator_precision": str(precision).removeprefix("torch."),
    }


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


def _lay_out(file: h5py.File, grid: _Grid, num_trajectories: int) -> int:
    """PDEBench's keys, shapes, types and storage; returns where the tensor's bytes begin."""
    shape = (num_trajectories, len(grid.times), grid.points)
    offset = create_contiguous(file, "tensor", shape, np.float32)
    # One entry more than there are frames, as in the published files.
    times = (*grid.times, 2 * grid.times[-1] - grid.times[-2])
    file["t-coordinate"] = np.asarray(times, dtype=np.float32)
    file["x-coordinate"] = (grid.low + grid.centres()).numpy().astype(np.float32)
    return offset
