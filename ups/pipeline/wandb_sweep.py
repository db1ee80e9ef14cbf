"""A space file as a sweep of Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ups.config.schema import TrackingConfig
from ups.errors import RemoteError, UsageError
from ups.pipeline.space import Distribution, Space
from ups.transfer.wandb_access import failures, has_key


def wandb_sweep(
    space: Space, *, name: str, config: str, overrides: Sequence[str] = (), stage: str = "operator"
) -> dict[str, Any]:
    """The space as the configuration of a W&B sweep, whose agents call `ups sweep --point`.

    Nothing is pruned there: each training runs to its end.

    Args:
        stage: The last one, whose best validation error is the metric.
    Raises:
        UsageError: More than one objective, or one that W&B is not told.
    """
    if space.objectives != ("valid_nrmse",):
        raise UsageError(
            f"--wandb: a W&B sweep goes by valid_nrmse, found {', '.join(space.objectives)}",
            hint="leave out --wandb, or set objectives: [valid_nrmse]",
        )
    methods = {"tpe": "bayes", "nsga2": "bayes", "random": "random", "grid": "grid"}
    changes = [part for one in overrides for part in ("--set", one)]
    return {
        "name": name,
        "method": methods[space.sampler.kind],
        "metric": {"name": f"{stage}/best/valid_nrmse", "goal": "minimize"},
        "parameters": {key: _wandb_values(one) for key, one in space.parameters.items()},
        "command": ["${env}", "ups", "sweep", config, *changes, "--point", "${args_json}"],
    }


def _wandb_values(one: Distribution) -> dict[str, Any]:
    if one.choice is not None:
        return {"values": list(one.choice)}
    low, high = one.ends
    if one.step is not None:
        return {"values": list(range(int(low), int(high) + 1, one.step))}
    names = {
        "uniform": one.uniform, "log_uniform_values": one.log_uniform,
        "int_uniform": one.integers, "q_log_uniform_values": one.log_integers,
    }  # fmt: skip
    kind = next(name for name, given in names.items() if given is not None)
    quantum = {"q": 1} if kind.startswith("q_") else {}
    return {"distribution": kind, "min": low, "max": high, **quantum}


def create(content: Mapping[str, Any], tracking: TrackingConfig) -> str:
    """Make the sweep at W&B.

    Returns:
        `ENTITY/PROJECT/ID`, as `wandb agent` takes it.
    Raises:
        UsageError: There is no key here.
        RemoteError: W&B refused, or cannot be reached.
    """
    if not has_key():
        raise UsageError(
            "--wandb create: no key of W&B here, so no sweep was made",
            hint="wandb login, or on another machine: wandb sweep FILE, with the file written here",
        )
    import wandb

    project = tracking.project or "ups"
    try:
        found = wandb.sweep(dict(content), entity=tracking.entity, project=project)
        entity = tracking.entity or wandb.Api().default_entity
    except failures() as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RemoteError(f"W&B made no sweep: {reason}") from error
    return f"{entity}/{project}/{found}"
