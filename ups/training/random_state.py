"""torch's random numbers: different on every process, saved with a run, untouched by validation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ups.training.distributed import gather_objects, rank

_VALIDATION_SEED = 0


def differ_by_process() -> None:
    """Let processes that began with one seed draw different numbers; the first keeps its own."""
    if rank():
        torch.manual_seed((torch.initial_seed() + rank()) % 2**63)


def random_states(device: torch.device) -> list[dict[str, Any]]:
    """The generators' states of all processes, for a checkpoint."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return gather_objects({"cpu": torch.get_rng_state(), "cuda": cuda})


def restore_random_states(states: list[dict[str, Any]], device: torch.device) -> None:
    """Take up this process' state; one that was not there before draws numbers of its own."""
    if rank() >= len(states):
        differ_by_process()
        return
    mine = states[rank()]
    torch.set_rng_state(mine["cpu"])
    if device.type == "cuda" and mine["cuda"] is not None:
        torch.cuda.set_rng_state(mine["cuda"], device)


@contextmanager
def fixed_random_numbers(device: torch.device) -> Iterator[None]:
    """The same random numbers in every such block and on every process; training's go on after."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(_VALIDATION_SEED)
        yield
