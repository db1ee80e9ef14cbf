"""Starting, watching and ending jobs, with a record that no kill of the client loses."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ups.errors import EXIT_PREEMPTED, RemoteError, UpsError
from ups.remote import drivers, records
from ups.remote.bundle import build_bundle
from ups.remote.driver import Driver, Status
from ups.remote.prepare import secret_values
from ups.remote.records import Job
from ups.remote.spec import (
    EXIT_HANG,
    EXIT_INFRASTRUCTURE,
    EXIT_PREFLIGHT,
    EXIT_STOPPED,
    EXIT_TIME_LIMIT,
    JobSpec,
)
from ups.transfer.scratch import scratch_folder

Say = Callable[[str], object]
Build = Callable[[JobSpec, Path], object]

MEANINGS: Mapping[int, str] = {
    0: "done",
    1: "a bug in ups: the traceback is in the log",
    2: "the config or an option is wrong",
    3: "data are missing or damaged",
    4: "a checkpoint or cache is missing or damaged",
    5: "a gate was missed; checkpoints and reports are pushed",
    6: "the remote failed",
    7: "a package is missing there",
    8: "interrupted; its state was saved",
    EXIT_INFRASTRUCTURE: "the engine failed: no machine, or the machine was lost",
    EXIT_TIME_LIMIT: "the time limit was reached",
    EXIT_STOPPED: "stopped by the user",
    EXIT_HANG: "no progress; it was ended",
    EXIT_PREFLIGHT: "the machine was not fit, or what the job needs is not there",
}
"""What the exit code of a job says."""

LOST_AFTER_S = 120.0
"""A job that was being created, and that the engine does not know so much later, is none."""
_TRIES, _POLL_S, _WAIT_S = 5, 2.0, 30.0
_WAITING = ("queued", "starting")


def driver_for(job: Job) -> Driver:
    return drivers.driver_of(job.spec.engine, job.spec.options)


def start(
    spec: JobSpec,
    driver: Driver,
    plan: Mapping[str, Any],
    *,
    build: Build | None = None,
    say: Say = lambda line: None,
) -> Job:
    """Record a job, then create it at its engine.

    Args:
        plan: What was planned, for the record: `Outlook.to_dict`.
        build: Fills a folder with what the job takes along; None makes the usual bundle.
        say: Called with what the user should know.
    Raises:
        UsageError: A secret has no value here.
        RemoteError: The engine refuses. The record then says that nothing was created, unless the
            engine does not answer: then the job is looked for by the next command.
    """
    values = secret_values(spec)
    records.begin(spec, plan)
    with records.creating(spec.id), scratch_folder("job") as folder:
        try:
            built = (build or build_bundle)(spec, folder)
        except UpsError as error:
            records.note(spec.id, records.REFUSED, reason=str(error))
            raise
        for warning in getattr(built, "warnings", ()):
            say(warning)
        records.note(spec.id, records.CREATING)
        try:
            handle = driver.launch(spec, folder, values)
        except UpsError as error:
            _note_refusal(spec, driver, error)
            raise
        records.note(spec.id, records.CREATED, handle=dict(handle))
    return records.load(spec.id)


def _note_refusal(spec: JobSpec, driver: Driver, error: UpsError) -> None:
    """After a failed creation: whether something exists all the same is for the engine to say."""
    try:
        handle = driver.find(spec.id)
    except RemoteError:
        return  # it stays pending
    if handle is None:
        records.note(spec.id, records.REFUSED, reason=str(error))
    else:
        records.note(spec.id, records.ADOPTED, handle=dict(handle))


def reconcile(job: Job, driver: Driver) -> Job:
    """Find a job whose client ended between its creation and its record.

    Raises:
        RemoteError: The engine does not answer.
    """
    if not job.is_pending or records.is_being_created(job.id):
        return job
    handle = driver.find(job.id)
    creating = job.last(records.CREATING)
    if handle is not None:
        records.note(job.id, records.ADOPTED, handle=dict(handle))
    elif creating is not None and time.time() - float(creating["time"]) > LOST_AFTER_S:
        records.note(job.id, records.REFUSED, reason="its client ended before it was created")
    else:
        return job
    return records.load(job.id)


def refresh(job: Job, driver: Driver) -> Job:
    """The job as its engine sees it now, recorded.

    Raises:
        RemoteError: The engine does not answer.
    """
    job = reconcile(job, driver)
    if job.handle is None or job.has_ended:
        return job
    return records.note_status(job, driver.status(job.handle))


def follow(job: Job, driver: Driver, say: Say, *, tell: Say = lambda line: None) -> Job:
    """Show a job's output until it has ended.

    A connection that breaks is made again, and no line is shown twice.

    Args:
        say: Called with each line of the job's output.
        tell: Called with what happens to its machine.
    Raises:
        RemoteError: The engine does not answer for long; the job goes on.
    """
    job = _until_running(job, driver, tell)
    handle, seen, failures = _handle_of(job), 0, 0
    while not job.has_ended:
        try:
            for number, line in enumerate(driver.logs(handle, follow=True)):
                if number >= seen:
                    say(line)
                    seen, failures = number + 1, 0
            job = _noted(job, driver.wait(handle, timeout_s=_WAIT_S), tell)
        except RemoteError as error:
            failures += 1
            if failures > _TRIES:
                raise RemoteError(f"{error}; the job goes on", hint=_later(job)) from error
            time.sleep(_POLL_S * failures)
    if seen == 0:
        for line in driver.logs(handle):
            say(line)
    return job


def wait(job: Job, driver: Driver, *, tell: Say = lambda line: None) -> Job:
    """Return when a job has ended, without its output.

    Raises:
        RemoteError: The engine does not answer.
    """
    job = refresh(job, driver)
    while not job.has_ended:
        job = _noted(job, driver.wait(_handle_of(job), timeout_s=_WAIT_S), tell)
    return job


def stop(job: Job, driver: Driver) -> Job:
    """End a job and its machine, and wait for both; nothing where it has ended.

    Raises:
        RemoteError: The engine does not answer, another command is launching the job now, or the
            machine does not go.
    """
    if job.has_ended:
        return job
    if records.is_being_created(job.id):
        raise RemoteError(f"{job.id}: is being launched by another command", hint="a moment later")
    records.note(job.id, records.STOPPING)
    job = reconcile(records.load(job.id), driver)
    while job.is_pending:
        time.sleep(_POLL_S)
        job = reconcile(job, driver)
    if job.handle is None:
        return job
    driver.stop(job.handle)
    return records.note_status(job, driver.status(job.handle))


def exit_code_of(job: Job) -> int:
    """What a command that waited for the job exits with: the job's own code, or a code that says
    what became of it.
    """
    status = job.status
    if status is None:
        return EXIT_INFRASTRUCTURE
    if job.was_asked_to_stop and status.exit_code in (None, EXIT_PREEMPTED):
        return EXIT_STOPPED
    match status.state:
        case "done":
            return EXIT_INFRASTRUCTURE if status.exit_code is None else status.exit_code
        case "stopped":
            return EXIT_STOPPED
        case "timed_out":
            return EXIT_TIME_LIMIT
        case _:
            return EXIT_INFRASTRUCTURE


def outcome(job: Job) -> str:
    """One line on how a job ended."""
    if job.refusal:
        return f"was not created: {job.refusal}"
    code = exit_code_of(job)
    meaning = MEANINGS.get(code, "ended by a signal" if code > 128 else "failed")
    reason = job.status.reason if job.status is not None else ""
    return f"exit {code}: {meaning}" + (f" ({reason})" if reason else "")


def _until_running(job: Job, driver: Driver, tell: Say) -> Job:
    job = refresh(job, driver)
    told = ""
    while True:
        status = job.status
        now = _in_words(status)
        if now != told:
            tell(now)
            told = now
        if job.has_ended or (status is not None and status.state not in _WAITING):
            return job
        time.sleep(_POLL_S)
        job = refresh(job, driver)


def _noted(job: Job, status: Status, tell: Say) -> Job:
    before = job.status
    job = records.note_status(job, status)
    if before is None or (before.state, before.attempts) != (status.state, status.attempts):
        tell(_in_words(status))
    return job


def _in_words(status: Status | None) -> str:
    if status is None:
        return "being created"
    machine = f" on {status.machine}" if status.machine else ""
    price = f", ${status.price:.2f}/h" if status.price else ""
    again = f", machine {status.attempts}" if status.attempts > 1 else ""
    return f"{status.state}{machine}{price}{again}"


def _handle_of(job: Job) -> Mapping[str, Any]:
    if job.handle is None:
        raise RemoteError(f"{job.id}: {outcome(job)}", hint="ups remote list")
    return job.handle


def _later(job: Job) -> str:
    return f"ups remote wait {job.id}; to end it: ups remote stop {job.id}"
