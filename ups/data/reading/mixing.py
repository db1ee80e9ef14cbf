"""Several tasks in one training run: which one gives batch `step`, and which of its batches.

The share of each task is kept closely from the first steps on: step n takes the place of the n-th
point of van der Corput's sequence, shifted at random by the seed, in [0, 1), where each task holds
an interval as long as its weight. After n steps a task has had weight * n batches, give or take
about log2(n) / 3 + 1 of them, however small or uneven the weights. How many of the first n points
fall into an interval is known without going through them, in log2(n) operations: so a run resumes
at any step with the very batch that an uninterrupted one would have had.

Source:
    van der Corput 1935, Proc. Kon. Ned. Akad. Wet. 38, 813. Shift by exclusive or, which keeps
    every power-of-two block of points in distinct power-of-two intervals: L'Ecuyer and Lemieux
    2002, in Modeling Uncertainty, 419.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from ups.data.reading.batches import Empty, WindowBatch
from ups.data.reading.windows import Windows
from ups.errors import ConfigError, did_you_mean

Rule = Literal["uniform", "size", "custom", "inverse_nrmse"]
_BITS = 60
_WHOLE = 1 << _BITS
_STREAM = 0x6D6978


@runtime_checkable
class NamedTask(Protocol):
    """What weights are given by: a name, and the number of training windows as `len`."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...


AnyTask = TypeVar("AnyTask", bound=NamedTask)


def weights_by(
    rule: Rule,
    tasks: Sequence[NamedTask],
    values: Mapping[str, int | float] | None = None,
) -> tuple[float, ...]:
    """Shares of the tasks, adding up to 1.

    Args:
        rule: 'uniform'; 'size': by the number of training windows; 'custom': by `values`;
            'inverse_nrmse': by 1 / `values`, which favours what is learned well already.
        values: For each task's name, a weight or a validation nRMSE.
    Raises:
        ConfigError: Values are missing, of unknown tasks, or not positive (a custom weight may be
            zero).
    """
    names = [task.name for task in tasks]
    if rule == "uniform":
        found = [1.0] * len(tasks)
    elif rule == "size":
        found = [float(len(task)) for task in tasks]
    else:
        given = _values_for(names, values or {}, rule)
        found = given if rule == "custom" else [1.0 / value for value in given]
    total = sum(found)
    return tuple(value / total for value in found)


def _values_for(names: Sequence[str], values: Mapping[str, int | float], rule: str) -> list[float]:
    for name in values:
        if name not in names:
            raise ConfigError(
                f"weights: unknown task '{name}'{did_you_mean(name, names)}",
                hint=f"tasks: {', '.join(names)}",
            )
    missing = [name for name in names if name not in values]
    if missing:
        raise ConfigError(f"weights: {rule}: no value for {', '.join(missing)}")
    for name, value in values.items():
        if not math.isfinite(value) or value < 0 or (value == 0 and rule != "custom"):
            raise ConfigError(f"weights: {name}: {value} cannot be used for '{rule}'")
    if not any(values.values()):
        raise ConfigError("weights: all of them are zero")
    return [float(values[name]) for name in names]


def reversed_bits(number: int) -> int:
    """The binary digits of a number below 2**60, mirrored: van der Corput's point times 2**60."""
    return int(f"{number:0{_BITS}b}"[::-1], 2)


def count_below(steps: int, bound: int, key: int) -> int:
    """How many of the first `steps` shifted points are less than `bound`, in log2(steps) steps.

    A run of 2**k steps from a multiple of 2**k on has one point in each interval of length 2**-k,
    all at the same place in theirs.

    Args:
        bound: Times 2**60.
        key: The shift, below 2**60.
    """
    total = first = 0
    for k in reversed(range(steps.bit_length())):
        if steps >> k & 1:
            length = _BITS - k
            inside = (reversed_bits(first) ^ key) & ((1 << length) - 1)
            if bound > inside:
                total += min(1 << k, -((inside - bound) >> length))
            first += 1 << k
    return total


@dataclass(frozen=True)
class Phase:
    """From a step on, these weights; before it, each task had given so many batches."""

    start: int
    weights: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def bounds(self) -> list[int]:
        """Upper end of each task's interval, times 2**60."""
        sums = list(accumulate(Fraction(weight) for weight in self.weights))
        return [int(value / sums[-1] * _WHOLE) for value in sums]


