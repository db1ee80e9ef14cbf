"""Trained modules as plain values and tensors, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter
from torch import nn

from ups.config.models import OperatorConfig, PriorConfig, ResidualConfig
from ups.models.corrector import ResidualModel
from ups.models.flow_map import FlowMap
from ups.models.layout import TokenLayout
from ups.models.operator import build_operator
from ups.models.steady import SteadyPrior

Layouts = Mapping[str, TokenLayout]


def _operator(config: dict[str, Any], layouts: Layouts) -> nn.Module:
    return build_operator(TypeAdapter(OperatorConfig).validate_python(config), layouts)


MODULES: dict[str, Callable[[dict[str, Any], Layouts], nn.Module]] = {
    "operator": _operator,
    "residual": lambda config, layouts: ResidualModel(ResidualConfig(**config), layouts),
    "flow_map": lambda config, layouts: FlowMap(ResidualConfig(**config), layouts),
    "prior": lambda config, layouts: SteadyPrior(PriorConfig(**config), layouts),
}
"""How each kind of module is built again from its config and the tasks it was trained on."""


def described(module: Any) -> dict[str, Any]:
    """Config, tasks and weights of a trained module."""
    return {
        "config": module.config.model_dump(mode="json"),
        "tasks": list(module.layouts),
        "state": module.state_dict(),
    }


def rebuilt(name: str, content: Mapping[str, Any], layouts: Layouts) -> nn.Module:
    """The module that was saved, frozen."""
    own = {task: layouts[task] for task in content["tasks"]}
    module = MODULES[name](content["config"], own)
    module.load_state_dict(content["state"])
    return module.eval().requires_grad_(False)
