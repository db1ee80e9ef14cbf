"""Ensembles of a residual model's draws, of several runs, or of both, trajectory by trajectory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from ups import runs
from ups.data.store import TrajectoryStore
from ups.errors import CheckpointError, UsageError
from ups.evaluation.context import Context
from ups.evaluation.rollout import clock, predicted_tokens
from ups.models.flow import seeded

Array = npt.NDArray[Any]
NO_RESIDUAL_HINT = "ups train --stage diff_residual"
_STREAM = 0x756E6365
_BLOCK = 2**24


@dataclass(frozen=True)
class Part:
    """Some consecutive predicted frames of one trajectory, on the device of the models.

    Shape:
        members: (member, time, *space, channel), physical units
        point, reference: (time, *space, channel)
    """

    members: Float[Tensor, "member time *space channel"]
    point: Float[Tensor, "time *space channel"]
    reference: Float[Tensor, "time *space channel"]


@dataclass
class Forecast:
    """One trajectory, all of its predicted frames in parts."""

    trajectory: int
    parts: list[Part] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Ensemble:
    """Runs that forecast together.

    Attributes:
        contexts: Whose report it is, first, then other runs on the same data and protocol.
        drawn: Members of each run, drawn by its residual model; 0 is each run's point forecast.
    """

    contexts: tuple[Context, ...]
    drawn: int
    seed: int

    @property
    def size(self) -> int:
        """Number of members."""
        return len(self.contexts) * max(self.drawn, 1)

    @property
    def source(self) -> str:
        """Where the differences between members come from, in words."""
        several = len(self.contexts) > 1
        parts = ["residual model"] * (self.drawn > 0) + ["seeds"] * several
        return " and ".join(parts)


def ensemble_of(
    context: Context, members: int, partners: Sequence[Context] = (), seed: int = 0
) -> Ensemble:
    """Check that runs can forecast together.

    Args:
        members: Drawn from each run; 0 takes the runs' point forecasts.

    Raises:
        CheckpointError: Members are to be drawn, and a run has no residual model.
        UsageError: Fewer than two members, another protocol or other data, or one run twice.
    """
    contexts = (context, *partners)
    for partner in partners:
        _check_partner(context, partner)
    paths = [one.checkpoint_path.resolve() for one in contexts]
    if len(set(paths)) < len(paths):
        raise UsageError("the same checkpoint twice is not an ensemble", hint="--with ANOTHER_RUN")
    if members < 0 or len(contexts) * max(members, 1) < 2:
        raise UsageError(
            f"an ensemble has at least 2 members, found {len(contexts) * max(members, 1)}",
            hint="--members 16, or --with ANOTHER_RUN",
        )
    if members:
        for one in contexts:
            check_draws(one)
    return Ensemble(contexts, members, seed)


def check_draws(context: Context) -> None:
    """Refuse runs that cannot draw from likely continuations.

    Raises:
        UsageError: The problem is steady.
        CheckpointError: There is no residual model.
    """
    name = runs.run_id(context.run)
    if context.is_steady:
        raise UsageError(
            f"{name}: a steady problem has no residual model to draw from",
            hint="compare runs of several seeds: ups eval --with RUN",
        )
    if context.surrogate.residual is None:
        raise CheckpointError(
            f"{name}: holds no residual model to draw from", hint=NO_RESIDUAL_HINT
        )


def _check_partner(context: Context, partner: Context) -> None:
    """Refuse other data and other protocols."""
    ours, theirs = context.protocol(), partner.protocol()
    name = runs.run_id(partner.run)
    if ours != theirs:
        differs = [key for key, value in ours.to_dict().items() if theirs.to_dict()[key] != value]
        raise UsageError(
            f"{name}: judged under another protocol than {runs.run_id(context.run)}: "
            f"{', '.join(differs)} differ",
            hint="an ensemble is of runs on the same version of a dataset, with the same split, "
            "history and horizon",
        )
    mine, other = context.identity, partner.identity
    if (mine.data_sha256, mine.split_hash) != (other.data_sha256, other.split_hash):
        raise UsageError(f"{name}: trained on other data than {runs.run_id(context.run)}")


@torch.no_grad()
def forecasts(ensemble: Ensemble, trajectories: Array) -> Iterator[Forecast]:
    """The ensemble's rollouts of the given trajectories, in their order.

    Draws depend on the seed, the run, the member and the first trajectory of a batch; a member's
    do not depend on how many others there are. Memory is bounded by one batch of tokens and, on
    grids and resting meshes, by some decoded frames of one trajectory.
    """
    first = ensemble.contexts[0]
    layout, steps = first.surrogate.layout, first.horizon.steps
    values = (ensemble.size + 1) * steps * layout.num_tokens * layout.latent_dim
    batch = min(first.settings.batch_size, max(1, 4 * _BLOCK // values))
    for start in range(0, len(trajectories), batch):
        rows = trajectories[start : start + batch]
        began = clock(first.device)
        point = predicted_tokens(first.surrogate, first.coded, rows, first.horizon)
        members = [_members(one, ensemble, rows, run) for run, one in enumerate(ensemble.contexts)]
        shared = (clock(first.device) - began) / len(rows)
        for index, row in enumerate(rows):
            found = Forecast(int(row))
            began = clock(first.device)
            found.parts.extend(
                _parts(ensemble, int(row), point[index], [tokens[:, index] for tokens in members])
            )
            found.seconds = shared + clock(first.device) - began
            yield found


def _members(
    context: Context, ensemble: Ensemble, rows: Array, run: int
) -> Float[Tensor, "member trajectory time tokens dim"]:
    """Tokens of one run's members."""
    generators: list[torch.Generator | None] = [None]
    if ensemble.drawn:
        places = range(ensemble.drawn)
        generators = [seeded(_STREAM, ensemble.seed, run, m, int(rows[0])) for m in places]
    return torch.stack(
        [
            predicted_tokens(context.surrogate, context.coded, rows, context.horizon, generator=one)
            for one in generators
        ]
    )


def _parts(
    ensemble: Ensemble,
    row: int,
    point: Float[Tensor, "time tokens dim"],
    members: list[Float[Tensor, "member time tokens dim"]],
) -> Iterator[Part]:
    """Decode one trajectory, as many frames at a time as fit into a block."""
    context = ensemble.contexts[0]
    coded, rows = context.coded, np.array([row])
    frames = range(coded.num_frames)[context.horizon.frames]
    together = len(frames)
    if isinstance(coded.store, TrajectoryStore) or not coded.store.moves(row):
        per_frame = coded.reference(rows, frames[:1])[0].numel() * ensemble.size
        together = max(1, _BLOCK // per_frame)
    for start in range(0, len(frames), together):
        chosen = slice(start, start + together)
        decoded = [
            torch.stack(
                one.coded.decode(tokens[:, chosen], rows.repeat(len(tokens)), frames[chosen])
            )
            for one, tokens in zip(ensemble.contexts, members, strict=True)
        ]
        yield Part(
            torch.cat(decoded),
            coded.decode(point[None, chosen], rows, frames[chosen])[0],
            coded.reference(rows, frames[chosen])[0].to(context.device),
        )
