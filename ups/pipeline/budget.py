"""One budget for trainings that are compared: wall time, optimizer steps or FLOPs.

The stages after the codec are made longer or shorter by one factor until the run fills the budget.
For wall time a probe trains a few steps of every stage and measures what a step, a validation and
all the rest (codec, cache, opening data) take here.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ups.config.base import validated
from ups.config.loading import merged
from ups.config.schema import Experiment
from ups.config.stages import StageName, TrainingConfig
from ups.errors import ConfigError, UsageError
from ups.pipeline.scratch import own_caches
from ups.training.probe import cost_of
from ups.training.run import train
from ups.training.session import Session, open_session

Progress = Callable[[str, int, int, str], None]
Kind = Literal["seconds", "steps", "flops"]

_UNITS: Mapping[str, tuple[Kind, float]] = {
    "s": ("seconds", 1.0), "min": ("seconds", 60.0), "h": ("seconds", 3600.0),
    "steps": ("steps", 1.0), "flop": ("flops", 1.0), "tflop": ("flops", 1e12),
    "pflop": ("flops", 1e15),
}  # fmt: skip
_PROBE, _LOOK = 40, 5
_FEWEST_VALIDATIONS, _VALIDATION_SHARE = 4, 0.2
_LARGEST_FIXED = 0.5
_NO_GATE = 1e9


@dataclass(frozen=True)
class Budget:
    """What one training may cost.

    Attributes:
        amount: Wall seconds of the whole training; optimizer steps of the stages after the codec,
            taken together; floating-point operations of all stages.
    """

    kind: Kind
    amount: float
    text: str


def parse_budget(text: str) -> Budget:
    """Read `120s`, `5min`, `2h`, `3000steps`, `5e15flop`, `5pflop`.

    Raises:
        UsageError: It is none of these, or not positive.
    """
    match = re.fullmatch(r"([0-9.]+(?:[eE][+-]?[0-9]+)?) *([A-Za-z]+)", text.strip())
    unit = match[2].lower() if match else ""
    for known in (unit, unit.removesuffix("s"), f"{unit}s"):
        if match and known in _UNITS:
            kind, factor = _UNITS[known]
            amount = _positive(match[1], text) * factor
            return Budget(kind, float(round(amount)) if kind == "steps" else amount, text.strip())
    raise _no_budget(text)


def _positive(number: str, text: str) -> float:
    try:
        amount = float(number)
    except ValueError as error:
        raise _no_budget(text) from error
    if not 0 < amount < math.inf:
        raise _no_budget(text)
    return amount


def _no_budget(text: str) -> UsageError:
    return UsageError(
        f"--budget {text}: expected a positive number and a unit: {', '.join(_UNITS)}",
        hint="for example --budget 120s, 2h, 3000steps or 5e15flop",
    )


@dataclass(frozen=True)
class StageTiming:
    """Seconds of one step and of one validation, with its checkpoint."""

    step: float
    validation: float


@dataclass(frozen=True)
class Timing:
    """What a training takes here.

    Attributes:
        rest: Seconds of all but steps and validations: caches, a codec that is not trained, data.
        stages: Those whose steps were timed.
    """

    rest: float
    stages: dict[StageName, StageTiming]


def with_steps(
    experiment: Experiment, steps: Mapping[StageName, int], validations: int | None = None
) -> Experiment:
    """The experiment with stages of these lengths.

    The number of validations and of checkpoints stays what it was, and the warm-up is at most a
    twentieth of the stage.

    Args:
        validations: At most so many in each stage.
    Raises:
        ConfigError: A curriculum's phases have lengths of their own.
    """
    changes: dict[str, Any] = {}
    for name, number in steps.items():
        config = _stage(experiment, name)
        if getattr(config, "curriculum", ()):
            raise ConfigError(
                f"stages.{name}.curriculum: its phases have lengths of their own, which a budget "
                "cannot change",
                hint=f"leave out --budget, or --set stages.{name}.curriculum=[]",
            )
        count = min(math.ceil(config.steps / config.validate_every), validations or number)
        saves = math.ceil(config.steps / config.checkpoint_every)
        changes[name] = {
            "steps": number, "epochs": None,
            "validate_every": math.ceil(number / count),
            "checkpoint_every": math.ceil(number / saves),
            "schedule": {"warmup_steps": min(config.schedule.warmup_steps, number // 20)},
        }  # fmt: skip
    return _changed(experiment, {"stages": changes})


def _stage(experiment: Experiment, name: StageName) -> TrainingConfig:
    config: TrainingConfig = getattr(experiment.stages, name)
    return config


def _changed(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    content = merged(experiment.model_dump(mode="json"), changes)
    return validated(Experiment, content, experiment.name)


def main_stages(session: Session) -> tuple[StageName, ...]:
    """The stages that a budget makes longer or shorter: all but the codec."""
    return tuple(name for name in session.stages if name != "codec")


def fit_to(
    budget: Budget | None, experiment: Experiment, progress: Progress | None = None
) -> Experiment:
    """The experiment with as many steps as the budget has room for.

    Args:
        budget: None leaves the steps as they are.
    Raises:
        UsageError: The budget is used up before the first step after the codec.
        ConfigError: As `with_steps`.
    """
    session = open_session(experiment)
    stages = main_stages(session)
    if budget is None or not stages:
        return experiment
    shares = {name: _stage(experiment, name).steps for name in stages}
    match budget.kind:
        case "steps":
            return with_steps(experiment, _scaled(shares, budget.amount / sum(shares.values())))
        case "flops":
            factor = _flops_factor(session, shares, budget)
            return with_steps(experiment, _scaled(shares, factor)) if factor else experiment
        case "seconds":
            return fill(experiment, measure(experiment, progress), budget, shares)


def _scaled(shares: Mapping[StageName, int], factor: float) -> dict[StageName, int]:
    return {name: max(1, round(steps * factor)) for name, steps in shares.items()}


def _flops_factor(session: Session, shares: Mapping[StageName, int], budget: Budget) -> float:
    """Zero where nothing is to be trained."""
    codec = flops_of(session, ["codec"]) if "codec" in session.stages else 0.0
    _check_room(budget, codec, "the codec alone takes {:.2g} FLOP")
    each = flops_of(session, list(shares))
    return (budget.amount - codec) / each if each else 0.0


def flops_of(session: Session, stages: Sequence[StageName]) -> float:
    """Floating-point operations of all steps of these stages, counted on random tokens."""
    costs = [cost_of(session, name) for name in stages]
    return float(sum(cost.flops_per_step * cost.steps for cost in costs))


def fill(
    experiment: Experiment, timing: Timing, budget: Budget, shares: Mapping[StageName, int]
) -> Experiment:
    """The experiment with as many steps as fit into the wall time, by what each of them takes."""
    main = {name: timing.stages[name] for name in shares if name in timing.stages}
    if not main:
        return experiment
    fixed = timing.rest
    for name, one in timing.stages.items():
        if name not in shares:
            config = _stage(experiment, name)
            count = math.ceil(config.steps / config.validate_every)
            fixed += config.steps * one.step + count * one.validation
    each = sum(one.validation for one in main.values())
    wanted = max(math.ceil(_stage(experiment, name).steps / _stage(experiment, name).validate_every)
                 for name in main)  # fmt: skip
    room = math.floor(_VALIDATION_SHARE * budget.amount / max(each, 1e-9))
    count = min(wanted, max(_FEWEST_VALIDATIONS, room))
    fixed += count * each
    _check_room(budget, fixed, "codec, cache and validations take {:.2g} s")
    step = sum(shares[name] * one.step for name, one in main.items())
    factor = (budget.amount - fixed) / max(step, 1e-9)
    return with_steps(experiment, _scaled(shares, factor), validations=count)


def _check_room(budget: Budget, fixed: float, what: str) -> None:
    if fixed > _LARGEST_FIXED * budget.amount:
        unit = "s" if budget.kind == "seconds" else "flop"
        raise UsageError(
            f"--budget {budget.text}: {what.format(fixed)} of it, which leaves too little to "
            "compare",
            hint=f"--budget {fixed / _LARGEST_FIXED:.2g}{unit} or more",
        )


@dataclass
class _Stopwatch:
    """Notes when each step of each stage was done."""

    told: Progress | None
    marks: dict[str, dict[int, float]] = field(default_factory=dict)

    def __call__(self, what: str, done: int, total: int, note: str) -> None:
        self.marks.setdefault(what, {})[done] = time.perf_counter()
        if self.told:
            self.told("probe", done, total, what)


def measure(experiment: Experiment, progress: Progress | None = None) -> Timing:
    """Train a few steps of every stage in a home of its own, and time them.

    Curricula and schedules run over the probe as they do over a training, so that the mean step of
    the one is that of the other.
    """
    session = open_session(experiment)
    lengths = {
        name: _PROBE for name in session.stages
        if name != "codec" or _stage(experiment, name).steps > _PROBE
    }  # fmt: skip
    short = _shortened(experiment, lengths)
    watch = _Stopwatch(progress)
    with own_caches(keep_runs=False):
        began = time.perf_counter()
        train(short, session.stages, progress=watch)
        total = time.perf_counter() - began
    stages = {name: _timed(watch.marks[name]) for name in lengths if name in watch.marks}
    spent = sum(_PROBE * one.step + one.validation for one in stages.values())
    return Timing(max(total - spent, 0.0), stages)


def _shortened(experiment: Experiment, lengths: Mapping[StageName, int]) -> Experiment:
    """A codec of few steps passes no gate, and a probe is tracked nowhere."""
    changes = {
        "stages": {
            name: {"validate_every": number, "checkpoint_every": number, "log_every": _LOOK}
            for name, number in lengths.items()
        },
        "codec": {"gate": _NO_GATE},
        "codecs": {family: {"gate": _NO_GATE} for family in experiment.codecs},
        "tracking": {"wandb": "disabled"},
    }
    return _changed(with_steps(experiment, lengths, validations=1), changes)


def _timed(marks: Mapping[int, float]) -> StageTiming:
    """Between steps at which the loop has waited for the device."""
    first, last, end = _LOOK, _PROBE - _LOOK, _PROBE
    step = (marks[last] - marks[first]) / (last - first)
    return StageTiming(step, max(marks[end] - marks[last] - (end - last) * step, 0.0))
