"""What a search by physics rewards gains over the plain rollout, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from ups.evaluation.accumulator import MetricAccumulator, Metrics
from ups.evaluation.calibration import validation_of
from ups.evaluation.context import Context
from ups.evaluation.forecasts import check_draws
from ups.evaluation.intervals import paired_difference
from ups.evaluation.report import Row, Section
from ups.evaluation.rewards import Rewards, fit_rewards, problem_of, rewards_for
from ups.evaluation.search import SEEN, Found, Plan, Search, plain_cost
from ups.models.flow import seeded

Array = npt.NDArray[Any]
TRAJECTORIES = 64
"""Of the judged split, at most, evenly spaced: a search costs many rollouts."""
_STREAM = 0x74746331


def ttc_section(
    context: Context,
    *,
    candidates: int = 8,
    beam: int = 2,
    look_ahead: int = 1,
    budget: int | None = None,
    patience: int = 0,
    seed: int = 0,
    limit: int = TRAJECTORIES,
    progress: Callable[[int, int], None] | None = None,
) -> Section:
    """Spend more compute on a rollout: draw, score by physics, keep the best.

    Penalties are in units that the validation split sets (`ups.evaluation.rewards`); the judged
    split's truth is read only after the search of a trajectory has ended, to tell how good the
    outcome is. Where all trajectories are searched the outcome is a row of the report too.

    Args:
        candidates, beam, look_ahead, budget, patience: See `ups.evaluation.search.Plan`.
        limit: Trajectories at most.
        progress: Called with (trajectories done, trajectories in all).

    Content:
        plan, seed, trajectories (rows of the store), terms (penalty -> level, scale), left_out
        (penalty -> why); nrmse (plain and chosen -> reduction -> value); per_step (plain and
        chosen, nRMSE); gain (absolute: plain - chosen, with low and high of its 95 % paired
        bootstrap interval; relative: absolute over plain); evaluations of networks for one
        trajectory (plain, used, multiple: used over plain); gain_per_compute: relative gain over
        (multiple - 1); changed: share of steps that took another candidate than the point
        forecast; stopped (reason -> trajectories); choices (trajectory, step); scores.

    Raises:
        CheckpointError: The run has no residual model.
        UsageError: Not a rollout on a grid, or a number out of range.
    """
    plan = Plan(candidates, beam, look_ahead, budget, patience)
    check_draws(context)
    rewards_for(context)  # refuses what is not on a grid before any work
    rewards = fit_rewards(validation_of(context), window_lengths(context, plan))
    rows = context.some_of(context.settings.split, limit)
    found: list[Found] = []
    names = ("plain", "chosen")
    sums = {name: _accumulator(context) for name in names}
    rollouts = searched(context, rows, rewards, plan, seed)
    for one, row in zip(rollouts, rows.tolist(), strict=True):
        found.append(one)
        plain = next(context.predict(np.array([row]), batch_size=1))
        sums["plain"].update(plain.prediction, plain.reference)
        sums["chosen"].update(decoded(context, row, one.tokens)[None].cpu(), plain.reference)
        if progress:
            progress(len(found), len(rows))
    metrics = {name: sums[name].result() for name in names}
    content = {
        "plan": asdict(plan),
        "seed": seed,
        "trajectories": rows.tolist(),
        "terms": _terms(rewards),
        "left_out": dict(rewards.left_out),
        "nrmse": {name: metrics[name].reduced["nrmse"] for name in names},
        "per_step": {name: metrics[name].per_step["nrmse"].tolist() for name in names},
        **_gains(metrics["plain"], metrics["chosen"], found, context),
    }
    return Section(name="ttc", content=content, rows=_rows(context, metrics["chosen"], plan))


def searched(
    context: Context, rows: Array, rewards: Rewards, plan: Plan, seed: int
) -> Iterator[Found]:
    """Search the rollout of each trajectory from its given frames.

    The draws of a trajectory depend on the seed and on its row in the store alone.
    """
    surrogate, coded, horizon = context.surrogate, context.coded, context.horizon
    first = max(0, horizon.history - max(surrogate.history, SEEN))
    frames = range(first * horizon.stride, horizon.first + 1, horizon.stride)
    for row in rows.tolist():
        chosen = np.array([row])
        history = coded.encode(chosen, frames)
        given = surrogate.given(
            torch.from_numpy(coded.store.parameters[chosen]), coded.context(chosen)
        )
        start = decoded(context, row, history[0, -1:])[0]
        yield Search(
            surrogate,
            decode=partial(_decode, context, row),
            score=partial(rewards.score, start, problem=problem_of(context, row)),
            plan=plan,
            generator=seeded(_STREAM, seed, row),
        ).run(history, given, horizon.steps)


def window_lengths(context: Context, plan: Plan) -> tuple[int, ...]:
    """Frames of the windows that a search scores, at its first step and later."""
    given = min(context.horizon.history, SEEN)
    return tuple(range(given + 1 + plan.look_ahead, SEEN + 2 + plan.look_ahead))


def decoded(
    context: Context, row: int, tokens: Float[Tensor, "time tokens dim"]
) -> Float[Tensor, "time *space channel"]:
    """Fields of one trajectory, physical."""
    return _decode(context, row, tokens[None])[0]


def _decode(
    context: Context, row: int, tokens: Float[Tensor, "batch time tokens dim"]
) -> Float[Tensor, "batch time *space channel"]:
    """On a grid fields do not depend on which frames they are."""
    rows = np.full(len(tokens), row)
    return torch.stack(context.coded.decode(tokens, rows, range(tokens.shape[1])))


def _accumulator(context: Context) -> MetricAccumulator:
    meta = context.store.metadata
    extents = [high - low for low, high in meta.bounds]
    return MetricAccumulator(dt=context.dt, extents=extents, channels=meta.fields)


def _terms(rewards: Rewards) -> dict[str, dict[str, float]]:
    """Of the windows of all steps but the first."""
    return {name: asdict(term) for name, term in rewards.terms[max(rewards.terms)].items()}


def _gains(plain: Metrics, chosen: Metrics, found: list[Found], context: Context) -> dict[str, Any]:
    without, with_search = (one.per_trajectory["nrmse"].numpy() for one in (plain, chosen))
    absolute = plain.headline - chosen.headline
    interval = {}
    if len(without) > 1:
        _, low, high = paired_difference(without, with_search)
        interval = {"low": low, "high": high}
    relative = absolute / plain.headline if plain.headline else 0.0
    base = context.horizon.steps * plain_cost(context.surrogate)
    used = float(np.mean([one.evaluations for one in found]))
    extra = used / base - 1
    choices = [list(one.choices) for one in found]
    return {
        "gain": {"absolute": absolute, "relative": relative, **interval},
        "evaluations": {"plain": base, "used": used, "multiple": used / base},
        "gain_per_compute": relative / extra if extra > 0 else None,
        "changed": float(np.mean(np.array(choices) > 0)),
        "stopped": dict(Counter(one.stopped for one in found)),
        "choices": choices,
        "scores": [one.score for one in found],
    }


def _rows(context: Context, chosen: Metrics, plan: Plan) -> tuple[Row, ...]:
    """A row beside the others' only where it is of the same trajectories."""
    if chosen.num_trajectories < len(context.members):
        return ()
    name = f"test-time search ({plan.candidates} candidates, beam {plan.beam})"
    return (Row.of(name, "model", chosen.to_dict()),)
