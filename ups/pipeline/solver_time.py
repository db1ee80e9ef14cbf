"""What the generator of a dataset takes here, and when a trained model has paid for itself."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path

import torch

from ups.data.generate import generate
from ups.data.store import TrajectoryStore
from ups.training.session import TaskData

_FEW, _MANY, _LONG_SECONDS = 2, 32, 2.0


def generator_seconds(task: TaskData, device: torch.device | str = "cpu") -> float | None:
    """Wall seconds that the card's generator takes for one trajectory like those of a task.

    With the points and frames of the raw data, parameters of the first trajectory, one process, in
    batches; writing the file included. A solver of few milliseconds is timed on 32 trajectories, a
    longer one on 2.

    Returns:
        None where the card has no built-in generator.
    """
    card = task.card
    if card.generator is None:
        return None
    known = zip(task.store.metadata.parameters, task.store.parameters[0].tolist(), strict=True)
    parameters = {name: float(value) for name, value in known if name in card.parameter_names}
    on_grid = isinstance(task.store, TrajectoryStore)
    points, frames = _size(task)

    def seconds(number: int) -> float:
        with tempfile.TemporaryDirectory(prefix="ups-solver-") as folder:
            began = time.perf_counter()
            generate(
                card, parameters=parameters, num_trajectories=number, seed=0,
                out_dir=Path(folder), points=points, frames=frames, workers=1,
                device=device if on_grid else "cpu",
            )  # fmt: skip
            return time.perf_counter() - began

    few = seconds(_FEW)
    return few / _FEW if few > _LONG_SECONDS else seconds(_MANY) / _MANY


def _size(task: TaskData) -> tuple[int | None, int | None]:
    """Points of each axis and frames of the raw data; None is what the card says."""
    store, meta = task.store, task.store.metadata
    frames = None if meta.dt is None else (store.num_frames - 1) * meta.stride_t + 1
    if not isinstance(store, TrajectoryStore) or len(set(store.space)) > 1:
        return None, frames
    return store.space[0] * meta.stride_x, frames


def break_even(
    train_seconds: float, infer_seconds: float | None, solver_seconds: float | None
) -> int | None:
    """Solves from which on training and inference together take less time than the solver.

    Returns:
        None where it never comes: inference takes as long as the solver, or one of both is
        unknown.
    """
    if infer_seconds is None or solver_seconds is None or infer_seconds >= solver_seconds:
        return None
    return math.floor(train_seconds / (solver_seconds - infer_seconds)) + 1
