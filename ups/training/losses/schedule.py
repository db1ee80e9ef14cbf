"""How much each loss term counts over a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from torch import Tensor

from ups.config.stages import LossesConfig, Term
from ups.errors import ConfigError


def term_weight(term: Term, progress: float) -> float:
    """The weight at a share of the run: 0 before `start`, then a linear ramp up to `weight`."""
    if progress < term.start:
        return 0.0
    passed = (progress - term.start) / term.ramp if term.ramp > 0 else 1.0
    return term.weight * min(passed, 1.0)


def wanted(config: LossesConfig) -> frozenset[str]:
    """Names of the terms that count at some time of the run."""
    return frozenset(name for name, term in _terms(config).items() if term.weight > 0)


def check_available(config: LossesConfig, available: Mapping[str, Collection[str]]) -> None:
    """Refuse a term that no task can evaluate.

    Args:
        available: Task -> names of its terms.
    Raises:
        ConfigError: Names the term and the tasks.
    """
    known = {name for names in available.values() for name in names}
    for name in sorted(wanted(config) - known):
        raise ConfigError(
            f"losses.{name}: none of the tasks {', '.join(sorted(available))} can evaluate it",
            hint=f"--set stages.operator.losses.{name}=0",
        )


def weighted(
    terms: Mapping[str, Tensor | Callable[[], Tensor]], config: LossesConfig, progress: float
) -> dict[str, Tensor]:
    """Weight times value of each term that counts now; others are not evaluated.

    Args:
        terms: Values, or functions that make them.
    Raises:
        ValueError: A name that `LossesConfig` does not have.
    """
    known = _terms(config)
    unknown = set(terms) - set(known)
    if unknown:
        raise ValueError(f"{sorted(unknown)} are no loss terms; there are {sorted(known)}")
    found = {}
    for name, value in terms.items():
        weight = term_weight(known[name], progress)
        if weight > 0:
            found[name] = weight * (value if isinstance(value, Tensor) else value())
    return found


def _terms(config: LossesConfig) -> dict[str, Term]:
    values = {name: getattr(config, name) for name in LossesConfig.model_fields}
    return {name: value for name, value in values.items() if isinstance(value, Term)}
