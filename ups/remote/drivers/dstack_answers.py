"""What a dstack server answers, in the words of `ups.remote.driver`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ups.remote.driver import Offer, State, Status

_ACTIVE: dict[str, State] = {
    "pending": "queued",
    "submitted": "queued",
    "provisioning": "starting",
    "running": "running",
    "terminating": "stopping",
}
_BY_ITSELF = ("done_by_runner", "container_exited_with_error")
_STOPPED = ("stopped_by_user", "aborted_by_user")
_REASONS = {
    "failed_to_start_due_to_no_capacity": "no machine could be had",
    "interrupted_by_no_capacity": "the machine was taken back and no other could be had",
    "instance_unreachable": "the machine could not be reached for two minutes",
    "waiting_instance_limit_exceeded": "the machine was not ready in time",
    "waiting_runner_limit_exceeded": "dstack's runner did not start on the machine in time",
    "creating_container_error": "the container could not be made",
    "executor_error": "dstack's runner failed",
    "terminated_by_server": "ended by the dstack server",
    "log_quota_exceeded": "the job printed more than the server keeps in an hour",
}


def offer_of(answer: Any) -> Offer:
    """One machine of a plan. A GPU's memory is in GiB, as dstack counts it."""
    resources = answer.instance.resources
    gpus = resources.gpus
    return Offer(
        engine="dstack",
        backend=answer.backend.value,
        region=answer.region,
        machine=answer.instance.name,
        gpu=gpus[0].name if gpus else "",
        gpu_count=len(gpus),
        gpu_memory_gb=gpus[0].memory_mib / 1024 if gpus else None,
        cpus=resources.cpus,
        memory_gb=resources.memory_mib / 1024,
        price=float(answer.price),
        spot=resources.spot,
        available=answer.availability.is_available(),
    )


def offers_of(plan: Any) -> list[Offer]:
    """Machines of a plan, cheapest first; of several nodes those of the first."""
    if not plan.job_plans:
        return []
    return sorted((offer_of(answer) for answer in plan.job_plans[0].offers), key=_by_price)


def status_of(run: Any) -> Status:
    """What is known of a run; its exit code is that of the first node's latest submission."""
    submissions = run.jobs[0].job_submissions if run.jobs else []
    machines = [each for each in submissions if each.job_provisioning_data is not None]
    latest = submissions[-1] if submissions else None
    state, exit_code, reason = _outcome(run, latest)
    return Status(
        state=state,
        exit_code=exit_code,
        reason=reason,
        machine=_machine(machines[-1]) if machines else "",
        price=_price(run),
        running_s=sum((_seconds(each) for each in machines), 0.0),
        attempts=max(1, len(machines)),
    )


def machine_id(submission: Any) -> str:
    """The cloud's own name of the machine of a submission; empty without one."""
    data = submission.job_provisioning_data
    return "" if data is None else str(data.instance_id)


def age_s(moment: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - moment.astimezone(UTC)).total_seconds())


def _outcome(run: Any, latest: Any) -> tuple[State, int | None, str]:
    status = run.status.value
    if status in _ACTIVE:
        is_made = latest is not None and latest.job_provisioning_data is not None
        is_new = status == "submitted" and is_made and not latest.status.is_finished()
        return "starting" if is_new else _ACTIVE[status], None, ""
    run_reason = run.termination_reason or ""
    reason = (latest.termination_reason if latest is not None else None) or ""
    if reason == "max_duration_exceeded":
        return "timed_out", None, "ended by the time limit"
    if reason in _BY_ITSELF and run_reason not in _STOPPED:
        code = latest.exit_status
        return "done", code if code is not None else int(reason != "done_by_runner"), ""
    if run_reason in _STOPPED:
        return "stopped", latest.exit_status if latest is not None else None, ""
    return "failed", None, _explained(run, reason or run_reason, latest)


def _explained(run: Any, reason: str, latest: Any) -> str:
    text = _REASONS.get(reason) or reason.replace("_", " ") or "ended by the engine"
    message = (latest.termination_reason_message if latest is not None else None) or run.error
    return f"{text}: {' '.join(message.split())}" if message else text


def _machine(submission: Any) -> str:
    data = submission.job_provisioning_data
    where = f"{data.backend.value} {data.region}".strip()
    return f"{data.instance_type.name} in {where}" + (
        f" ({data.hostname})" if data.hostname else ""
    )


def _price(run: Any) -> float:
    """Of all nodes that have a machine now, or had one last."""
    latest = [job.job_submissions[-1] for job in run.jobs if job.job_submissions]
    return float(sum(each.job_provisioning_data.price for each in latest
                     if each.job_provisioning_data is not None))  # fmt: skip


def _seconds(submission: Any) -> float:
    """Upper bound: dstack says when a machine was asked for, not when it was there."""
    if submission.finished_at is None:
        return age_s(submission.submitted_at)
    return float((submission.finished_at - submission.submitted_at).total_seconds())


def _by_price(offer: Offer) -> tuple[bool, float, str]:
    return not offer.available, offer.price, offer.machine


def cheapest_of(offers: Sequence[Offer]) -> Offer | None:
    return min((offer for offer in offers if offer.available), key=_by_price, default=None)
