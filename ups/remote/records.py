"""What is known here of every job: `UPS_HOME/remote/jobs/<id>/{spec.json, events.jsonl}`.

The specification is written before anything is created at an engine, and events are only ever
appended, each flushed to the disk. A client may be killed at any moment: a line that was only half
written is skipped, and a job without a handle is looked for at its engine by its id.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ups import files, paths
from ups.errors import RemoteError, did_you_mean, translated_os_errors
from ups.remote.driver import Handle, Status
from ups.remote.spec import JobSpec

SPEC, EVENTS = "spec.json", "events.jsonl"
PLANNED, CREATING, CREATED, ADOPTED = "planned", "creating", "created", "adopted"
REFUSED, STOPPING, STATUS = "refused", "stopping", "status"
_STATUS_EVERY_S = 60.0


@dataclass(frozen=True)
class Job:
    """A job as its record says.

    Attributes:
        events: Oldest first; each has `event` and `time` (seconds since 1970).
    """

    spec: JobSpec
    events: tuple[Mapping[str, Any], ...]

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def began(self) -> float:
        return float(self.events[0]["time"]) if self.events else 0.0

    @property
    def handle(self) -> Handle | None:
        """What the engine finds it by; None where nothing is known to have been created."""
        found = self.last(CREATED, ADOPTED)
        return None if found is None else found["handle"]

    @property
    def status(self) -> Status | None:
        """As last seen; None before anything was."""
        found = self.last(STATUS)
        if found is None:
            return None
        return Status(**{key: found[key] for key in found if key in Status.__annotations__})

    @property
    def seen(self) -> float:
        """When `status` was last known to hold."""
        found = self.last(STATUS)
        return self.began if found is None else float(found["time"])

    @property
    def is_pending(self) -> bool:
        """Whether something may exist at the engine that has no handle here."""
        return self.handle is None and self.last(CREATING) is not None and not self.refusal

    @property
    def refusal(self) -> str:
        """Why nothing was created; empty where something was or may have been."""
        found = self.last(REFUSED)
        return "" if found is None or self.handle is not None else str(found.get("reason"))

    @property
    def was_asked_to_stop(self) -> bool:
        return self.last(STOPPING) is not None

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it can run or cost any more, as far as is known."""
        if self.is_pending:
            return False
        return self.handle is None or (self.status is not None and self.status.has_ended)

    @property
    def cost(self) -> float:
        """US dollars so far, as last seen."""
        status = self.status
        return 0.0 if status is None else status.price * status.running_s / 3600

    def last(self, *names: str) -> Mapping[str, Any] | None:
        return next((one for one in reversed(self.events) if one["event"] in names), None)


def jobs_dir() -> Path:
    return paths.home() / "remote" / "jobs"


def begin(spec: JobSpec, plan: Mapping[str, Any]) -> Job:
    """Write a new job's record, before anything of it is created anywhere.

    Args:
        plan: What was planned and shown: price, hours, worst cost; plain values without secrets.
    Raises:
        RemoteError: There is a job of this id, or the disk takes nothing.
    """
    folder = jobs_dir() / spec.id
    if (folder / SPEC).exists():
        raise RemoteError(f"{spec.id}: there is a job of this name", hint="ups remote list")
    files.write_text(folder / SPEC, spec.model_dump_json(indent=2) + "\n", RemoteError)
    note(spec.id, PLANNED, **plan)
    return load(spec.id)


def note(job_id: str, event: str, **details: Any) -> None:
    """Append one event and flush it to the disk."""
    path = jobs_dir() / job_id / EVENTS
    line = json.dumps({"event": event, "time": round(time.time(), 3), **details}, allow_nan=False)
    with translated_os_errors(path, "writing", RemoteError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            is_cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, ("\n" * is_cut + line + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if size == 0:
            files.flush(path.parent)


def note_status(job: Job, status: Status) -> Job:
    """Append what an engine says now, if it differs from what is known or that is a minute old."""
    known = job.status
    if known is not None:
        same = replace(status, running_s=known.running_s) == known
        if same and (status.has_ended or time.time() - job.seen < _STATUS_EVERY_S):
            return job
    note(job.id, STATUS, **asdict(status))
    return load(job.id)


def load(job_id: str) -> Job:
    """Read one job's record.

    Raises:
        RemoteError: There is none, or its specification is damaged.
    """
    path = jobs_dir() / job_id / SPEC
    try:
        spec = JobSpec.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        near = did_you_mean(job_id, ids())
        raise RemoteError(f"{job_id}: no such job{near}", hint="ups remote list") from error
    except (OSError, ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RemoteError(f"{path}: not the record of a job: {reason}") from error
    return Job(spec, tuple(_events(path.with_name(EVENTS))))


def find(name: str | None) -> Job:
    """The job of this id or beginning of an id; None is the newest.

    Raises:
        RemoteError: None or several fit.
    """
    known = ids()
    if name is None:
        everything = load_all()
        if not everything:
            raise RemoteError("there is no remote job yet", hint="ups remote launch --help")
        return everything[0]
    fitting = [one for one in known if one.startswith(name)]
    if name in known or len(fitting) != 1:
        if len(fitting) > 1 and name not in known:
            raise RemoteError(f"{name}: {', '.join(fitting)} begin so", hint="give more letters")
        return load(name)
    return load(fitting[0])


def ids() -> list[str]:
    """Of all jobs, in the order of the alphabet."""
    return sorted(path.parent.name for path in jobs_dir().glob(f"*/{SPEC}"))


def load_all() -> list[Job]:
    """Every job, the newest first."""
    return sorted((load(one) for one in ids()), key=lambda job: job.began, reverse=True)


@contextmanager
def creating(job_id: str) -> Iterator[None]:
    """Hold a job while it is created, so that nobody else takes it for abandoned meanwhile."""
    with files.exclusive(jobs_dir() / job_id, "launching this job", RemoteError):
        yield


def is_being_created(job_id: str) -> bool:
    """Whether a client that lives is creating it now."""
    return files.is_locked(jobs_dir() / job_id)


def _events(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict) and "event" in content and "time" in content:
            yield content
