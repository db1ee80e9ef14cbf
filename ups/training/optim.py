"""Optimizers, learning-rate schedule and averaged weights, from config."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ups.config.stages import AdamWConfig, MuonConfig, OptimizerConfig, ScheduleConfig


class Optimizers:
    """Several optimizers driven as one, with one learning-rate factor."""

    def __init__(self, members: Iterable[torch.optim.Optimizer]) -> None:
        self.members = list(members)
        self._base = [[group["lr"] for group in one.param_groups] for one in self.members]

    def zero_grad(self) -> None:
        for one in self.members:
            one.zero_grad(set_to_none=True)

    def step(self, scaler: torch.amp.GradScaler) -> None:
        for one in self.members:
            scaler.step(one)

    def unscale(self, scaler: torch.amp.GradScaler) -> None:
        for one in self.members:
            scaler.unscale_(one)

    def set_factor(self, factor: float) -> None:
        """Multiply every group's configured learning rate by `factor`."""
        for one, base in zip(self.members, self._base, strict=True):
            for group, lr in zip(one.param_groups, base, strict=True):
                group["lr"] = lr * factor

    def state_dict(self) -> list[Any]:
        return [one.state_dict() for one in self.members]

    def load_state_dict(self, states: list[Any]) -> None:
        for one, state in zip(self.members, states, strict=True):
            one.load_state_dict(state)


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> Optimizers:
    """AdamW for everything, or Muon for the hidden matrices and AdamW for the rest.

    A hidden matrix is a two-dimensional weight whose name contains `hidden`. Embeddings, heads,
    modulations, biases and spectral weights stay with AdamW.
    """
    named = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    match config:
        case AdamWConfig():
            return Optimizers([_adamw([weight for _, weight in named], config)])
        case MuonConfig():
            hidden = [w for name, w in named if w.ndim == 2 and "hidden" in name]
            rest = [w for name, w in named if w.ndim != 2 or "hidden" not in name]
            members: list[torch.optim.Optimizer] = [_adamw(rest, config)] if rest else []
            if hidden:
                members.append(_muon(hidden, config))
            return Optimizers(members)


def _adamw(weights: list[nn.Parameter], config: AdamWConfig | MuonConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        weights, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
    )


def _muon(weights: list[nn.Parameter], config: MuonConfig) -> torch.optim.Optimizer:
    return torch.optim.Muon(
        weights,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )


def lr_factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """Share of the configured learning rate at `step` (from 0) of `steps`."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.kind == "constant":
        return warmup
    cosine = 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))
    return warmup * (config.final_fraction + (1 - config.final_fraction) * cosine)


def averaged(module: nn.Module, decay: float) -> AveragedModel | None:
    """Exponential moving average of the weights, or None for decay 0."""
    if not decay:
        return None
    return AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)
