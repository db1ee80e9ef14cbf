"""From a start to a forecast: step, decode where it is asked for, keep in physical units."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ups import checkpoint as checkpoints
from ups import files, runs
from ups.codec.coded import carried
from ups.codec.points import PointCodec
from ups.config.stages import StageName
from ups.data.splits import SPLITS
from ups.errors import UsageError, did_you_mean
from ups.evaluation.context import Context, open_context
from ups.evaluation.inference.arrays import read_arrays
from ups.evaluation.inference.places import Places, chosen_places, fields_at
from ups.evaluation.inference.starts import Start, own_start, stored_start
from ups.evaluation.metrics import nrmse
from ups.models.flow import seeded
from ups.models.layout import Given
from ups.models.surrogate import Surrogate
from ups.registry import DatasetCard, load_card

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Stored:
    """A trajectory of the data that a run was trained on.

    Attributes:
        number: Row of the store; with `split`, place in that split.
    """

    number: int
    split: str | None = None


@dataclass(frozen=True, eq=False)
class Forecast:
    """Predicted fields with everything that is needed to read them.

    Attributes:
        fields: (time, *space, channel) float32, physical; of an ensemble (member, time, ...).
        times: Of each frame, from the last given one; empty for a steady problem.
        positions: Of nodes that move, (time, node, axis); with members in front.
        start: What was given, in words.
        error: nRMSE of all frames for which there is stored truth, and how many these are.
        inside: Which places are inside of the mesh, (*space); fields are NaN elsewhere. None where
            all are.
    """

    fields: Array
    times: Array
    places: Places
    positions: Array | None
    card: DatasetCard
    parameters: dict[str, float]
    start: str
    run: str
    stage: str
    checkpoint_sha256: str
    version: str
    dt: float | None
    is_ensemble: bool
    seconds: float
    error: tuple[float, int] | None = None
    inside: npt.NDArray[np.bool_] | None = None

    @property
    def num_frames(self) -> int:
        return int(self.fields.shape[1 if self.is_ensemble else 0])

    @property
    def finite_frames(self) -> int:
        """Frames before the first one that holds NaN or infinity."""
        frames = self.fields if self.is_ensemble else self.fields[None]
        if self.inside is not None:
            frames = frames[:, :, self.inside]
        whole = np.isfinite(frames.reshape(*frames.shape[:2], -1)).all((0, 2))
        return int(whole.cumprod().sum())


def infer(
    run: Path,
    source: Path | Stored,
    *,
    horizon: int | None = None,
    points: str | None = None,
    parameters: Mapping[str, float] | None = None,
    task: str | None = None,
    stage: StageName | None = None,
    members: int | None = None,
    seed: int = 0,
    extrapolate: bool = False,
    device: torch.device | str = "cpu",
) -> Forecast:
    """Predict from a state of the user's own, or from a stored trajectory.

    Args:
        source: A file (see `ups.evaluation.inference.arrays`): fields in the card's units, on the
            run's grid or, with coordinates, on another one of the same domain; nodes with
            coordinates and cells of any mesh. Several frames are a history, the present one last.
        horizon: Frames to predict; None is to the end of a stored trajectory.
        points: Where fields are asked for: `grid:64x64`, or a file of points or of a mesh; None is
            where they were given.
        parameters: PDE parameters by name, before those of the source.
        members: Draw so many forecasts, where the run has a residual model.
        extrapolate: Accept parameters and values beyond those trained on.
    Raises:
        UsageError: No such trajectory, no horizon, wrong parameters, or no members to draw.
        DataError: The file does not hold what the run needs.
    """
    found = _opened(run, source, task, stage, device, extrapolate)
    surrogate, start = found.surrogate, found.start
    known = {**start.parameters, **(parameters or {})}
    row = _parameter_row(surrogate, known, extrapolate)
    steps = _steps(surrogate, source, horizon, found.context)
    _check_members(surrogate, members)
    places = start.places if points is None else chosen_places(
        points, surrogate.codec, [axis.name for axis in found.card.discretisation.axes]
    )  # fmt: skip
    began = time.perf_counter()
    fields, positions = _predicted(
        surrogate, start, row, steps, places, found.card, members, seed, moves=points is None
    )
    seconds = time.perf_counter() - began
    inside = None if points is None else start.inside(places)
    if inside is not None:
        inside = inside.reshape(places.shape)
        fields[:, :, ~inside] = np.nan
    error = None
    if found.context is not None and points is None and parameters is None and members is None:
        error = _error(found.context, found.row, fields[0])
    single, dt = members is None, surrogate.dt
    if single:
        fields, positions = fields[0], None if positions is None else positions[0]
    return Forecast(
        fields=fields,
        times=np.array([]) if dt is None else dt * np.arange(1, steps + 1),
        places=places,
        positions=positions,
        parameters=known,
        dt=dt,
        is_ensemble=not single,
        seconds=seconds,
        error=error,
        inside=inside,
        **found.about(run),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Opened:
    """A run with what it is to start from; `context` and `row` of a stored trajectory."""

    path: Path
    stage: str
    version: str
    surrogate: Surrogate
    card: DatasetCard
    start: Start
    context: Context | None = None
    row: int = 0

    def about(self, run: Path) -> dict[str, Any]:
        """What a forecast says of its making."""
        return {
            "card": self.card, "start": self.start.text, "run": runs.run_id(run),
            "stage": self.stage, "checkpoint_sha256": files.sha256_file(self.path),
            "version": self.version,
        }  # fmt: skip


def _opened(
    run: Path,
    source: Path | Stored,
    task: str | None,
    stage: StageName | None,
    device: torch.device | str,
    extrapolate: bool,
) -> _Opened:
    if isinstance(source, Stored):
        context = open_context(run, task=task, stage=stage, device=device)
        row = _row_of(source, context)
        return _Opened(
            context.checkpoint_path, context.checkpoint.stage, context.identity.version,
            context.surrogate, context.card, stored_start(context, row), context, row,
        )  # fmt: skip
    arrays = read_arrays(source)
    path = runs.checkpoint_path(run, stage or checkpoints.last_stage(run))
    found = checkpoints.load(path, device)
    name = found.task_name(task)
    surrogate, card = found.surrogate(name).to(device), load_card(found.tasks[name].dataset)
    start = own_start(
        arrays, surrogate.codec, card, steady=surrogate.is_steady, extrapolate=extrapolate
    )
    return _Opened(path, found.stage, found.tasks[name].version, surrogate, card, start)


def _row_of(source: Stored, context: Context) -> int:
    store = context.store
    if source.split is not None and source.split not in SPLITS:
        raise UsageError(f"--split {source.split}: unknown{did_you_mean(source.split, SPLITS)}")
    rows = range(store.num_trajectories) if source.split is None else store.split(source.split)
    if not 0 <= source.number < len(rows):
        where = store.name if source.split is None else f"{store.name}: split {source.split}"
        raise UsageError(
            f"{where}: no trajectory {source.number}", hint=f"choose 0 to {len(rows) - 1}"
        )
    return int(rows[source.number])


def _steps(
    surrogate: Surrogate, source: Path | Stored, horizon: int | None, context: Context | None
) -> int:
    if surrogate.is_steady:
        if horizon not in (None, 1):
            raise UsageError(f"--horizon {horizon}: a steady problem has one solution")
        return 1
    if horizon is None and context is None:
        raise UsageError(
            f"{source}: say how many frames to predict, each {surrogate.dt:g} after the one before",
            hint="--horizon N",
        )
    return horizon or (context.horizon.steps if context else 1)


def _parameter_row(surrogate: Surrogate, values: Mapping[str, float], extrapolate: bool) -> Tensor:
    row = surrogate.parameter_row(values)
    if extrapolate:
        return row
    for card in surrogate.cards:
        low, high = card.range
        room = 1e-6 * (high - low)
        if not low - room <= values[card.name] <= high + room:
            raise UsageError(
                f"{card.name} = {values[card.name]:g}: the model knows {low:g} to {high:g}",
                hint="--extrapolate predicts all the same",
            )
    return row


def _check_members(surrogate: Surrogate, members: int | None) -> None:
    draws = surrogate.prior is not None if surrogate.is_steady else surrogate.residual is not None
    if members is not None and not draws:
        raise UsageError(
            "--members: this stage gives one forecast only",
            hint="train a residual model: ups train --stage diff_residual",
        )


@torch.no_grad()
def _predicted(
    surrogate: Surrogate,
    start: Start,
    row: Tensor,
    steps: int,
    places: Places,
    card: DatasetCard,
    members: int | None,
    seed: int,
    *,
    moves: bool,
) -> tuple[Array, Array | None]:
    """Fields (member, time, *space, channel), and positions where nodes move with them."""
    number = members or 1
    given = surrogate.given(row, start.context).repeated(number)
    generator = None if members is None else seeded(seed)
    states = _states(surrogate, start, given, steps, generator)
    if not (moves and start.moving is not None):
        frames = [fields_at(surrogate.codec, tokens, places).cpu() for tokens in states]
        return torch.stack(frames, 1).numpy(), None
    codec = surrogate.codec
    assert isinstance(codec, PointCodec)
    velocity = [card.field_names.index(name) for name in card.discretisation.velocity]
    every = torch.stack(list(states), 1)
    parts = [
        carried(codec, tokens, *start.moving, velocity, surrogate.dt or 1.0) for tokens in every
    ]
    positions, fields = (torch.stack(each).cpu().numpy() for each in zip(*parts, strict=True))
    return fields, positions


def _states(
    surrogate: Surrogate,
    start: Start,
    given: Given,
    steps: int,
    generator: torch.Generator | None,
) -> Iterator[Tensor]:
    """Tokens of every predicted frame, (member, tokens, dim)."""
    if start.tokens is None:
        yield surrogate.solve(given, generator=generator)
        return
    history = start.tokens.expand(len(given), -1, -1, -1)
    rolled = surrogate.roll(history, given, generator=generator)
    yield from (tokens for _, tokens in zip(range(steps), rolled, strict=False))


def _error(context: Context, row: int, fields: Array) -> tuple[float, int] | None:
    """nRMSE over the predicted frames for which there is truth."""
    horizon, last = context.horizon, context.coded.num_frames - 1
    first = horizon.first + horizon.stride if horizon.history else 0
    frames = [first + horizon.stride * index for index in range(len(fields))]
    known = [frame for frame in frames if frame <= last]
    if not known:
        return None
    truth = context.coded.reference(np.array([row]), known)[0]
    found = nrmse(torch.from_numpy(fields[: len(known)])[None], truth[None])
    return float(found.mean()), len(known)
