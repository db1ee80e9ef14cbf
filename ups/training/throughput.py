"""How fast training runs, and how much of the machine it uses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ups.training.distributed import world_size
from ups.training.peaks import peak_flops


class Throughput:
    """Samples per second between two readings; time in `paused` does not count.

    Args:
        batch_size: Samples of one optimizer step, of all processes together.
        flops_per_step: Of one optimizer step, forward and backward, of all processes together.
    """

    def __init__(
        self, batch_size: int, device: torch.device, flops_per_step: float | None = None
    ) -> None:
        self._batch_size, self._device, self._flops = batch_size, device, flops_per_step
        self._steps, self._since, self._paused = 0, time.perf_counter(), 0.0
        is_cuda = device.type == "cuda"
        self._peak = peak_flops(torch.cuda.get_device_name(device)) if is_cuda else None

    def count(self) -> None:
        """One optimizer step more."""
        self._steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def read(self) -> dict[str, float | int]:
        """`samples_per_s`, on a GPU `peak_memory_bytes`, and `mfu` where it is known.

        `mfu` is model FLOP utilisation: of the dense bfloat16 peak, whatever the weights' type.
        """
        now = time.perf_counter()
        seconds = max(now - self._since - self._paused, 1e-9)
        steps, self._steps, self._since, self._paused = self._steps, 0, now, 0.0
        found: dict[str, float | int] = {"samples_per_s": steps * self._batch_size / seconds}
        if self._device.type == "cuda":
            found["peak_memory_bytes"] = torch.cuda.max_memory_allocated(self._device)
        if self._flops is not None and self._peak is not None:
            found["mfu"] = steps * self._flops / seconds / (self._peak * world_size())
        return found
