"""One model on several processes: copies with averaged gradients (DDP), or shards (FSDP)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ups.errors import ConfigError
from ups.training.distributed import is_main, world_size
from ups.training.protocol import Stage

Losses = Callable[[Any, float], dict[str, Tensor]]


class _LossModule(nn.Module):
    """The losses of a stage as the forward pass of one module, as DDP wants them."""

    def __init__(self, trainable: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.trainable = trainable
        self._losses = losses

    def forward(self, batch: Any, progress: float) -> dict[str, Tensor]:
        return self._losses(batch, progress)


class Parallel:
    """The losses of one stage, computed so that gradients become those of the global batch.

    Copies (DDP) start from the first process' weights. Shards (FSDP2) are one for each unit of
    `shardable` and one for what is left.

    DDP searches the graph of every step for weights without a gradient, such as those of other
    tasks, and warns if that was in vain; a stage with `leaves_unused = False` is spared it.

    Args:
        stage: Its module is sharded in place: optimizers must be built afterwards.
    Raises:
        ConfigError: 'fsdp' is asked for and the module has no unit to shard.
    """

    def __init__(self, stage: Stage) -> None:
        self._ddp: DistributedDataParallel | None = None
        self.losses: Losses = stage.losses
        if world_size() == 1:
            return
        if stage.config.sharding == "fsdp":
            shard(stage.trainable, f"stages.{stage.name}")
            return
        self._ddp = DistributedDataParallel(
            _LossModule(stage.trainable, stage.losses),
            find_unused_parameters=getattr(stage, "leaves_unused", True),
        )
        self._ddp.broadcast_buffers = False  # once was enough: they do not differ
        self.losses = self._ddp

    def averaging(self, wanted: bool) -> AbstractContextManager[None]:
        """Whether a backward pass in the block averages gradients: the last micro-batch's must."""
        return self._ddp.no_sync() if self._ddp is not None and not wanted else nullcontext()


def shardable(module: nn.Module) -> Iterable[nn.Module]:
    """Its parts whose class says `is_sharded_unit = True`: blocks that run one after another."""
    return (part for part in module.modules() if getattr(part, "is_sharded_unit", False))


def shard(module: nn.Module, where: str) -> None:
    """Shard a module over all processes, in place, from the first process' weights."""
    units = list(shardable(module))
    if not units:
        raise ConfigError(
            f"{where}.sharding: {type(module).__name__} has no blocks that can be sharded",
            hint=f"--set {where}.sharding=none",
        )
    for tensor in (*module.parameters(), *module.buffers()):
        dist.broadcast(tensor.detach(), src=0)
    mesh = init_device_mesh(next(module.parameters()).device.type, (world_size(),))
    for part in (*units, module):
        # Resharded also at the root: weights are overwritten in between, by averaged ones.
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def local(tensor: Tensor) -> Tensor:
    """What of a tensor this process holds, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered_state(state: Any) -> Any:
    """A tree of states with whole tensors in place of sharded ones; all processes must call it.

    Processes after the first, which do not save, get empty tensors.
    """
    if isinstance(state, DTensor):
        whole = state.full_tensor()
        return whole.cpu() if is_main() else whole.new_empty(0)
    if isinstance(state, dict):
        return {key: gathered_state(value) for key, value in state.items()}
    return state


def spread_state(state: Any, weight: Tensor) -> Any:
    """A weight's state, sharded like the weight where it has the weight's shape."""
    if isinstance(state, dict):
        return {key: spread_state(value, weight) for key, value in state.items()}
    if not isinstance(state, Tensor) or state.shape != weight.shape:
        return state
    value = state.to(weight.device)
    if isinstance(weight, DTensor):
        return distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None)
    return value


def load_weights(module: nn.Module, state: dict[str, Any]) -> None:
    """`load_state_dict` of whole tensors, also where the module is sharded."""
    own = module.state_dict()
    module.load_state_dict({name: spread_state(value, own[name]) for name, value in state.items()})


@contextmanager
def whole_state(module: nn.Module) -> Iterator[None]:
    """For the block, `state_dict` of the module, or of one that holds it, gives whole tensors.

    All processes must enter it together; only the first may then ask for the state.
    """
    if not any(isinstance(weight, DTensor) for weight in module.parameters()):
        yield
        return
    whole = gathered_state(module.state_dict())

    def replace(part: nn.Module, state: dict[str, Any], prefix: str, extra: Any) -> None:
        state.update({prefix + name: value for name, value in whole.items()})

    handle = module.register_state_dict_post_hook(replace)
    try:
        yield
    finally:
        handle.remove()