class TaskOrder(Generic[AnyTask]):
    """One task for each step, in the proportions of their weights.

    Which task gives batch `step`, and which of its own batches that is, depends on the seed, the
    weights and `step` alone. Each task's batches come in their own order 0, 1, 2, ... without a
    gap, also when weights change.

    Args:
        tasks: With distinct names.
        weights: A rule that needs no values, or a weight for each task's name.
        seed: Of the order of the tasks.

    Raises:
        ConfigError: No task, two of one name, or weights that cannot be used.
    """

    def __init__(
        self,
        tasks: Sequence[AnyTask],
        weights: Literal["uniform", "size"] | Mapping[str, int | float] = "uniform",
        *,
        seed: int = 0,
    ) -> None:
        self.tasks, self.seed = tuple(tasks), seed
        self.names = tuple(task.name for task in self.tasks)
        if not self.tasks or len(set(self.names)) < len(self.names):
            found = ", ".join(self.names) or "none"
            raise ConfigError(f"mixture: needs tasks of distinct names, found {found}")
        first = (
            weights_by(weights, self.tasks)
            if isinstance(weights, str)
            else weights_by("custom", self.tasks, weights)
        )
        self.phases: tuple[Phase, ...] = (Phase(0, first, (0,) * len(self.tasks)),)
        self._key = int(np.random.default_rng([seed, _STREAM]).integers(_WHOLE))

    @property
    def weights(self) -> dict[str, float]:
        """Those of the last phase."""
        return dict(zip(self.names, self.phases[-1].weights, strict=True))

    def locate(self, step: int) -> tuple[int, int]:
        """Which task gives batch `step`, and the number of the batch among its own."""
        phase = self._phase(step)
        point = reversed_bits(step - phase.start) ^ self._key
        task = bisect.bisect_right(phase.bounds, point)
        return task, self._count(phase, step, task)

    def counts(self, step: int) -> dict[str, int]:
        """Batches that each task has given before `step`."""
        phase = self._phase(step)
        return {name: self._count(phase, step, task) for task, name in enumerate(self.names)}

    def renew(self, step: int, rule: Rule, values: Mapping[str, int | float] | None = None) -> None:
        """Use other weights from `step` on, for example after every epoch's validation.

        Batches before `step` stay what they were. A loader that is running goes on with the
        weights it began with.

        Raises:
            ConfigError: `step` is before the last change, or as in `weights_by`.
        """
        last = self.phases[-1]
        if step < last.start:
            raise ConfigError(f"mixture: weights cannot change at step {step}, before {last.start}")
        weights = weights_by(rule, self.tasks, values)
        counts = tuple(self.counts(step).values())
        kept = self.phases[:-1] if step == last.start else self.phases
        self.phases = (*kept, Phase(step, weights, counts))

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, plain numbers and names."""
        phases = [
            {"start": p.start, "weights": list(p.weights), "counts": list(p.counts)}
            for p in self.phases
        ]
        return {"names": list(self.names), "seed": self.seed, "phases": phases}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises:
            ConfigError: It is of other tasks or another seed.
        """
        for name, own in (("names", list(self.names)), ("seed", self.seed)):
            if state.get(name) != own:
                raise ConfigError(f"mixture: {name}: the state has {state.get(name)}, not {own}")
        self.phases = tuple(
            Phase(int(p["start"]), tuple(p["weights"]), tuple(p["counts"])) for p in state["phases"]
        )

    def _phase(self, step: int) -> Phase:
        if step < 0:
            raise ValueError(f"step {step} is negative")
        return self.phases[bisect.bisect_right([p.start for p in self.phases], step) - 1]

    def _count(self, phase: Phase, step: int, task: int) -> int:
        bounds = [0, *phase.bounds]
        low, high = (
            count_below(step - phase.start, bound, self._key) for bound in bounds[task : task + 2]
        )
        return phase.counts[task] + high - low


class Mixture(TaskOrder[Windows]):
    """Batches of several tasks, one task to a batch, in the order of `TaskOrder`.

    Args:
        batch_sizes: For the names of tasks whose batches have a size of their own.
    """

    def __init__(
        self,
        tasks: Sequence[Windows],
        weights: Literal["uniform", "size"] | Mapping[str, int | float] = "uniform",
        *,
        seed: int = 0,
        batch_sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(tasks, weights, seed=seed)
        self.batch_sizes = dict(batch_sizes or {})
        for name in self.batch_sizes:
            if name not in self.names:
                raise ConfigError(f"batch_sizes: {name}{did_you_mean(name, self.names)}: no task")

    def batch(self, step: int, batch_size: int, empty: Empty = np.empty) -> WindowBatch:
        """Batch `step`, all of one task."""
        task, number = self.locate(step)
        size = self.batch_sizes.get(self.names[task], batch_size)
        return self.tasks[task].batch(number, size, empty)

    def batch_bytes(self, batch_size: int) -> int:
        """Most bytes of the arrays of a batch of any task."""
        sizes = [self.batch_sizes.get(name, batch_size) for name in self.names]
        return max(t.batch_bytes(size) for t, size in zip(self.tasks, sizes, strict=True))
