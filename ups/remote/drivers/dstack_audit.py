"""Machines that a cloud bills and the dstack server does not know, asked of the cloud itself.

They come about when the server dies between the cloud's answer and its own note of it, when it
gives up ending a machine that the cloud will not end, or when its database is lost. Only machines
are looked at whose name is one that dstack gives in our project.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from ups.errors import RemoteError
from ups.remote.driver import Machine
from ups.remote.drivers import dstack_answers as answers
from ups.remote.drivers.dstack_client import BackendType, Client, translated

HOSTS = {"vastai": "https://console.vast.ai", "vultr": "https://api.vultr.com"}
_SUFFIX = re.compile(r"-[a-z0-9]{8}$")
_NODE = re.compile(r"-\d+-\d+$")
_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class _Rented:
    """What a cloud lists.

    Attributes:
        path: Under which it is given back.
    """

    backend: str
    number: str
    label: str
    state: str
    price: float
    since: datetime
    path: str


def strays(client: Client, project: str, known: Sequence[Machine]) -> list[Machine]:
    """Rented machines with a name of ours that belong to no machine that dstack still has.

    Args:
        known: What dstack lists.
    Raises:
        RemoteError: A cloud could not be asked.
    """
    rented = [each for backend in _backends(client, project)
              for each in _listed(backend, _key(client, project, backend))]  # fmt: skip
    mine = [each for each in rented if each.label.startswith(f"dstack-{project}-")]
    if not mine:
        return []
    with translated("listing jobs"):
        runs = client.runs.list(project, None, limit=100)
    alive = {machine.job for machine in known}
    numbers, waiting = _numbers(runs, alive)
    return [
        Machine("dstack", each.label, f"{each.state}, unknown to dstack", job, each.price,
                answers.age_s(each.since),
                {"backend": each.backend, "cloud_id": each.number, "path": each.path})
        for each in mine
        if each.number not in numbers and (job := _job(each.label, project)) not in waiting
    ]  # fmt: skip


def give_back(client: Client, project: str, machine: Machine) -> None:
    """End one machine at its cloud."""
    backend = machine.details["backend"]
    key = _key(client, project, backend)
    with _asking(backend), _session(backend, key) as session:
        answer = session.delete(machine.details["path"])
        if answer.status_code != httpx.codes.NOT_FOUND:
            answer.raise_for_status()


def _numbers(runs: Sequence[Any], alive: set[str]) -> tuple[set[str], set[str]]:
    """The clouds' numbers of machines of jobs that dstack still has; jobs that wait for theirs."""
    numbers, waiting = set(), set()
    for run in runs:
        name = run.run_spec.run_name
        for job in run.jobs:
            for submission in job.job_submissions:
                number = answers.machine_id(submission)
                if number and name in alive:
                    numbers.add(number)
                if not number and not submission.status.is_finished():
                    waiting.add(name)
    return numbers, waiting


def _job(label: str, project: str) -> str:
    """The job in a machine's name; a long one is cut."""
    return _NODE.sub("", _SUFFIX.sub("", label.removeprefix(f"dstack-{project}-")))


def _backends(client: Client, project: str) -> list[str]:
    with translated("reading the project"):
        names = [backend.name for backend in client.projects.get(project).backends]
    return [name for name in HOSTS if name in names]


def _key(client: Client, project: str, backend: str) -> str:
    with translated(f"reading the key of {backend}"):
        return str(client.backends.config_info(project, BackendType(backend)).creds.api_key)


def _listed(backend: str, key: str) -> list[_Rented]:
    read: dict[str, Callable[[httpx.Client], list[_Rented]]] = {"vastai": _vast, "vultr": _vultr}
    with _asking(backend), _session(backend, key) as session:
        return read[backend](session)


def _session(backend: str, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=HOSTS[backend], headers=headers, timeout=_TIMEOUT_S)


@contextmanager
def _asking(backend: str) -> Iterator[None]:
    """Turn a cloud's failure into one line."""
    try:
        yield
    except httpx.HTTPError as error:
        raise RemoteError(
            f"{backend}: the cloud could not be asked ({type(error).__name__})",
            hint="look at its console for machines named dstack-...",
        ) from error


def _vast(session: httpx.Client) -> list[_Rented]:
    answer = session.get("/api/v0/instances/").raise_for_status().json()
    return [
        _Rented("vastai", str(each["id"]), each.get("label") or "",
                each.get("actual_status") or "created", float(each.get("dph_total") or 0),
                datetime.fromtimestamp(each.get("start_date") or time.time(), UTC),
                f"/api/v0/instances/{each['id']}/")
        for each in answer["instances"]
    ]  # fmt: skip


def _vultr(session: httpx.Client) -> list[_Rented]:
    found = []
    for path, name in (("instances", "instances"), ("bare-metals", "bare_metals")):
        answer = session.get(f"/v2/{path}", params={"per_page": 500}).raise_for_status().json()
        found += [
            _Rented("vultr", each["id"], each.get("label") or "", each["status"], 0.0,
                    datetime.fromisoformat(each["date_created"]), f"/v2/{path}/{each['id']}")
            for each in answer[name]
        ]  # fmt: skip
    return found
