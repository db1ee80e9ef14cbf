"""Questions to a dstack server that take more than one call, or more than one class of theirs."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from ups.remote.driver import Machine, Offer, Plan
from ups.remote.drivers import dstack_answers as answers
from ups.remote.drivers import dstack_task as task
from ups.remote.drivers.dstack_client import (
    Client,
    PollLogsRequest,
    ResourceNotExistsError,
    Run,
    RunSpec,
    translated,
)
from ups.remote.spec import JobSpec

_PAGE = 1000
_SINGLE_NODE_ONLY = ("vastai",)


def run_spec(
    spec: JobSpec, content: Mapping[str, Any], archives: Sequence[Mapping[str, str]] = ()
) -> RunSpec:
    """A submission; nothing of a git repository is in it, and the server's own key opens it."""
    return RunSpec.model_validate({
        "run_name": spec.id,
        "repo_id": "none",
        "repo_data": {"repo_type": "virtual"},
        "file_archives": list(archives),
        "configuration": dict(content),
        "profile": None,
    })  # fmt: skip


def get_run(client: Client, project: str, name: str) -> Run | None:
    with translated(f"asking for {name}"):
        try:
            return client.runs.get(project, name)
        except ResourceNotExistsError:
            return None


def forget_secrets(client: Client, project: str, job: str) -> None:
    """Take the values that a job brought along from the server; it has ended, or never began."""
    prefix = task.secret_name(job, "")
    with translated("removing secrets"):
        names = [each.name for each in client.secrets.list(project)]
        if mine := [name for name in names if name.startswith(prefix)]:
            client.secrets.delete(project, mine)


def log_text(client: Client, project: str, name: str, submission: Any) -> list[str]:
    """Everything that a submission has printed until now, in the pieces that the server has."""
    pieces, token = [], None
    while True:
        with translated(f"reading the log of {name}"):
            answer = client.logs.poll(
                project,
                PollLogsRequest(
                    run_name=name, job_submission_id=submission, limit=_PAGE, next_token=token
                ),
            )
        pieces += [base64.b64decode(each.message).decode(errors="replace") for each in answer.logs]
        token = answer.next_token
        if token is None:
            return pieces


def has_ended(run: Run | None, submission: Any) -> bool:
    """Whether a submission will print nothing more."""
    if run is None or run.status.is_finished() or not run.jobs:
        return True
    mine = [each for each in run.jobs[0].job_submissions if each.id == submission]
    return not mine or mine[0].status.is_finished()


def machines(client: Client, project: str) -> list[Machine]:
    """Instances of all fleets that are not given back yet, with the job that each was made for."""
    with translated("listing machines"):
        found = [
            (fleet.name, instance)
            for fleet in client.fleets.list(project)
            for instance in fleet.instances
            if instance.status.value != "terminated"
        ]
        jobs = _jobs_by_instance(client, [instance.id for _, instance in found])
    return [
        Machine(
            engine="dstack",
            name=instance.name,
            state=instance.status.value,
            job=jobs.get(instance.id, ""),
            price=float(instance.price or 0.0),
            age_s=answers.age_s(instance.created),
            details={
                "fleet": fleet,
                "number": str(instance.instance_num),
                "backend": instance.backend.value if instance.backend else "",
                "region": instance.region or "",
                "host": instance.hostname or "",
            },
        )
        for fleet, instance in found
    ]


def _jobs_by_instance(client: Client, instances: Sequence[Any]) -> dict[Any, str]:
    """Run names by instance, from the server's own events, oldest first: a reused one gets new."""
    if not instances:
        return {}
    jobs: dict[Any, str] = {}
    for event in client.events.list(target_instances=list(instances), limit=100, ascending=False):
        runs = [each.name for each in event.targets if each.type == "job"]
        for each in event.targets:
            if each.type == "instance" and runs:
                jobs.setdefault(each.id, runs[0].rsplit("-", 2)[0])
    return jobs


def warnings(plan_offers: Sequence[Offer], spec: JobSpec, everything: Sequence[Offer],
             has_fleet: bool) -> list[str]:  # fmt: skip
    """Why a plan has no machine, the first reason first; empty if it has one."""
    if any(offer.available for offer in plan_offers):
        return []
    if not has_fleet:
        return ["no fleet is set up, so dstack offers nothing"]
    cheapest = answers.cheapest_of(everything)
    kind = "spot" if spec.spot else "on-demand"
    if cheapest is None:
        where = " on several nodes" if spec.nodes > 1 else ""
        return [f"no {kind} machine with {spec.gpu}{where} is offered by any backend"]
    if cheapest.price > float(spec.max_price or 0):
        which = f"{cheapest.gpu or 'CPU'}, {cheapest.backend} {cheapest.region}".strip()
        return [
            f"no {kind} offer with {spec.gpu} under ${spec.max_price:g}/h;"
            f" the cheapest is ${cheapest.price:g}/h ({which})"
        ]
    if spec.nodes > 1 and cheapest.backend in _SINGLE_NODE_ONLY:
        return [f"{cheapest.backend} has no multi-node jobs"]
    return [f"no machine with {spec.gpu} can be had now"]


def remedy(plan: Plan, spec: JobSpec) -> str:
    """What a user does about the first warning."""
    if "no fleet" in plan.warnings[0]:
        return "ups remote setup"
    if plan.cheapest is not None and plan.cheapest.price > float(spec.max_price or 0):
        return f"--max-price {plan.cheapest.price * 1.05:.2f}"
    return f"ups remote offers --gpu {spec.gpu.name or 'A100'}"
