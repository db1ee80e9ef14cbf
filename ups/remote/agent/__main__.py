"""`python -m ups.remote.agent job.json`: what run.sh starts."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from ups.errors import UpsError
from ups.remote.agent.steps import Limits, Outcome
from ups.remote.agent.telling import Reporter
from ups.remote.agent.work import Job, use_own_remotes
from ups.remote.spec import EXIT_PREFLIGHT, JobSpec

DEADLINE = "UPS_REMOTE_DEADLINE"
"""Unix time, set by the engine: it holds over all machines of a job together."""
_MARGIN_S = 120.0
_MARGIN_PART = 0.25


def main(arguments: list[str]) -> int:
    """Do the job of a specification; returns what the process exits with."""
    path = Path(arguments[0]).resolve()
    try:
        spec = JobSpec.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        print(f"error: {path}: not a job: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_PREFLIGHT
    secrets = {name: os.environ.get(name, "") for name in spec.secrets}
    run = f"{spec.task.run_name}/{spec.task.run_id}"
    reporter = Reporter(path.parent, spec.id, run, secrets)
    limits = limits_of(spec)
    _listen(limits)
    reporter.event("began", job=spec.id, run=run)
    outcome = Outcome(1, reason="the agent itself failed")
    try:
        outcome = _done(spec, path.parent, limits, reporter, secrets)
    finally:
        reporter.ended(outcome.code, outcome.reason)
    return outcome.code


def limits_of(spec: JobSpec) -> Limits:
    """The time limit that the engine has set, else that of the specification from now on."""
    now = time.time()
    if named := os.environ.get(DEADLINE):
        deadline = float(named)
    elif spec.max_hours is not None:
        deadline = now + 3600 * float(spec.max_hours)
    else:
        return Limits(hang_s=60 * float(spec.hang_minutes))
    margin = min(_MARGIN_S, _MARGIN_PART * max(deadline - now, 0.0))
    return Limits(deadline, margin, hang_s=60 * float(spec.hang_minutes))


def _done(
    spec: JobSpec, folder: Path, limits: Limits, reporter: Reporter, secrets: dict[str, str]
) -> Outcome:
    if missing := [name for name, value in secrets.items() if not value]:
        return Outcome(EXIT_PREFLIGHT, reason=f"{', '.join(missing)} did not arrive here")
    try:
        spec = use_own_remotes(spec, folder)
        return Job(spec, folder, limits, reporter).do()
    except UpsError as error:
        return Outcome(EXIT_PREFLIGHT, reason=str(error))


def _listen(limits: Limits) -> None:
    """SIGTERM, SIGUSR1 and Ctrl-C ask for a checkpoint and the end; a lost terminal does not."""

    def ask(number: int, frame: FrameType | None) -> None:
        limits.ask()

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, ask)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
