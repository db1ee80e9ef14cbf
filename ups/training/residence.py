"""Where cached tokens are while they are trained on: decided from the memory that is free."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ups.training.processes import find_place

Where = Literal["device", "memory", "stream"]
_SHARE = 0.5
"""Of free memory; the rest is for the model, what it keeps between passes, and other programs."""


@dataclass(frozen=True)
class Residence:
    """Where the tokens of all tasks of a run are.

    Attributes:
        size_bytes: Of all of them.
        shards: Files that they are in.
    """

    where: Where
    size_bytes: int
    shards: int


def choose_residence(
    asked: Literal["auto", "device", "memory", "stream"],
    size_bytes: int,
    shards: int,
    device: torch.device,
    *,
    free_on_device: Callable[[torch.device], int] | None = None,
    free_here: Callable[[], int] | None = None,
) -> Residence:
    """The fastest place of whose free memory the tokens take at most half.

    On the CPU the device is main memory. Several processes on a machine each keep their own, and
    share its memory.

    Args:
        asked: Anything but 'auto' is taken as it is.
        free_on_device, free_here: Bytes; measured by default.
    """
    on_cpu = device.type != "cuda"
    if asked != "auto":
        where: Where = "memory" if asked == "device" and on_cpu else asked
        return Residence(where, size_bytes, shards)
    if not on_cpu and size_bytes <= _SHARE * (free_on_device or free_device_memory)(device):
        return Residence("device", size_bytes, shards)
    if size_bytes <= _SHARE * (free_here or free_memory)() / _processes_here():
        return Residence("memory", size_bytes, shards)
    return Residence("stream", size_bytes, shards)


def free_device_memory(device: torch.device) -> int:
    """Free bytes of a GPU, with what torch holds there and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of main memory that can be taken: the least of what the system and cgroups leave.

    Pages of files that are only cached count as free. Half of the physical memory where the
    system says nothing.

    Args:
        root: In which `proc` and `sys` are looked for.
    """
    found = [left for left in (_available(root), *_left_by_cgroups(root)) if left is not None]
    if found:
        return max(0, min(found))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _available(root: Path) -> int | None:
    return _values(root / "proc/meminfo", scale=1024).get("MemAvailable")


def _left_by_cgroups(root: Path) -> list[int | None]:
    """What this process' control groups and those above them leave, versions 2 and 1."""
    found = []
    for line in _lines(root / "proc/self/cgroup"):
        controllers, _, name = line.partition(":")[2].partition(":")
        if controllers not in ("", "memory"):
            continue
        base = root / "sys/fs/cgroup" / controllers
        names = ("max", "current") if not controllers else ("limit_in_bytes", "usage_in_bytes")
        own = base / name.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(base):
                found.append(_left_by(folder, *names))
    return found


def _left_by(folder: Path, limit: str, usage: str) -> int | None:
    allowed = _number(folder / f"memory.{limit}")
    used = _number(folder / f"memory.{usage}")
    if allowed is None or used is None:
        return None
    cached = _values(folder / "memory.stat")
    return allowed - used + cached.get("inactive_file", cached.get("total_inactive_file", 0))


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, or `max`."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _values(path: Path, scale: int = 1) -> dict[str, int]:
    """`name value` or `name: value kB` of each line."""
    pairs = [line.replace(":", " ").split() for line in _lines(path)]
    return {
        pair[0]: scale * int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdecimal()
    }


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def _processes_here() -> int:
    """How many processes of this run share the machine; all where nobody says."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(local) if local.isdecimal() and int(local) else find_place().world_size
