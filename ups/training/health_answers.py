"""What a model answers on a few held-out trajectories: better than persistence, and to what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ups.evaluation.context import Context
from ups.evaluation.gates import Gate
from ups.evaluation.metrics import nrmse
from ups.evaluation.rollout import Horizon

Array = npt.NDArray[Any]
LEAST_RISE = 1.01
"""Error with other trajectories' parameters, over the error with their own."""
LEAST_SPREAD = 0.05
"""Spread of predictions over inputs, as a share of the truth's."""
ASKED = ("beats_persistence", "hears_parameters", "not_constant")
"""The gates of `ask`."""
_TRAJECTORIES = 8
_FRAMES = 8
_TINY = 1e-12


@dataclass(frozen=True)
class Outcome:
    """A gate, or why it could not be asked."""

    name: str
    gate: Gate | None = None
    skipped: str = ""
    content: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Answers:
    """Predictions for some trajectories beside the truth, one tensor (time, point, channel) each.

    Attributes:
        last: What persistence repeats, (1, point, channel) each.
    """

    fields: list[Tensor]
    truth: list[Tensor]
    last: list[Tensor]

    @property
    def error(self) -> float:
        """nRMSE, mean over trajectories, frames and fields."""
        return _error(self.fields, self.truth)

    @property
    def persistence(self) -> float:
        """nRMSE of the last given frame; of the training mean where the problem is steady."""
        return _error(self.last, self.truth)


def ask(context: Context) -> Iterator[Outcome]:
    """Roll out a few trajectories of the validation split, also with others' parameters."""
    members = context.some_of("valid", _TRAJECTORIES)
    found = answers(context, members, context.store.parameters[members])
    ratio = found.persistence / found.error if found.error else float("inf")
    gate = beats_persistence(ratio if np.isfinite(ratio) else None)
    yield Outcome(gate.name, gate)
    yield hears_parameters(context)
    yield not_constant(found.fields, found.truth)


def answers(
    context: Context, members: Array, parameters: Array, *, steps: int | None = None
) -> Answers:
    """Predictions, with these physical parameters instead of the trajectories' own."""
    horizon = context.horizon
    if steps is not None and not context.is_steady:
        horizon = replace(horizon, steps=min(horizon.steps, steps))
    coded, store = context.coded, context.store
    with torch.no_grad():
        tokens = _tokens(context, members, parameters, horizon)
        frames = list(range(coded.num_frames)[horizon.frames])
        fields = coded.decode(tokens, members, frames)
    truth = coded.reference(members, frames)
    if context.is_steady:
        mean = torch.from_numpy(store.statistics["mean"]).float()
        last = [mean.expand_as(one[:1]) for one in truth]
    else:
        last = coded.reference(members, [horizon.first])
    return Answers(_flat(fields), _flat(truth), _flat(last))


def _tokens(context: Context, members: Array, parameters: Array, horizon: Horizon) -> Tensor:
    surrogate, coded = context.surrogate, context.coded
    given = surrogate.given(torch.from_numpy(parameters), coded.context(members))
    if context.is_steady:
        return surrogate.solve(given)[:, None]
    first = max(0, horizon.history - surrogate.history)
    seen = range(first * horizon.stride, horizon.first + 1, horizon.stride)
    states = surrogate.roll(coded.encode(members, seen), given)
    return torch.stack(list(islice(states, horizon.steps)), 1)


def _flat(fields: list[Tensor]) -> list[Tensor]:
    return [one.flatten(1, -2).cpu() for one in fields]


def _error(prediction: list[Tensor], truth: list[Tensor]) -> float:
    errors = [
        nrmse(one.expand_as(true)[None], true[None]).mean()
        for one, true in zip(prediction, truth, strict=True)
    ]
    return float(torch.stack(errors).nan_to_num(nan=float("inf")).mean())


def beats_persistence(ratio: float | None) -> Gate:
    """Whether the model's error is the smaller one.

    Args:
        ratio: Persistence nRMSE / model nRMSE; None where the model's is not finite.
    """
    passed = ratio is not None and ratio > 1
    if ratio is None:
        detail = "the model's error is not finite"
    elif passed:
        detail = f"persistence is {ratio:.3g} times worse than the model"
    else:
        detail = f"the model is no better than persistence, whose error is {ratio:.3g} of its own"
    return Gate(
        name="beats_persistence", kind="health", passed=passed, detail=detail,
        value=ratio, limit=1.0,
    )  # fmt: skip


def hears_parameters(context: Context) -> Outcome:
    """Whether the error rises when trajectories are given the parameters of others."""
    name, store = "hears_parameters", context.store
    if not context.card.parameters:
        return Outcome(name, skipped="the dataset has no parameters")
    members = context.some_of("valid", 64 * _TRAJECTORIES)
    values = store.parameters[members]
    order = np.lexsort(values.T)
    if (values == values[0]).all():
        reason = f"version {store.metadata.version} has one value of each parameter"
        return Outcome(name, skipped=reason)
    members = members[order[np.linspace(0, len(order) - 1, _TRAJECTORIES).round().astype(int)]]
    own = store.parameters[members]
    others = np.roll(own, len(own) // 2, 0)
    right, wrong = (answers(context, members, p, steps=_FRAMES).error for p in (own, others))
    rise = wrong / right if right and np.isfinite(right) else float("nan")
    passed = bool(rise >= LEAST_RISE)
    what = "rises" if passed else "hardly rises, the model does not hear them:"
    detail = f"with other trajectories' parameters the error {what} {right:.3g} to {wrong:.3g}"
    gate = Gate(
        name=name, kind="health", passed=passed, detail=detail,
        value=rise if np.isfinite(rise) else None, limit=LEAST_RISE,
    )  # fmt: skip
    return Outcome(name, gate, content={"shuffled": {"own": right, "others": wrong}})


def not_constant(prediction: list[Tensor], truth: list[Tensor]) -> Outcome:
    """Whether predictions differ between inputs, field by field, as the truth does.

    Trajectories on nodes of their own are compared by their means over nodes.
    """
    name = "not_constant"
    if len(truth) < 2:
        return Outcome(name, skipped="one held-out trajectory only")
    if len({one.shape for one in truth}) > 1:
        prediction = [one.mean(1, keepdim=True) for one in prediction]
        truth = [one.mean(1, keepdim=True) for one in truth]
    ours, theirs = _spread(prediction), _spread(truth)
    heard = theirs > _TINY
    if not heard.any():
        return Outcome(name, skipped="the truth is the same for all inputs")
    share = float((ours[heard] / theirs[heard]).min())
    passed = share >= LEAST_SPREAD
    said = "differ" if passed else "hardly differ"
    detail = (
        f"predictions {said} between inputs: by {share:.1%} of what the truth does, in the field "
        f"where that is least; {LEAST_SPREAD:.0%} is asked"
    )
    value = share if np.isfinite(share) else None
    gate = Gate(
        name=name, kind="health", passed=passed, detail=detail, value=value, limit=LEAST_SPREAD
    )
    return Outcome(name, gate)


def _spread(fields: list[Tensor]) -> Tensor:
    """RMS deviation from the mean over trajectories, of each channel, in the first frames."""
    values = torch.stack([one[:_FRAMES] for one in fields]).double()
    deviation = values - values.mean(0)
    return deviation.square().mean((0, 1, 2)).sqrt()
