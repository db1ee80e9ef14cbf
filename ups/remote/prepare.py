"""From what a user asks for to a `JobSpec`: resolved here, complete, without secrets."""

from __future__ import annotations

import hashlib
import os
import re
import secrets as random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ups.config.base import validated
from ups.config.loading import to_yaml
from ups.config.schema import Experiment
from ups.errors import RemoteError, UsageError
from ups.remote.engines import Engine
from ups.remote.gpus import parse_gpu
from ups.remote.spec import JobSpec
from ups.transfer.remotes import Remote, find_remote, make

_PLACES = ("B2_BUCKET", "B2_S3_ENDPOINT", "B2_S3_REGION", "AWS_ENDPOINT_URL", "AWS_REGION",
           "AWS_DEFAULT_REGION", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_BASE_URL")  # fmt: skip
"""Variables that say where something is: a job has them as they are."""
_NAME_LENGTH = 24


@dataclass(frozen=True)
class Request:
    """What a user asks for; see the options of `ups remote launch`.

    Attributes:
        gpu: As people write it.
        nproc: None is one process for each GPU of a node.
        remote: None is the default remote.
        secrets: Names of further environment variables whose values the job gets.
    """

    engine: Engine
    experiment: Experiment
    gpu: str = "none"
    stages: Sequence[str] = ()
    nproc: int | None = None
    remote: str | None = None
    max_price: float | None = None
    max_hours: float | None = None
    spot: bool = False
    nodes: int = 1
    disk_gb: int = 100
    cpus: int | None = None
    evaluate: bool = True
    secrets: Sequence[str] = ()
    project: str = "ups"
    hang_minutes: float = 30
    push_minutes: float = 10


def job_spec(request: Request) -> JobSpec:
    """The job, with a new id and a new run id.

    Raises:
        UsageError: Something asked for does not exist, or a secret has no value here.
        RemoteError: There is no remote that results could go to, or the job could not reach it.
    """
    gpu = parse_gpu(request.gpu)
    remote = find_remote(request.remote)
    _check_reach(remote, request.engine)
    text = to_yaml(request.experiment)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    task = {
        "config": text,
        "stages": tuple(request.stages),
        "nproc": request.nproc or gpu.count,
        "evaluate": request.evaluate,
        "leaderboard": request.evaluate,
        "run_name": request.experiment.name,
        "run_id": f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{digest}",
    }
    content = {
        "id": new_id(request.experiment.name),
        "project": request.project,
        "engine": request.engine.name,
        "task": task,
        "gpu": gpu.model_dump(),
        "remote": remote.name,
        "remote_settings": _settings_of(remote),
        "environment": _places(),
        "secrets": tuple(_secret_names(request, remote)),
        "options": dict(request.engine.options),
        **{name: getattr(request, name) for name in
           ("nodes", "cpus", "disk_gb", "spot", "max_price", "max_hours", "hang_minutes",
            "push_minutes")},
    }  # fmt: skip
    return validated(JobSpec, content, "the job")


def remote_of(spec: JobSpec) -> Remote:
    """The job's remote, as it was when the job was made.

    Raises:
        RemoteError: It has none.
    """
    if spec.remote is not None and spec.remote_settings:
        return make(spec.remote, **spec.remote_settings)
    return find_remote(spec.remote)


def any_job(engine: Engine, gpu: str, **changes: Any) -> JobSpec:
    """A job that trains nothing: to ask what there is to be had.

    Args:
        changes: Further fields of `JobSpec`.
    """
    task = {"config": "name: none\n", "run_name": "none", "run_id": "none"}
    content = {
        "id": new_id("offers"), "engine": engine.name, "task": task,
        "gpu": parse_gpu(gpu).model_dump(), "options": dict(engine.options), **changes,
    }  # fmt: skip
    return validated(JobSpec, content, "the request")


def new_id(name: str) -> str:
    """`<name>-<8 hex>`, fit for a host name."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_NAME_LENGTH].strip("-")
    slug = slug if slug[:1].isalpha() else f"run-{slug}".strip("-")
    return f"{slug}-{random.token_hex(4)}"


def secret_values(spec: JobSpec) -> dict[str, str]:
    """Values of the job's secrets, from the environment.

    Raises:
        UsageError: Names the variables that are not set.
    """
    missing = [name for name in spec.secrets if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"not set here: {', '.join(missing)}", hint=f"export {missing[0]}=...; jobs get "
            "secrets from the environment of this command"
        )  # fmt: skip
    return {name: os.environ[name] for name in spec.secrets}


def _secret_names(request: Request, remote: Remote) -> list[str]:
    """Credentials of the remote, W&B's key where the run is tracked, and those asked for."""
    names = list(remote.credentials())
    if "AWS_SECRET_ACCESS_KEY" in names and os.environ.get("AWS_SESSION_TOKEN"):
        names.append("AWS_SESSION_TOKEN")
    tracked = request.experiment.tracking.wandb in ("auto", "online")
    if tracked and os.environ.get("WANDB_API_KEY"):
        names.append("WANDB_API_KEY")
    for name in request.secrets:
        if not name.isidentifier():
            raise UsageError("--secret: the name of an environment variable, never its value",
                             hint="--secret HF_TOKEN")  # fmt: skip
        names.append(name)
    return list(dict.fromkeys(names))


def _settings_of(remote: Remote) -> dict[str, str]:
    """Options of the remote as text, without its name."""
    given = remote.model_dump(exclude={"name"}, exclude_defaults=True)
    if remote.kind == "local":
        given["folder"] = remote.root
    return {name: str(value) for name, value in given.items()}


def _places() -> dict[str, str]:
    found = {name: os.environ.get(name, "") for name in _PLACES}
    return {name: text for name, text in found.items() if text and "@" not in text}


def _check_reach(remote: Remote, engine: Engine) -> None:
    """Refuse remotes that a rented machine cannot reach."""
    reasons = {
        "local": "is a folder of this machine",
        "rclone": "is set up in rclone's config of this machine",
        "sftp": "needs an SSH key of this machine",
        "gcs": "needs a key file of this machine",
    }
    if engine.name == "dstack" and remote.kind in reasons:
        raise RemoteError(
            f"remote {remote.name} {reasons[remote.kind]}: a rented machine cannot reach it",
            hint="a bucket by keys: ups remotes add NAME --kind s3 ..., or B2_* variables",
        )
