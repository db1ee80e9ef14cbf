"""What a network costs: floating-point operations, parameters, memory of a training step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

_aten = torch.ops.aten


def count_flops(module: Callable[..., Any], *example_args: Any) -> int:
    """Floating-point operations of one forward pass; a multiplication and an addition are two.

    Matrix products, convolutions, attention and Fourier transforms (5 N log2 N for each complex
    transform of length N, half for a real one); elementwise operations are left out. A training
    step takes about three times as many.
    """
    counter, missed = FlopCounterMode(display=False), _Missed()
    with torch.no_grad(), missed, counter:
        module(*example_args)
    return counter.get_total_flops() + missed.total


def num_parameters(module: nn.Module) -> int:
    """Numbers in all weights; a complex one is two."""
    return sum(weight.numel() * (1 + weight.is_complex()) for weight in module.parameters())


def activation_bytes(module: nn.Module, *example_args: Any) -> int:
    """Bytes that a forward pass keeps for the backward one, besides the weights.

    They grow in proportion to the batch. Measured, and therefore to be asked with a small batch;
    what a compiler would fuse away is counted.
    """
    known = {_storage(value) for value in (*module.parameters(), *module.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        if _storage(value) not in known:
            kept[_storage(value)] = value
        return value

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda value: value):
        output = module(*example_args)
    del output
    return sum(value.untyped_storage().nbytes() for value in kept.values())


def _storage(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


class _Missed(TorchDispatchMode):
    """Counts what torch's counter leaves out.

    Transforms, the rest of complex products, attention on a CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in (_aten._fft_c2c, _aten._fft_r2c, _aten._fft_c2r):
            self.total += _transform(args, result, is_real=packet is not _aten._fft_c2c)
        elif packet in (_aten.bmm, _aten.mm) and result.is_complex():
            # A complex product and sum takes eight operations; two are counted already.
            self.total += 6 * args[0].numel() * args[1].shape[-1]
        elif packet is _aten._scaled_dot_product_flash_attention_for_cpu:
            query, key, value = args[:3]
            scores = query.numel() // query.shape[-1] * key.shape[-2]
            self.total += 2 * scores * (query.shape[-1] + value.shape[-1])
        return result


def _transform(args: Sequence[Any], result: Tensor, *, is_real: bool) -> int:
    """5 N log2 N operations for each transform of N points together, over all axes of one."""
    size = max(args[0].numel(), result.numel())
    points = math.prod(max(args[0].shape[axis], result.shape[axis]) for axis in args[1])
    operations = 5 * size * math.log2(max(points, 1))
    return round(operations / 2 if is_real else operations)
