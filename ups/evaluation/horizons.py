"""Errors of a single step, and what becomes of a rollout beyond the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ups.evaluation.accumulator import MetricAccumulator
from ups.evaluation.context import Context
from ups.evaluation.report import Section

ONE_STEP_TRAJECTORIES, ONE_STEP_STARTS = 64, 16
LONG_TRAJECTORIES, LONG_FACTOR = 32, 3
_BLOWN_UP = 10.0


def one_step_section(context: Context) -> Section:
    """Errors of one step from true frames: no error has had time to grow.

    On at most 64 trajectories of the split, from at most 16 evenly spaced starts each.

    Content:
        num_trajectories, starts (stored frames), metrics (metric -> reduction -> value, over
        trajectories; the mean over starts inside each).
    """
    meta, horizon = context.store.metadata, context.horizon
    last = context.coded.num_frames - 1 - horizon.stride
    chosen = np.linspace(horizon.first, last, ONE_STEP_STARTS).round().astype(int)
    starts = sorted(set(chosen.tolist()))
    members = context.some_of(context.settings.split, ONE_STEP_TRAJECTORIES)
    frames = [(start, start + horizon.stride) for start in starts]
    sums = MetricAccumulator(
        dt=context.dt,
        extents=[high - low for low, high in meta.bounds],
        channels=meta.fields,
        ragged=not context.is_grid,
    )
    size = context.settings.batch_size
    for first in range(0, len(members), size):
        rows = members[first : first + size]
        predicted, true = zip(*(_stepped(context, rows, *pair) for pair in frames), strict=True)
        for trajectory in range(len(rows)):
            sums.update(
                torch.stack([one[trajectory] for one in predicted])[None],
                torch.stack([one[trajectory] for one in true])[None],
            )
    reduced = sums.result().reduced
    kept = {name: reduced[name] for name in ("nrmse", "rmse", "vrmse", "max_error")}
    content = {"num_trajectories": len(members), "starts": starts, "metrics": kept}
    return Section(name="one_step", content=content)


@torch.no_grad()
def _stepped(
    context: Context, rows: np.ndarray, start: int, end: int
) -> tuple[list[Tensor], list[Tensor]]:
    """One step from the true frames up to `start`, and the truth at `end`."""
    surrogate, coded, stride = context.surrogate, context.coded, context.horizon.stride
    history = min(surrogate.history, start // stride + 1)
    frames = range(start - (history - 1) * stride, start + 1, stride)
    parameters = torch.from_numpy(coded.store.parameters[rows])
    given = surrogate.given(parameters, coded.context(rows))
    tokens = next(surrogate.roll(coded.encode(rows, frames), given))
    decoded = coded.decode(tokens[:, None], rows, [end])
    return [one[0].cpu() for one in decoded], [one[0] for one in coded.reference(rows, [end])]


def long_rollout_section(context: Context) -> Section:
    """Rollouts three times as long as the data: does the model stay bounded, and alive?

    On at most 32 trajectories. There is no truth beyond the data, so that only sizes are judged:
    a rollout has blown up where the RMS of a field is not finite or above ten times the largest
    in the true trajectory.

    Content:
        num_trajectories, steps, times, stable_share (of trajectories that never blew up),
        stable_steps (mean number of steps before that), rms (field -> median over trajectories
        of the RMS at each step), correlation_time (mean, of the part with truth).
    """
    members = context.some_of(context.settings.split, LONG_TRAJECTORIES)
    steps = LONG_FACTOR * context.horizon.steps
    sizes, limits = [], []
    for row in np.array_split(members, max(1, len(members) // context.settings.batch_size)):
        found = _sizes(context, row, steps)
        sizes.append(found)
        frames = range(context.coded.num_frames)
        limits += [_rms(one).amax(0) for one in context.coded.reference(row, frames)]
    rms = torch.cat(sizes).double()
    limit = _BLOWN_UP * torch.stack(limits).double()[:, None]
    whole = (rms.isfinite() & (rms <= limit)).all(-1)
    alive = whole.long().cumprod(1).sum(1)
    content: dict[str, Any] = {
        "num_trajectories": len(members),
        "steps": steps,
        "times": (context.dt * np.arange(1, steps + 1)).tolist(),
        "stable_share": float((alive == steps).double().mean()),
        "stable_steps": float(alive.double().mean()),
        "rms": {
            name: rms[..., index].nan_to_num(nan=float("inf")).median(0).values.tolist()
            for index, name in enumerate(context.store.metadata.fields)
        },
    }
    return Section(name="long_rollout", content=content)


@torch.no_grad()
def _sizes(
    context: Context, rows: np.ndarray, steps: int
) -> Float[Tensor, "trajectory time channel"]:
    """RMS over space of every predicted field; decoded frame by frame to save memory."""
    surrogate, coded, horizon = context.surrogate, context.coded, context.horizon
    parameters = torch.from_numpy(coded.store.parameters[rows])
    given = surrogate.given(parameters, coded.context(rows))
    first = max(0, horizon.history - surrogate.history)
    history = coded.encode(rows, range(first * horizon.stride, horizon.first + 1, horizon.stride))
    last = [coded.num_frames - 1]  # where particles are known last
    found = []
    for _, tokens in zip(range(steps), surrogate.roll(history, given), strict=False):
        fields = coded.decode(tokens[:, None], rows, last)
        found.append(torch.stack([_rms(one)[0].cpu() for one in fields]))
    return torch.stack(found, 1)


def _rms(fields: Float[Tensor, "time *space channel"]) -> Float[Tensor, "time channel"]:
    return fields.double().square().flatten(1, -2).mean(1).sqrt()
