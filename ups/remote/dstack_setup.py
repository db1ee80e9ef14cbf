"""Everything that dstack needs before the first job: server, backends, fleets.

Keys of clouds are read from the environment once and handed to the server, which keeps them
encrypted in its database. A fleet of 0..N machines costs nothing while it is empty; without one
dstack answers every plan with no offers and no error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from ups.errors import RemoteError
from ups.remote.drivers.dstack_client import (
    AnyBackendConfigWithCredsTagged,
    ApplyFleetPlanInput,
    Client,
    FleetSpec,
    connect,
    translated,
)
from ups.remote.drivers.dstack_server import Server, ensure_server, running_server, stop_server
from ups.remote.drivers.dstack_task import CLUSTER_FLEET, FLEET

__all__ = ["BACKENDS", "Setup", "describe", "setup", "stop_server"]

MAX_MACHINES = 100


@dataclass(frozen=True)
class Backend:
    """A cloud whose key is all that dstack needs.

    Attributes:
        variables: Names of environment variables, by the name of the field of dstack's `creds`.
    """

    name: str
    variables: Mapping[str, str]
    creds_type: str | None = "api_key"

    def credentials(self) -> dict[str, str] | None:
        """From the environment; None where a variable is missing or empty."""
        values = {field: os.environ.get(name, "") for field, name in self.variables.items()}
        return values if all(values.values()) else None


BACKENDS = (
    Backend("vastai", {"api_key": "VASTAI_API_KEY"}),
    Backend("vultr", {"api_key": "VULTR_API_KEY"}),
    Backend("lambda", {"api_key": "LAMBDA_API_KEY"}),
    Backend("runpod", {"api_key": "RUNPOD_API_KEY"}),
    Backend("verda", {"client_id": "VERDA_CLIENT_ID", "client_secret": "VERDA_CLIENT_SECRET"}),
    Backend(
        "aws",
        {"access_key": "AWS_ACCESS_KEY_ID", "secret_key": "AWS_SECRET_ACCESS_KEY"},
        creds_type="access_key",
    ),
)
"""In the order in which `ups remote setup` lists them. Others (GCP, Azure, Nebius, OCI, Kubernetes)
take files; they are added in dstack's own web page, and their offers then appear here too."""

AS_DEFAULT = ("vastai", "vultr", "lambda", "runpod", "verda")
"""AWS keys are often there for a bucket only, so AWS has to be named."""


@dataclass(frozen=True)
class Setup:
    """What there is now.

    Attributes:
        backends: Names of those that the server has.
        done: One line for each thing that was changed; empty when all was there.
        warnings: One line for each thing that is not as it should be.
    """

    url: str
    backends: Sequence[str]
    fleets: Sequence[str]
    done: Sequence[str] = ()
    warnings: Sequence[str] = ()


def setup(names: Sequence[str] | None = None, *, say: Callable[[str], None] | None = None) -> Setup:
    """Find or start the server, add backends and fleets that are missing; again changes nothing.

    Keys of backends that the server has already are replaced by those of the environment.

    Args:
        names: Backends to add, whose variables must be set; None adds all whose variables are.
        say: Called with each thing as it is done.
    Raises:
        RemoteError: The server does not start, or a cloud refuses its key.
    """
    done: list[str] = []

    def note(line: str) -> None:
        done.append(line)
        if say is not None:
            say(line)

    wanted = _wanted(names)
    had_server = bool(os.environ.get("UPS_DSTACK_URL")) or running_server() is not None
    server = ensure_server()
    if not had_server:
        note(f"started a dstack server at {server.url}")
    with connect(server.url, server.token) as client:
        for backend in wanted:
            note(_put_backend(client, server, backend))
        for name in (FLEET, CLUSTER_FLEET):
            if _put_fleet(client, server, name):
                note(f"made the fleet {name} (0 to {MAX_MACHINES} machines)")
        found = _found(client, server)
    return Setup(server.url, found.backends, found.fleets, done, found.warnings)


def describe() -> Setup | None:
    """What there is, without starting or changing anything; None without a server."""
    server = ensure_server() if os.environ.get("UPS_DSTACK_URL") else running_server()
    if server is None:
        return None
    with connect(server.url, server.token) as client:
        return _found(client, server)


def _found(client: Client, server: Server) -> Setup:
    with translated("reading the project"):
        project = client.projects.get(server.project)
        fleets = [fleet.name for fleet in client.fleets.list(server.project)]
    backends = sorted(backend.name for backend in project.backends)
    warnings = []
    if not backends:
        names = ", ".join(each.variables["api_key"] for each in BACKENDS[:2])
        warnings.append(f"no backend: set one of {names}, ... and run this again")
    if FLEET not in fleets:
        warnings.append("no fleet is set up, so dstack offers nothing")
    return Setup(server.url, backends, fleets, (), warnings)


def _wanted(names: Sequence[str] | None) -> list[Backend]:
    if names is None:
        return [each for each in BACKENDS if each.name in AS_DEFAULT and each.credentials()]
    known = {backend.name: backend for backend in BACKENDS}
    for name in names:
        if name not in known:
            raise RemoteError(f"dstack: backend '{name}' is not set up from the environment",
                              hint=f"one of {', '.join(known)}")  # fmt: skip
        if known[name].credentials() is None:
            variables = " and ".join(known[name].variables.values())
            raise RemoteError(f"dstack: {name} needs {variables}", hint=f"export {variables}=...")
    return [known[name] for name in names]


def _put_backend(client: Client, server: Server, backend: Backend) -> str:
    """Hand one cloud's key over; the server asks the cloud whether it is right."""
    content: dict[str, Any] = {
        "type": backend.name,
        "creds": {"type": backend.creds_type, **(backend.credentials() or {})},
    }
    config = TypeAdapter(AnyBackendConfigWithCredsTagged).validate_python(content)
    with translated(f"adding {backend.name}, key from {', '.join(backend.variables.values())}"):
        project = client.projects.get(server.project)
        if any(each.name == backend.name for each in project.backends):
            client.backends.update(server.project, config)
            return f"{backend.name}: key of the environment handed over again"
        client.backends.create(server.project, config)
    return f"added {backend.name}"


def _put_fleet(client: Client, server: Server, name: str) -> bool:
    """Make a fleet that takes every machine that a job asks for, and keeps none."""
    with translated(f"making the fleet {name}"):
        if any(fleet.name == name for fleet in client.fleets.list(server.project)):
            return False
        configuration = {
            "type": "fleet",
            "name": name,
            "nodes": f"0..{MAX_MACHINES}",
            "placement": "cluster" if name == CLUSTER_FLEET else "any",
            "spot_policy": "auto",
            "idle_duration": 0,
        }
        spec = FleetSpec.model_validate({"configuration": configuration, "profile": {"name": ""}})
        client.fleets.apply_plan(server.project, ApplyFleetPlanInput(spec=spec))
    return True
