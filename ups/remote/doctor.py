"""The audit: jobs whose client was killed, and machines that belong to no job that runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ups.errors import UpsError
from ups.remote import launch, records
from ups.remote.driver import Driver, Machine
from ups.remote.engines import Engine, usable
from ups.remote.records import Job

Verdict = Literal["in use", "leaving", "ended", "unknown job", "no job"]
_LOOKED_AT_S = 14 * 86400.0
_PLACE = ("host", "user", "port")


@dataclass(frozen=True)
class Held:
    """A machine at an engine, and whether a job that runs needs it."""

    machine: Machine
    verdict: Verdict

    @property
    def is_leak(self) -> bool:
        return self.verdict not in ("in use", "leaving")


@dataclass(frozen=True)
class Audit:
    """What was found, and what was done about it.

    Attributes:
        unreachable: Engine -> why it did not answer.
        found: One line for each job whose record was completed.
        removed: Names of machines that were given back.
        failed: One line for each thing that could not be done.
    """

    engines: Sequence[str]
    unreachable: dict[str, str]
    found: Sequence[str]
    held: Sequence[Held]
    removed: Sequence[str]
    failed: Sequence[str]

    @property
    def leaks(self) -> list[Held]:
        """Machines that cost and serve nothing, and are still there."""
        return [one for one in self.held if one.is_leak and one.machine.name not in self.removed]


def audit(*, remove: bool = False) -> Audit:
    """Complete the records of jobs, and look for machines without a job at every engine.

    Args:
        remove: Give those machines back, and end jobs whose stop was cut short.
    """
    engines = _engines(records.load_all())
    unreachable: dict[str, str] = {}
    found: list[str] = []
    held: list[Held] = []
    removed: list[str] = []
    failed: list[str] = []
    for job in records.load_all():
        line, problem = _completed(job, remove)
        found += [line] if line else []
        failed += [problem] if problem else []
    for name, engine in engines.items():
        try:
            driver = engine.driver()
            machines = driver.machines()
        except UpsError as error:
            if engine.is_set_up:
                unreachable[name] = str(error)
            continue
        judged = [Held(machine, _verdict(machine)) for machine in machines]
        held += judged
        if remove:
            _remove([one.machine for one in judged if one.is_leak], driver, removed, failed)
    asked = [name for name, engine in engines.items() if engine.is_set_up]
    return Audit(asked, unreachable, found, held, removed, failed)


def _engines(jobs: Sequence[Job]) -> dict[str, Engine]:
    """Those that can be used from here and those of jobs of the last two weeks, each host once."""
    found = usable()
    for job in jobs:
        if not job.has_ended or time.time() - job.began < _LOOKED_AT_S:
            found.append(Engine(job.spec.engine, job.spec.options))
    return {_where(engine): engine for engine in found}


def _where(engine: Engine) -> str:
    place = " ".join(engine.options[name] for name in _PLACE if name in engine.options)
    return f"{engine.name} {place}".strip() if engine.name != "dstack" else "dstack"


def _completed(job: Job, remove: bool) -> tuple[str, str]:
    """Complete one record: a line on what changed, and one on what could not be done."""
    if job.has_ended:
        return "", ""
    try:
        driver = launch.driver_for(job)
        after = launch.refresh(job, driver)
        if after.was_asked_to_stop and not after.has_ended:
            if not remove:
                return "", f"{job.id}: its stop was cut short: ups remote stop {job.id}"
            launch.stop(after, driver)
            return f"{job.id}: stopped", ""
    except UpsError as error:
        return "", f"{job.id}: {error}"
    if job.is_pending and not after.is_pending:
        return f"{job.id}: {'found again' if after.handle else after.refusal}", ""
    return "", ""


def _verdict(machine: Machine) -> Verdict:
    if "terminating" in machine.state or "stopping" in machine.state:
        return "leaving"
    if not machine.job:
        return "no job"
    if machine.job not in records.ids():
        return "unknown job"
    return "ended" if records.load(machine.job).has_ended else "in use"


def _remove(
    machines: Sequence[Machine], driver: Driver, removed: list[str], failed: list[str]
) -> None:
    for machine in machines:
        try:
            driver.remove(machine)
        except UpsError as error:
            failed.append(f"{machine.name}: {error}")
        else:
            removed.append(machine.name)
