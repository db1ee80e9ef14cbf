"""Baselines by name: what changes in a config when another model is trained in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ups.config.base import validated
from ups.config.loading import merged, parse_override
from ups.config.models import FieldOperatorConfig, GridCodecConfig, TrivialOperatorConfig
from ups.config.schema import Experiment, GatesConfig
from ups.config.stages import (
    AdamWConfig,
    CodecStageConfig,
    MuonConfig,
    OperatorStageConfig,
    StagesConfig,
    TrainingConfig,
)
from ups.errors import ConfigError

Network = Literal["fno", "tfno", "uno", "cosine_fno", "unet", "dit"]
Trivial = Literal["persistence", "mean"]
Model = Literal["latent", "fno", "tfno", "uno", "cosine_fno", "unet", "dit", "persistence", "mean"]
MODELS: tuple[Model, ...] = get_args(Model)

_PADDING = 0.125
_COARSEN_FROM = 64


@dataclass(frozen=True)
class Domain:
    """What a recipe must know of a task's data.

    Attributes:
        space: Points along each axis; None on meshes and for particles.
        periodic: Whether each axis wraps.
    """

    task: str
    space: tuple[int, ...] | None
    periodic: tuple[bool, ...]
    is_steady: bool


def is_baseline(experiment: Experiment) -> bool:
    """Whether a run of this config is a row of kind 'baseline'."""
    return experiment.operator.kind != "latent"


def is_trivial(experiment: Experiment) -> bool:
    """Whether its model learns nothing."""
    return isinstance(experiment.operator, TrivialOperatorConfig)


def baseline(
    experiment: Experiment, model: Model, domains: Sequence[Domain], overrides: Sequence[str] = ()
) -> Experiment:
    """The same data, windows, losses, length and judgement, with another model and its recipe.

    The recipe is what made neural operators strong in this loop (docs/log.md,
    docs/benchmarks.md): tokens are the grid points, so that a field goes through the card's
    transform and no more; residual prediction; the config's own unrolling and early frames; small
    batches; Muon on hidden matrices; a cosine schedule. Width, waves, patches, padding and
    learning rate follow from the grid. The config's accuracy gates are those of its own model
    and are left out.

    Args:
        domains: Of the config's tasks.
        overrides: `a.b=value` each, laid on the recipe.
    Returns:
        Named `<config>-<model>`; 'latent' is the config itself.
    Raises:
        ConfigError: The model does not fit the data, or the config has no latent operator.
    """
    if model == "latent":
        if is_baseline(experiment):
            raise ConfigError(
                f"--model latent: config '{experiment.name}' has operator.kind "
                f"'{experiment.operator.kind}'",
                hint="--config of a latent one, burgers1d for example",
            )
        changed = experiment
    elif model in get_args(Trivial):
        changed = _trivial(experiment, model, domains)
    else:
        changed = _network(experiment, model, _only_grid(model, domains))
    content: dict[str, Any] = changed.model_dump(mode="json")
    for override in overrides:
        content = merged(content, parse_override(override))
    where = " ".join([f"{experiment.name} --model {model}", *overrides])
    return validated(Experiment, content, where)


def _only_grid(model: Model, domains: Sequence[Domain]) -> Domain:
    if len(domains) > 1:
        raise ConfigError(
            f"--model {model}: works on one task, found {', '.join(one.task for one in domains)}",
            hint="--config of one of them",
        )
    if domains[0].space is None:
        raise ConfigError(
            f"--model {model}: works on a grid, and {domains[0].task} has none",
            hint="--model persistence, or mean",
        )
    return domains[0]


def _trivial(experiment: Experiment, model: Model, domains: Sequence[Domain]) -> Experiment:
    steady = [one.task for one in domains if one.is_steady]
    if model == "persistence" and steady:
        raise ConfigError(
            f"--model persistence: {', '.join(steady)} is steady, no state persists",
            hint="--model mean",
        )
    operator = TrivialOperatorConfig.model_validate({"kind": model})
    return _with(experiment, model, operator, experiment.stages.operator)


def _network(experiment: Experiment, model: Model, domain: Domain) -> Experiment:
    assert domain.space is not None
    axes, length = len(domain.space), _length(experiment.stages, domain.is_steady)
    operator = FieldOperatorConfig.model_validate({"kind": model, **_sizes(model, domain)})
    schedule = length.schedule.model_copy(update={"kind": "cosine"})
    stage = length.model_copy(
        update={
            "batch_size": 32 if axes < 3 else 8,
            "accumulate": 1,
            "optimizer": MuonConfig(lr=_learning_rate(axes)),
            "schedule": schedule,
        }
    )
    return _with(experiment, model, operator, stage)


def _with(
    experiment: Experiment,
    model: Model,
    operator: FieldOperatorConfig | TrivialOperatorConfig,
    stage: OperatorStageConfig,
) -> Experiment:
    """The config with this model on tokens that are grid points; meshes keep their codec."""
    points = GridCodecConfig(patch_size=1)
    codecs = {
        family: points if codec.kind == "grid" else codec
        for family, codec in experiment.codecs.items()
    }
    # The codec is exact on the grid as it is; values between grid points nobody asks for here.
    least = CodecStageConfig(steps=1, batch_size=1, optimizer=AdamWConfig())
    keeps_codec = experiment.codec.kind != "grid"
    stages = experiment.stages.model_copy(
        update={
            "order": ("codec", "operator"),
            "codec": experiment.stages.codec if keeps_codec else least,
            "operator": stage,
        }
    )
    return experiment.model_copy(
        update={
            "name": f"{experiment.name}-{model}",
            "codec": experiment.codec if keeps_codec else points,
            "codecs": codecs,
            "operator": operator,
            "stages": stages,
            "evaluation": experiment.evaluation.model_copy(update={"gates": GatesConfig()}),
        }
    )


def _length(stages: StagesConfig, is_steady: bool) -> OperatorStageConfig:
    """The operator's stage; of a steady problem as long as the stage that the config trains."""
    if not is_steady or (stages.order is not None and "operator" in stages.order):
        return stages.operator
    prior = stages.steady_prior
    shared = {name: getattr(prior, name) for name in TrainingConfig.model_fields}
    return stages.operator.model_copy(update=shared)


def _sizes(model: Model, domain: Domain) -> dict[str, Any]:
    """Options of the network by the number of axes: what a CPU trains in hours."""
    assert domain.space is not None
    axes, is_bounded = len(domain.space), not all(domain.periodic)
    found: dict[str, Any] = {"coordinates": domain.is_steady and is_bounded}
    match model:
        case "unet":
            return found | {
                "width": (32, 16, 16)[axes - 1],
                "depth": 1,
                "levels": (4, 4, 3)[axes - 1],
            }
        case "dit":
            patch = (4, 8, 8)[axes - 1]
            return found | {"width": (64, 96, 96)[axes - 1], "depth": 4, "patch": patch}
        case "cosine_fno":
            halved = axes > 1 and not domain.is_steady and min(domain.space) >= _COARSEN_FROM
            found["coarsen"] = 2 if halved else 1
        case _:
            found["padding"] = _PADDING if is_bounded else 0.0
    widths = (32, 16, 8) if model == "uno" else (32, 32, 16)
    return found | {"width": widths[axes - 1], "modes": (16, 16, 8)[axes - 1]}


def _learning_rate(axes: int) -> float:
    """Of Muon, chosen on validation in one and two dimensions, where 8e-3 came before 4e-3 and 2e-3
    for Fourier operators, U-Net and DiT (docs/baselines.md). In three nothing was measured.
    """
    return 8e-3 if axes < 3 else 4e-3
