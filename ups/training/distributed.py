"""Several processes that train one model: how they meet, agree and share work.

Everything works with one process too, where it costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from ups.crew import Crew
from ups.errors import ConfigError, UpsError
from ups.training.processes import AgreedError, find_place

Item = TypeVar("Item")
_TIMEOUT_S = 3600.0


class ElsewhereError(AgreedError):
    """Another process met an error and tells it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def together(device: str = "auto") -> Iterator[torch.device]:
    """Join the other processes for the block; alone, only choose the device.

    GPUs talk by NCCL, the rest by gloo. A process that waits longer than an hour for another
    (UPS_TIMEOUT_S) ends with an error.

    Args:
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'; of several processes each takes the GPU of its
            local rank.
    Raises:
        ConfigError: There are fewer GPUs than processes here, or 'cuda:N' is asked of several.
    """
    place, chosen = find_place(), local_device(device)
    if place.world_size == 1 or dist.is_initialized():
        yield chosen
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo",
        init_method=f"tcp://{place.address}:{place.port}",
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(seconds=float(os.environ.get("UPS_TIMEOUT_S", _TIMEOUT_S))),
    )
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


def device_name(device: torch.device) -> str:
    """What to call a device in a record: 'cpu', 'NVIDIA H200'."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def local_device(name: str) -> torch.device:
    """The device of this process; 'auto' and 'cuda' are the GPU of its local rank."""
    place = find_place()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: '{name}' is not a device", hint="cpu, cuda, cuda:0") from error
    if device.type != "cuda":
        return device
    number = torch.cuda.device_count()
    if not number:
        raise ConfigError("device: no CUDA device here", hint="--set device=cpu, or ups doctor")
    if place.world_size == 1:
        return device
    if device.index is not None:
        raise ConfigError(
            f"device: {place.world_size} processes cannot share {name}", hint="--set device=cuda"
        )
    if 1 < number <= place.local_rank:  # with one, Slurm has given each process its own
        raise ConfigError(f"device: process {place.local_rank} of this machine has no GPU of its "
                          f"own, {number} are here", hint=f"--nproc {number}")  # fmt: skip
    return torch.device("cuda", place.local_rank % number)


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process logs, prints and writes."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.all_reduce(torch.zeros(1))  # by gloo: dist.barrier() would choose a GPU


def portion(rows: Any, micro: int = 0, accumulate: int = 1) -> Any:
    """This process' share of one micro-batch of a global batch: every n-th row.

    Args:
        rows: Anything that can be sliced along its first axis.
        micro: Which of the `accumulate` micro-batches.
    """
    return rows[rank() * accumulate + micro :: world_size() * accumulate]


def all_equal_portions(batch_size: int, accumulate: int = 1) -> bool:
    """Whether all micro-batches of all processes are equally large, so that their mean is that of
    the global batch.
    """
    return batch_size % (world_size() * accumulate) == 0


def portion_of(items: Sequence[Item]) -> list[Item]:
    """This process' share of a list of jobs; shares differ by one job at most."""
    return list(items[rank() :: world_size()])


def in_order(results: Sequence[Item]) -> list[Item]:
    """The results of everyone's `portion_of` a list, on every process, in the order of that list.

    Results are pickled: tensors should be on the CPU.
    """
    shares = gather_objects(list(results))
    longest = max(len(share) for share in shares)
    return [share[index] for index in range(longest) for share in shares if index < len(share)]


def gather_objects(item: Item) -> list[Item]:
    """The items of all processes, in the order of their ranks, on every process."""
    if not dist.is_initialized():
        return [item]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, item)
    return found


def crew() -> Crew:
    """The processes as rooms below know them."""

    def gather(mine: list[Any]) -> list[Any]:
        return [item for share in gather_objects(mine) for item in share]

    return Crew(rank(), world_size(), gather)


def gathered(values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "process *shape"]:
    """Tensors of equal shape from all processes, stacked in the order of their ranks."""
    if not dist.is_initialized():
        return values[None]
    found = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(found, values.contiguous())
    return torch.stack(found)


def on_main(work: Callable[[], Item]) -> Item:
    """Do `work` on the first process, and have its result on all.

    Raises:
        UpsError: What the first process met; the others raise `ElsewhereError` with its exit code.
    """
    if not dist.is_initialized():
        return work()
    parcel: list[Any] = [None, None]
    if is_main():
        try:
            parcel[0] = work()
        except UpsError as error:
            dist.broadcast_object_list([None, (str(error), error.exit_code)], src=0)
            raise
    dist.broadcast_object_list(parcel, src=0)
    result, failure = parcel
    if failure is not None:
        raise ElsewhereError(*failure)
    return result


@contextmanager
def main_first() -> Iterator[None]:
    """Let the first process through the block before the others, which find what it made."""
    if not is_main():
        barrier()
    try:
        yield
    finally:
        if is_main():
            barrier()
