"""Rollouts that draw several continuations, let physics judge them, and keep the best few.

Nothing here can see the truth: the search is handed the tokens of the given frames, what is given
with the problem, a decoder and a score of decoded frames. There is no argument through which a
later frame could come in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ups.errors import UsageError
from ups.models.flow_map import FlowMap
from ups.models.layout import Given
from ups.models.surrogate import Surrogate, padded_history

Reason = Literal["end", "budget", "patience"]

SEEN = 2
"""Frames before a candidate that its score looks at."""

Decode = Callable[[Float[Tensor, "batch time tokens dim"]], Float[Tensor, "batch time *rest"]]
Score = Callable[[Float[Tensor, "batch time *rest"]], Float[Tensor, " batch"]]
"""Consecutive frames, physical units -> a number for each sample, the lower the better."""


@dataclass(frozen=True)
class Plan:
    """How much to search.

    Attributes:
        candidates: Continuations of each kept rollout at each step: the point forecast, and draws
            of the residual model.
        beam: Rollouts kept.
        look_ahead: Steps of the point forecast beyond a candidate that are scored with it.
        budget: Evaluations of a network for one trajectory, operator and residual model alike;
            None is no limit. The search ends in time to finish the rollout.
        patience: The search ends when the point forecast was the best candidate so many steps in
            a row; 0 never.

    Raises:
        UsageError: A number is out of range.
    """

    candidates: int = 8
    beam: int = 2
    look_ahead: int = 1
    budget: int | None = None
    patience: int = 0

    def __post_init__(self) -> None:
        least = {"candidates": 2, "beam": 1, "look_ahead": 0, "budget": 1, "patience": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least {low}")


@dataclass(frozen=True)
class Found:
    """A rollout of one trajectory that a search has chosen.

    Attributes:
        choices: Candidate taken at each step; 0 is the point forecast.
        score: Sum over the searched steps.
        evaluations: Of networks, used.
        stopped: Why the search ended: 'end' of the rollout, 'budget' or 'patience'.
    """

    tokens: Float[Tensor, "time tokens dim"]
    choices: tuple[int, ...]
    score: float
    evaluations: int
    stopped: Reason


@dataclass
class _Beam:
    """Kept rollouts, the best first.

    Shape:
        past: (path, history, tokens, dim); seen: (path, at most SEEN, *rest), decoded
        score: (path,)
    """

    past: Tensor
    seen: Tensor
    score: Tensor
    trails: list[list[Tensor]] = field(default_factory=lambda: [[]])
    choices: list[list[int]] = field(default_factory=lambda: [[]])

    def __len__(self) -> int:
        return len(self.trails)


@dataclass
class Search:
    """Beam search over draws of a residual model.

    Args:
        surrogate: With a residual model.
        decode: Tokens to physical fields.
        score: Of consecutive decoded frames; see `ups.evaluation.rewards`.
        generator: Of the draws; two searches of a trajectory from the same state of the generator
            are the same.
    """

    surrogate: Surrogate
    decode: Decode
    score: Score
    plan: Plan
    generator: torch.Generator

    @torch.no_grad()
    def run(self, history: Float[Tensor, "1 frame tokens dim"], given: Given, steps: int) -> Found:
        """Roll one trajectory forward.

        Args:
            history: Given frames, the present one last.

        Raises:
            UsageError: The budget does not suffice for the rollout without a search.
        """
        plain, plan = plain_cost(self.surrogate), self.plan
        if plan.budget is not None and plan.budget < steps * plain:
            raise UsageError(
                f"--budget {plan.budget}: the rollout alone takes {steps * plain} evaluations"
            )
        seen = self.decode(history[:, -SEEN:])
        beam = _Beam(
            padded_history(history, self.surrogate.history), seen, torch.zeros(1).to(seen.device)
        )
        stopped: Reason = "end"
        used = same = 0
        for step in range(steps):
            cost = self.step_cost(len(beam))
            if plan.budget is not None and used + cost + (steps - step - 1) * plain > plan.budget:
                stopped = "budget"
                break
            beam = self._extended(beam, given)
            used += cost
            same = same + 1 if beam.choices[0][-1] == 0 else 0
            if plan.patience and same >= plan.patience and step < steps - 1:
                stopped = "patience"
                break
        return self._finished(beam, given, steps, used, stopped)

    def step_cost(self, paths: int) -> int:
        """Evaluations of one step of the search."""
        plain, plan = plain_cost(self.surrogate), self.plan
        draws = (plan.candidates - 1) * draw_cost(self.surrogate)
        return paths * (plain + draws + plan.candidates * plan.look_ahead * plain)

    def _extended(self, beam: _Beam, given: Given) -> _Beam:
        """Every kept rollout by one step, and the best of what comes out."""
        number, plan = self.plan.candidates, self.plan
        tokens = self._candidates(beam.past, given)
        past = _shifted(beam.past.repeat_interleave(number, 0), tokens)
        ahead, later = [tokens], past
        for _ in range(plan.look_ahead):
            ahead.append(self._plain(later, given.repeated(len(later))))
            later = _shifted(later, ahead[-1])
        fields = self.decode(torch.stack(ahead, 1))
        window = torch.cat([beam.seen.repeat_interleave(number, 0), fields], 1)
        score = beam.score.repeat_interleave(number) + self.score(window)
        kept = score.argsort(stable=True)[: plan.beam]
        seen = torch.cat([beam.seen.repeat_interleave(number, 0), fields[:, :1]], 1)[:, -SEEN:]
        pairs = [divmod(place, number) for place in kept.tolist()]
        return _Beam(
            past[kept],
            seen[kept],
            score[kept],
            [[*beam.trails[path], past[path * number + c, -1]] for path, c in pairs],
            [[*beam.choices[path], c] for path, c in pairs],
        )

    def _candidates(self, past: Tensor, given: Given) -> Float[Tensor, "both tokens dim"]:
        """The point forecast of each rollout, then its draws."""
        surrogate, draws = self.surrogate, self.plan.candidates - 1
        here = given.repeated(len(past))
        predicted = surrogate.operator(past, here, surrogate.task)
        point = predicted + surrogate.residual.correction(
            predicted, past[:, -1], here, surrogate.task
        )
        many = predicted.repeat_interleave(draws, 0)
        drawn = many + surrogate.residual.correction(
            many, past[:, -1].repeat_interleave(draws, 0), here.repeated(draws), surrogate.task,
            self.generator,
        )  # fmt: skip
        return torch.cat([point[:, None], drawn.unflatten(0, (-1, draws))], 1).flatten(0, 1)

    def _plain(self, past: Tensor, given: Given) -> Tensor:
        """One step of the point forecast."""
        return next(self.surrogate.roll(past, given))

    def _finished(self, beam: _Beam, given: Given, steps: int, used: int, stopped: Reason) -> Found:
        """The best rollout, its rest without a search."""
        trail, choices = list(beam.trails[0]), list(beam.choices[0])
        missing = steps - len(trail)
        states = zip(range(missing), self.surrogate.roll(beam.past[:1], given), strict=False)
        trail += [tokens[0] for _, tokens in states]
        return Found(
            torch.stack(trail),
            (*choices, *(0,) * missing),
            beam.score[0].item(),
            used + missing * plain_cost(self.surrogate),
            stopped,
        )


def _shifted(past: Tensor, tokens: Tensor) -> Tensor:
    return torch.cat([past[:, 1:], tokens[:, None]], 1)


def plain_cost(surrogate: Surrogate) -> int:
    """Evaluations of a network for one step of the point forecast."""
    return 1 + bool(surrogate.residual.port(surrogate.task).gain.item())


def draw_cost(surrogate: Surrogate) -> int:
    """Evaluations of the residual model for one draw."""
    residual = surrogate.residual
    steps = residual.config.sampling_steps
    if not isinstance(residual, FlowMap) and steps > 1:
        steps = 2 * (steps // 2)  # Heun's method takes two for each interval
    return steps + (residual.port(surrogate.task).spread.item() != 1)
