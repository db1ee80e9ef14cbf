"""What an engine can do, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from ups.remote.spec import JobSpec

State = Literal[
    "queued",  # submitted; no machine yet, or waiting for one again after an interruption
    "starting",  # a machine is being made ready
    "running",
    "stopping",
    "done",  # ended by itself; `exit_code` says how
    "stopped",  # ended by the user
    "timed_out",  # ended by the time limit
    "failed",  # ended by the engine: no capacity, machine lost, set-up failed
    "unknown",  # the engine does not know it (any more)
]
ENDED: tuple[State, ...] = ("done", "stopped", "timed_out", "failed", "unknown")


@dataclass(frozen=True)
class Offer:
    """A machine that could be had now.

    Attributes:
        price: US dollars an hour of one node; 0 where nothing is paid.
        available: Whether the engine says that it can be had at once.
    """

    engine: str
    backend: str
    region: str
    machine: str
    gpu: str
    gpu_count: int
    gpu_memory_gb: float | None
    cpus: int | None
    memory_gb: float | None
    price: float
    spot: bool
    available: bool = True


@dataclass(frozen=True)
class Plan:
    """What `launch` would submit.

    Attributes:
        rendered: The engine's own specification, as text; no secret in it.
        offers: Cheapest first, under the price limit.
        cheapest: Of all, limit or not; None where there is none.
        warnings: One line each.
    """

    rendered: str
    offers: Sequence[Offer]
    cheapest: Offer | None = None
    warnings: Sequence[str] = ()


Handle = Mapping[str, Any]
"""What an engine needs to find a job again; JSON, no secret."""


@dataclass(frozen=True)
class Status:
    """What is known of a job now.

    Attributes:
        exit_code: Of the job's own process, where it has ended by itself.
        reason: One line, where something went wrong.
        machine: Where it runs, for people.
        price: US dollars an hour, of all nodes; 0 where nothing is paid.
        running_s: Since the first machine was there; what is paid for.
        attempts: Machines it has had.
    """

    state: State
    exit_code: int | None = None
    reason: str = ""
    machine: str = ""
    price: float = 0.0
    running_s: float = 0.0
    attempts: int = 1

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True)
class Machine:
    """Something that an engine holds for us: it may cost money.

    Attributes:
        job: Id of the job it carries in its name; empty where it has none of ours.
    """

    engine: str
    name: str
    state: str
    job: str = ""
    price: float = 0.0
    age_s: float = 0.0
    details: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Driver(Protocol):
    """One engine. Everything raises `RemoteError` with one line that says what to do."""

    name: str
    is_paid: bool

    def offers(self, spec: JobSpec) -> list[Offer]:
        """Machines that fit, cheapest first, price limit or not."""
        ...

    def plan(self, spec: JobSpec) -> Plan:
        """What would be submitted; changes nothing."""
        ...

    def launch(self, spec: JobSpec, bundle: Path, secrets: Mapping[str, str]) -> Handle:
        """Submit the job; a second call for the same id returns the first one's handle.

        Args:
            bundle: Folder with job.json, config.yaml, the wheel, the lock file and run.sh.
            secrets: Values by name; handed on by a way that leaves them in no file, log or list.
        """
        ...

    def find(self, job_id: str) -> Handle | None:
        """A job that was submitted, found by its id alone."""
        ...

    def status(self, handle: Handle) -> Status: ...

    def logs(self, handle: Handle, *, follow: bool = False) -> Iterator[str]:
        """Lines of the job's output from its beginning; with `follow` until it ends."""
        ...

    def wait(self, handle: Handle, *, timeout_s: float | None = None) -> Status:
        """Return when the job has ended, or after `timeout_s` with what is known then."""
        ...

    def stop(self, handle: Handle) -> None:
        """End the job and its machine; nothing where it has ended."""
        ...

    def machines(self) -> list[Machine]:
        """All that this engine holds for us, jobs known or not."""
        ...

    def remove(self, machine: Machine) -> None:
        """Give one machine back."""
        ...


def wait_by_asking(
    status: Callable[[], Status], *, poll_s: int | float, timeout_s: int | float | None
) -> Status:
    """Ask until a job has ended, or for `timeout_s`; what is known then."""
    end = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        found = status()
        left = poll_s if end is None else min(poll_s, end - time.monotonic())
        if found.has_ended or left <= 0:
            return found
        time.sleep(left)
