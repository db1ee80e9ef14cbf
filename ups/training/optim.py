"""Optimizers, learning-rate schedules and averaged weights, from config."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ups.config.stages import AdamWConfig, MuonConfig, OptimizerConfig, ScheduleConfig
from ups.training.sharding import gathered_state, local, spread_state

_THRESHOLD = 1e-4


class Optimizers:
    """Several optimizers driven as one, with one learning-rate factor."""

    def __init__(self, members: Iterable[torch.optim.Optimizer]) -> None:
        self.members = list(members)
        self._base = [[group["lr"] for group in one.param_groups] for one in self.members]

    def zero_grad(self) -> None:
        for one in self.members:
            one.zero_grad(set_to_none=True)

    def step(self) -> None:
        for one in self.members:
            one.step()

    def set_factor(self, factor: float) -> None:
        """Multiply every group's configured learning rate by `factor`."""
        for one, base in zip(self.members, self._base, strict=True):
            for group, lr in zip(one.param_groups, base, strict=True):
                group["lr"] = lr * factor

    def state_dict(self) -> list[Any]:
        """Whole tensors, wherever the weights are sharded; all processes must call it."""
        return [gathered_state(one.state_dict()) for one in self.members]

    def load_state_dict(self, states: list[Any]) -> None:
        for one, state in zip(self.members, states, strict=True):
            weights = [weight for group in one.param_groups for weight in group["params"]]
            moments = {
                index: spread_state(values, weights[index])
                for index, values in state["state"].items()
            }
            one.load_state_dict({**state, "state": moments})


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> Optimizers:
    """AdamW for everything, or Muon for the hidden matrices and AdamW for the rest.

    A hidden matrix is a two-dimensional weight whose name contains `hidden`. Embeddings, heads,
    modulations, biases and spectral weights stay with AdamW. Where weights are sharded, Muon's
    iteration on a matrix runs on its shards and exchanges them at every product.

    Source:
        Muon: Jordan et al. 2024, kellerjordan.github.io/posts/muon; updates matched to AdamW's in
        RMS: Liu et al. 2025, arXiv:2502.16982.
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
        weights,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=config.fused or None,
    )


def _muon(weights: list[nn.Parameter], config: MuonConfig) -> torch.optim.Optimizer:
    return torch.optim.Muon(
        weights,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )


def gradients(module: nn.Module) -> list[Tensor]:
    """Of all weights that have one."""
    return [weight.grad for weight in module.parameters() if weight.grad is not None]


@torch.no_grad()
def clip(grads: list[Tensor], limit: float | None) -> Float[Tensor, ""]:
    """Shrink gradients in place so that their common norm is at most `limit`.

    Returns:
        The norm before.
    """
    norm = nn.utils.get_total_norm(grads)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if limit is not None:
        share = (limit / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([local(grad) for grad in grads], share)
    return norm


def lr_factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """Share of the configured learning rate at `step` (from 0) of `steps`; plateaus apart."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.kind != "cosine":
        return warmup
    cosine = 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))
    return warmup * (config.final_fraction + (1 - config.final_fraction) * cosine)


class Plateau:
    """Lowers the learning rate where validation no longer improves.

    An improvement is one by more than 1e-4 of the best value. After more than `patience`
    validations without one the rate is multiplied with `factor`, down to `final_fraction` of the
    configured one. With another kind of schedule the factor stays 1.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        self.factor, self.best, self.waited = 1.0, math.inf, 0

    def note(self, criterion: float) -> None:
        """Take up the result of one validation."""
        if self.config.kind != "plateau":
            return
        if criterion < self.best * (1 - _THRESHOLD):
            self.best, self.waited = criterion, 0
        else:
            self.waited += 1
        if self.waited > self.config.patience:
            lower = self.factor * self.config.factor
            self.factor, self.waited = max(lower, self.config.final_fraction), 0

    def state_dict(self) -> dict[str, float | int]:
        return {"factor": self.factor, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.factor, self.best, self.waited = state["factor"], state["best"], state["waited"]


class Average:
    """Exponential moving average of a module's weights; buffers are the module's own.

    The first update copies, each further one moves by 1 - decay towards the weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._module = module
        self._shadow = snapshot(dict(module.named_parameters()))

    @torch.no_grad()
    def update(self) -> None:
        weights = [local(weight) for weight in self._module.parameters()]
        shadow = [local(weight) for weight in self._shadow.values()]
        share = 1.0 if self.updates == 0 else 1 - self.decay
        torch._foreach_lerp_(shadow, weights, share)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module has the averaged weights for the block."""
        with replaced(self._module, self._shadow):
            yield

    def state_dict(self) -> dict[str, Any]:
        """Whole tensors; all processes must call it."""
        return {"updates": self.updates, "weights": gathered_state(self._shadow)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, weight in self._module.named_parameters():
            self._shadow[name] = spread_state(state["weights"][name], weight)


@contextmanager
def replaced(module: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Other weights and buffers for the block, written into the module's own tensors."""
    own = own_tensors(module)
    mine = {name: own[name] for name in values}
    kept = snapshot(mine)
    overwrite(mine, values)
    try:
        yield
    finally:
        overwrite(mine, kept)


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Weights and saved buffers by name; a shared one once."""
    saved = module.state_dict().keys()
    named = (*module.named_parameters(), *module.named_buffers())
    return {name: tensor for name, tensor in named if name in saved}


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of weights and buffers by name, sharded as they are."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def overwrite(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy values into the tensors of the same names."""
    for name, target in targets.items():
        local(target).copy_(local(values[name]))
