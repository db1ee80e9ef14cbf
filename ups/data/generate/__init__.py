"""Built-in solvers that make a dataset's raw files, in the layout of the published ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from ups import files
from ups.data.conversion.identity import how_made
from ups.data.generate.job import Job, generator_label, generator_of
from ups.data.generate.pieces import Pieces
from ups.data.generate.request import (
    Precision,
    Request,
    check_positive,
    checked_device,
    checked_request,
)
from ups.data.generate.run import Progress, make_file
from ups.errors import DataError, UsageError, translated_os_errors
from ups.registry import DatasetCard

__all__ = [
    "Precision",
    "Request",
    "generate",
    "generate_request",
    "generator_label",
    "is_generated",
    "raw_file_name",
]


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
    workers: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Solve the card's equation from random initial states and write one raw file.

    The file has the keys, shapes, types, storage, attributes and name of the published file for
    these parameters, plus attributes that say how it was made. Trajectory i depends on
    (seed, i), the grid and the parameters alone; its last bits also on the batch size and the
    device. The file appears under its name only when complete. Killed and run again, generation
    continues, and the result is byte for byte that of an uninterrupted run with any number of
    workers. With more than one batch it needs the file's size twice on the disk while it runs.

    Args:
        parameters: A value for each of the card's parameters, for example {"nu": 0.01}; those
            that the card draws for each trajectory may be left out.
        points: Points of each axis of the output, or nodes of each trajectory; as the card says
            by default. The solver's own grid is finer where the solution needs it.
        frames: Stored frames over the card's time interval, both ends included.
        dtype: Precision to solve in; the file is float32. Meshes and particles use float64.
        force: Replace a file of that name that was not made so. Without it, such a file, which may
            be a published original, is left alone, and one that was made so is returned as it is.
        batch_size: Trajectories solved at once, and lost at most by each process when it is
            killed; by default what 128 MiB of output hold, on a processor at most 128. Meshes
            and particles: always one.
        workers: Processes. None takes one for short work, else one for each core, at most 8; on
            a GPU it is always one. A script that is not guarded by `__name__ == "__main__"`
            needs workers=1.
        progress: Called with (trajectories done, all) after every batch, and once at the start
            where a killed run is continued.
    Returns:
        The file's path in `out_dir`.
    Raises:
        UsageError: A parameter, count, precision or device that cannot be used.
        DataError: A solution did not stay finite, the file could not be written, another file
            of its name is there, or another process is making it.
    """
    generator_of(card)
    request = checked_request(card, parameters, num_trajectories, seed, points, frames, dtype)
    return generate_request(
        card, request, out_dir=out_dir, device=device, batch_size=batch_size, workers=workers,
        force=force, progress=progress,
    )  # fmt: skip


def generate_request(
    card: DatasetCard,
    request: Request,
    *,
    out_dir: Path,
    device: str | torch.device = "cpu",
    batch_size: int | None = None,
    workers: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """As `generate`, of what was asked for before: `Request.read` of a generated file's record.

    The same version of ups, with the same libraries and batch size on the same kind of processor,
    makes the same file byte for byte.
    """
    check_positive(batch_size=batch_size, workers=workers)
    path = Path(out_dir) / raw_file_name(card, request.parameters)
    job = Job.of(card, request, checked_device(device), batch_size)
    pieces = Pieces.beside(path, job)
    if not force and _is_there(path, job) and not pieces.exist:
        return path
    with files.exclusive(pieces.folder, f"generating {card.key}"):
        if not force and _is_there(path, job):
            pieces.remove()  # of a run that was killed at its end
        else:
            with translated_os_errors(path, "writing"):
                make_file(job, path, pieces, workers, progress)
    return path


def raw_file_name(card: DatasetCard, parameters: Mapping[str, float]) -> str:
    """The name `generate` gives a file: the published one, where these parameters have one."""
    template = generator_of(card).file
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
    request = checked_request(card, parameters, num_trajectories, seed, points, frames, dtype)
    return _made_by(path) == (generator_label(card), request.to_json())


def _is_there(path: Path, job: Job) -> bool:
    """Whether the job's file is there; a file that is something else is not overwritten."""
    if not path.exists():
        return False
    if _made_by(path) == (generator_label(job.card), job.request.to_json()):
        return True
    raise DataError(
        f"{path}: is there already, and not what this command would make",
        hint="--out FOLDER to keep both, --force to replace it",
    )


def _made_by(path: Path) -> tuple[str, str] | None:
    """Maker and request of a generated file; None for any other."""
    found = how_made(path)
    if not found:
        return None
    return found["generator"], json.dumps(found["request"], sort_keys=True)
