"""A stage's length and its phases, in optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ups.config.stages import OperatorStageConfig, Phase, TrainingConfig
from ups.data.reading.mixing import Rule
from ups.errors import ConfigError, did_you_mean
from ups.training.tasks import TaskMixture


@dataclass(frozen=True)
class Span:
    """A phase of a curriculum, from step `start` to before step `end`."""

    start: int
    end: int
    phase: Phase


def steps_of(config: TrainingConfig, samples: int) -> int:
    """Optimizer steps of a stage, whichever way its length is given.

    Args:
        samples: In one epoch.
    """
    if isinstance(config, OperatorStageConfig) and config.curriculum:
        return spans(config, samples)[-1].end
    return config.steps if config.epochs is None else config.epochs * _epoch(config, samples)


def spans(config: OperatorStageConfig, samples: int) -> tuple[Span, ...]:
    """The phases of a curriculum one after the other."""
    found, start = [], 0
    for phase in config.curriculum:
        length = phase.steps or (phase.epochs or 0) * _epoch(config, samples)
        found.append(Span(start, start + length, phase))
        start += length
    return tuple(found)


def _epoch(config: TrainingConfig, samples: int) -> int:
    return max(1, math.ceil(samples / config.batch_size))


class Curriculum:
    """Changes the mixture of tasks as training goes on.

    Args:
        rule: What `mixing` is where a phase does not say.
    """

    def __init__(self, mixture: TaskMixture, phases: Sequence[Span], rule: Rule) -> None:
        self.mixture, self.phases, self._default = mixture, tuple(phases), rule
        self._entered = -1
        for span in phases:
            for name in [*(span.phase.tasks or ()), *(span.phase.weights or ())]:
                if name not in mixture.names:
                    raise ConfigError(
                        f"curriculum: unknown task '{name}'{did_you_mean(name, mixture.names)}",
                        hint=f"tasks: {', '.join(mixture.names)}",
                    )

    def span_at(self, step: int) -> Span | None:
        """The phase of a step; the last one goes on for ever."""
        index = self._index(step)
        return None if index is None else self.phases[index]

    def enter(self, step: int) -> None:
        """Take up the weights of the phase of `step`, if it is not the one before."""
        index = self._index(step)
        if index is not None and index != self._entered:
            span = self.phases[index]
            self.mixture.renew(span.start, "custom", self._first_weights(span))
            self._entered = index

    def validated(self, step: int, nrmse: Mapping[str, float]) -> None:
        """Weigh the tasks anew from `step` on, where the rule asks for it."""
        span = self.span_at(step)
        if self._rule(span) != "inverse_nrmse":
            return
        names = self._names(span)
        weights = {n: 1 / max(nrmse[n], 1e-6) if n in names else 0.0 for n in self.mixture.names}
        if all(math.isfinite(weight) for weight in weights.values()) and any(weights.values()):
            self.mixture.renew(step, "custom", weights)

    def state_dict(self) -> dict[str, Any]:
        return {"mixture": self.mixture.state_dict(), "entered": self._entered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mixture.load_state_dict(state["mixture"])
        self._entered = state["entered"]

    def _index(self, step: int) -> int | None:
        found = (index for index, span in enumerate(self.phases) if step < span.end)
        return next(found, len(self.phases) - 1) if self.phases else None

    def _first_weights(self, span: Span) -> dict[str, float]:
        names, rule = self._names(span), self._rule(span)
        values = {name: 1.0 for name in names}
        if rule == "size":
            values = {t.name: float(len(t)) for t in self.mixture.tasks if t.name in names}
        elif rule == "custom":
            of_tasks = {task.name: task.data.config.weight for task in self.mixture.tasks}
            given = span.phase.weights or of_tasks
            values = {name: given.get(name, 0.0) for name in names}
        return {name: values.get(name, 0.0) for name in self.mixture.names}

    def _names(self, span: Span | None) -> tuple[str, ...]:
        return (span.phase.tasks if span else None) or self.mixture.names

    def _rule(self, span: Span | None) -> Rule:
        return (span.phase.mixing if span else None) or self._default
