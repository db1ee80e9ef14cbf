"""Which of several processes this one is, and how to start them on one machine. Needs no torch."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

from ups.errors import ConfigError, UpsError

_ALIKE_S, _GRACE_S = 10.0, 60.0
_PORTS = range(20000, 30000)
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class AgreedError(UpsError):
    """Raised on every process alike, so that one of them tells it for all."""


@dataclass(frozen=True)
class Place:
    """One process among those that train together.

    Attributes:
        rank: From 0 to world_size - 1; 0 logs, prints and writes.
        local_rank: Among those on the same machine; chooses the GPU.
        address: Host of rank 0, where all meet.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29500


def find_place(environment: Mapping[str, str] | None = None) -> Place:
    """Where torchrun, `ups train --nproc` or srun put this process; alone without any of them.

    Inside `sbatch` without `srun` there is one process, however many tasks were asked for: only a
    job step that srun started sets SLURM_STEP_NUM_TASKS.

    Raises:
        ConfigError: A variable is missing or is no number.
    """
    found = os.environ if environment is None else environment
    try:
        if "RANK" in found and "WORLD_SIZE" in found:
            return Place(
                rank=int(found["RANK"]),
                world_size=int(found["WORLD_SIZE"]),
                local_rank=int(found.get("LOCAL_RANK", found["RANK"])),
                address=found.get("MASTER_ADDR", "127.0.0.1"),
                port=int(found.get("MASTER_PORT", 29500)),
            )
        if int(found.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            return _slurm_place(found)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"environment: not that of one of several processes: {error}",
            hint="start with ups train --nproc N, torchrun or srun",
        ) from error
    return Place()


def _slurm_place(found: Mapping[str, str]) -> Place:
    nodes = found.get("SLURM_STEP_NODELIST") or found["SLURM_JOB_NODELIST"]
    job, step = int(found.get("SLURM_JOB_ID", 0)), int(found.get("SLURM_STEP_ID", 0))
    return Place(
        rank=int(found["SLURM_PROCID"]),
        world_size=int(found["SLURM_STEP_NUM_TASKS"]),
        local_rank=int(found["SLURM_LOCALID"]),
        address=found.get("MASTER_ADDR") or first_host(nodes),
        port=int(found.get("MASTER_PORT") or _PORTS[(job + step) % len(_PORTS)]),
    )


def first_host(nodes: str) -> str:
    """The first name of Slurm's compressed list: 'node[003-005,009],login' begins with node003.

    Raises:
        ValueError: The list is empty or a bracket is not closed.
    """
    first = re.match(r"(?:\[[^\]]*\]|[^,\[\]])+", nodes.strip())
    if first is None or nodes.count("[") != nodes.count("]"):
        raise ValueError(f"node list {nodes!r}")
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0])


@contextmanager
def told_by_main() -> Iterator[None]:
    """Processes after the first print no results, and leave errors that all share to it."""
    if find_place().rank == 0:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        try:
            yield
        except AgreedError as error:
            raise SystemExit(error.exit_code) from error


def launch(number: int, arguments: Sequence[str]) -> int:
    """Run `ups <arguments>` in `number` processes on this machine until all have ended.

    They find each other by torchrun's environment variables; torchrun itself would hide their exit
    codes and not pass SIGUSR1 on. When one fails, the others have ten seconds to fail alike, are
    then told to end, and are killed a minute later.

    Returns:
        The exit code of the first that failed, 128 + the signal if one ended it, or 0.
    """
    port = _free_port()
    threads = str(max(1, (os.cpu_count() or 1) // number))
    group = []
    for rank in range(number):
        environment = {
            "OMP_NUM_THREADS": threads,
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(number),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = [sys.executable, "-m", "ups", *arguments]
        group.append(subprocess.Popen(command, env=environment))
    with _passing_on(group):
        return _wait(group)


@contextmanager
def _passing_on(group: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def pass_on(number: int, frame: object) -> None:
        _tell(group, number)

    before = {number: signal.signal(number, pass_on) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(group: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in group:
        if process.poll() is None:
            process.send_signal(number)


def _wait(group: Sequence[subprocess.Popen[bytes]]) -> int:
    failed, since, told = 0, 0.0, False
    while None in [process.poll() for process in group]:
        if not failed:
            failed, since = _first_failure(group), time.monotonic()
        elif time.monotonic() > since + _ALIKE_S + _GRACE_S:
            _tell(group, signal.SIGKILL)
        elif time.monotonic() > since + _ALIKE_S and not told:
            _tell(group, signal.SIGTERM)
            told = True
        time.sleep(0.05)
    failed = failed or _first_failure(group)
    return 128 - failed if failed < 0 else failed


def _first_failure(group: Sequence[subprocess.Popen[bytes]]) -> int:
    return next((process.returncode for process in group if process.returncode), 0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
