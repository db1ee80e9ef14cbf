"""What physics says of predicted frames when nobody knows the truth.

Every penalty is a number that the card, the grid, the given state and the frames themselves
decide. No function here takes a reference; `fit_rewards`, which sets the units of the penalties,
sees the validation split and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ups.codec.coded import CodedGrid
from ups.errors import UsageError
from ups.evaluation.context import Context
from ups.evaluation.physics_grid import grid_of
from ups.evaluation.rollout import predicted_tokens
from ups.physics.measures import Measures
from ups.physics.norms import ROUNDING, mean_square, relative, root
from ups.physics.table import equation_of

Window = Float[Tensor, "batch time *space channel"]
SMOOTHNESS = "smoothness"
RESOLVED = 0.5
"""Largest residual of true frames, over the largest term, at which a residual says something."""
TRAJECTORIES, STARTS = 16, 8
"""Of the validation split, and windows of each, that set the units of the penalties."""


@dataclass(frozen=True)
class Problem:
    """What is given with one trajectory, beside its first frames.

    Shape:
        parameters: (1, parameter), physical
        inputs: (1, *space, input), or None
    """

    dt: float
    parameters: Float[Tensor, "1 parameter"]
    inputs: Float[Tensor, "1 *space input"] | None


@dataclass(frozen=True)
class Term:
    """The unit of one penalty.

    Attributes:
        level: Median over true windows of the validation split, through the codec: data are not
            asked to be better than they are.
        scale: What counts as one: the RMS excess of the model's own point forecasts above the
            level, or the level where that is more.
    """

    level: float
    scale: float


@dataclass(frozen=True)
class Rewards:
    """Penalties of a task on a grid, and their units.

    Attributes:
        left_out: Measures that hold and are not used -> why.
        terms: Frames of a window -> penalty -> its unit; empty before `fit_rewards`.
    """

    measures: Measures
    left_out: Mapping[str, str]
    terms: Mapping[int, Mapping[str, Term]]

    def penalties(
        self, given: Float[Tensor, "*space channel"], window: Window, problem: Problem
    ) -> dict[str, Float[Tensor, " batch"]]:
        """Dimensionless numbers for each sample, 0 is best.

        Args:
            given: The state that the rollout began with; conserved means are held against it.
            window: Consecutive frames of the model's own rollouts, physical units.
        """
        number = len(window)
        inputs = problem.inputs
        functions = self.measures.functions(
            dt=torch.full((number,), problem.dt, device=window.device),
            parameters=problem.parameters.to(window.device).expand(number, -1),
            inputs=None if inputs is None else inputs.expand(number, *inputs.shape[1:]),
        )
        found = {
            name: measure(
                torch.cat([given.expand(number, 1, *given.shape), window], 1)
                if name == "conservation" else window
            )
            for name, measure in functions.items()
            if name not in self.left_out
        }  # fmt: skip
        return found | {SMOOTHNESS: roughness(window)}

    def score(
        self, given: Float[Tensor, "*space channel"], window: Window, problem: Problem
    ) -> Float[Tensor, " batch"]:
        """Sum over penalties of their excess over the level, in their units; the lower the better.

        Frames that are not finite are infinitely bad.
        """
        terms = self.terms[window.shape[1]]
        found = self.penalties(given, window, problem)
        total = torch.stack(
            [(found[name] - term.level).clamp_min(0) / term.scale for name, term in terms.items()]
        ).sum(0)
        return total.nan_to_num(nan=float("inf"), posinf=float("inf"))


def roughness(window: Window) -> Float[Tensor, " batch"]:
    """RMS of second differences over RMS of first differences along space; RMS over fields, axes.

    2 for a zigzag from point to point, near 0 where the grid resolves everything.
    """
    squares = []
    for field in window.unbind(-1):
        for axis in range(2, field.ndim):
            slope = field.diff(dim=axis)
            size = mean_square(slope) + ROUNDING**2 * mean_square(field)
            squares.append(relative(mean_square(slope.diff(dim=axis)), size).square())
    return root(torch.stack(squares).mean(0))


def rewards_for(context: Context) -> Rewards:
    """The penalties that hold for a task, without units.

    Raises:
        UsageError: The task is not on a grid, or is steady.
    """
    if not isinstance(context.coded, CodedGrid):
        raise UsageError(
            f"{context.task}: rewards are derivatives on a grid, and this is "
            f"'{context.card.discretisation.kind}'"
        )
    if context.is_steady:
        raise UsageError(f"{context.task}: a steady problem has no rollout to search")
    grid = grid_of(context.coded.store)
    equation = equation_of(context.card)
    left_out = {}
    if equation is not None and equation.caveat:
        left_out["pde_residual"] = equation.caveat
    return Rewards(Measures(context.card, grid), left_out, {})


def problem_of(context: Context, row: int) -> Problem:
    """What is given with one trajectory."""
    store = context.coded.store
    parameters = torch.from_numpy(store.parameters[[row]])
    inputs = None
    if isinstance(context.coded, CodedGrid) and context.coded.store.inputs is not None:
        inputs = torch.from_numpy(context.coded.store.inputs[[row]]).to(context.device)
    return Problem(context.dt, parameters, inputs)


@torch.no_grad()
def fit_rewards(validation: Context, lengths: tuple[int, ...]) -> Rewards:
    """The penalties with their units, from the validation split.

    Args:
        validation: Of `validation_of`.
        lengths: Frames of the windows that will be scored.
    """
    rewards = rewards_for(validation)
    found: dict[int, dict[str, tuple[list[float], list[float]]]] = {n: {} for n in lengths}
    for row in validation.some_of("valid", TRAJECTORIES).tolist():
        true, predicted = _frames(validation, row)
        problem = problem_of(validation, row)
        for length in lengths:
            penalties = partial(rewards.penalties, true[0], problem=problem)
            for place, frames in enumerate((true, predicted)):
                for name, values in penalties(_windows(frames, length)).items():
                    pair = found[length].setdefault(name, ([], []))
                    pair[place].extend(values.double().tolist())
    terms = {
        length: {name: _term(*pair) for name, pair in of_one.items()}
        for length, of_one in found.items()
    }
    coarse = any(of_one["pde_residual"].level > RESOLVED for of_one in terms.values()
                 if "pde_residual" in of_one)  # fmt: skip
    if not coarse:
        return replace(rewards, terms=terms)
    left_out = {**rewards.left_out, "pde_residual": "frames are too far apart to test it"}
    kept = {
        length: {name: term for name, term in of_one.items() if name not in left_out}
        for length, of_one in terms.items()
    }
    return replace(rewards, left_out=left_out, terms=kept)


def _term(true: list[float], predicted: list[float]) -> Term:
    level = float(np.median(true))
    excess = np.array([value for value in predicted if np.isfinite(value)]) - level
    above = float(np.sqrt(np.square(excess.clip(0)).mean())) if len(excess) else 0.0
    return Term(level, max(above, level, ROUNDING))


def _frames(context: Context, row: int) -> tuple[Tensor, Tensor]:
    """True frames through the codec and predicted ones, the last given one first in both."""
    coded, horizon, rows = context.coded, context.horizon, np.array([row])
    stop = horizon.frames.stop
    true = coded.encode(rows, range(horizon.first, stop, horizon.stride))
    rolled = predicted_tokens(context.surrogate, coded, rows, horizon)
    frames = range(horizon.first, stop, horizon.stride)
    both = (true, torch.cat([true[:, :1], rolled], 1))
    one, two = (coded.decode(tokens, rows, frames)[0] for tokens in both)
    return one, two


def _windows(
    frames: Float[Tensor, "frame *space channel"], length: int
) -> Float[Tensor, "window time *space channel"]:
    """Some windows of consecutive frames, evenly spaced; shorter where there are too few."""
    last = max(len(frames) - length, 0)
    starts = sorted(set(np.linspace(0, last, STARTS).round().astype(int).tolist()))
    return torch.stack([frames[start : start + length] for start in starts])
