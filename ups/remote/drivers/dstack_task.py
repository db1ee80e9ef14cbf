"""A job as dstack wants it: one task configuration, in which secrets are names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ups.errors import UsageError, did_you_mean
from ups.remote.spec import EXIT_PREFLIGHT, EXIT_TIME_LIMIT, JobSpec

FLEET = "ups"
CLUSTER_FLEET = "ups-cluster"
FOLDER = "/root/ups-job"
GRACE_S = 120
"""Given to a job at its time limit, for its checkpoint and its push."""
_ENGINE_MARGIN_S = 5 * 60
OPTIONS = ("backend", "image", "instance", "python", "region")


def configuration(spec: JobSpec, deadline: int | None = None) -> dict[str, Any]:
    """The task configuration of `spec`; no secret is in it.

    The time limit is kept twice: on the machine by `timeout` until `deadline`, which holds over
    all machines of the job together, and by dstack for each machine.

    Args:
        deadline: Unix time after which no machine may work on the job; None in a plan.
    Raises:
        UsageError: An option that this engine does not have, or no price or time limit.
    """
    price, hours = _limits(spec)
    return {
        "type": "task",
        "name": spec.id,
        "nodes": spec.nodes,
        **_image(spec),
        "commands": commands(),
        "env": _environment(spec, deadline),
        "resources": _resources(spec),
        "fleets": [CLUSTER_FLEET if spec.nodes > 1 else FLEET],
        "creation_policy": "reuse-or-create",
        "spot_policy": "spot" if spec.spot else "on-demand",
        "max_price": price,
        "max_duration": math.ceil(hours * 3600) + _ENGINE_MARGIN_S,
        "stop_duration": GRACE_S,
        "stop_criteria": "master-done",
        "idle_duration": 0,
        **_retry(spec, hours),
        **_listed(spec, {"backend": "backends", "region": "regions", "instance": "instance_types"}),
    }


def offers_configuration(spec: JobSpec) -> dict[str, Any]:
    """`configuration` without limits and fleet: all machines that fit."""
    return {
        "type": "task",
        "nodes": spec.nodes,
        **_image(spec),
        "commands": ["true"],
        "resources": _resources(spec),
        "spot_policy": "spot" if spec.spot else "on-demand",
        **_listed(spec, {"backend": "backends", "region": "regions", "instance": "instance_types"}),
    }


def rendered(content: Mapping[str, Any]) -> str:
    """The configuration as the YAML that `dstack apply` would take."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, width=96)


def commands() -> list[str]:
    """What the machine runs: `run.sh` under the time limit, whose exit code is the job's.

    The shell hands on what ends it: dstack's runner signals this process and nothing below it.
    """
    lines = [
        f"cd {FOLDER} || exit {EXIT_PREFLIGHT}",
        'now="$(date +%s)"',
        f'if [ "$UPS_REMOTE_DEADLINE" -le "$now" ]; then exit {EXIT_TIME_LIMIT}; fi',
        'left="$((UPS_REMOTE_DEADLINE - now))"',
        f'timeout --signal=TERM --kill-after={GRACE_S} "$left" bash run.sh < /dev/null &',
        'child="$!"',
        "trap 'asked=1; kill -TERM \"$child\"' INT TERM HUP",
        'asked=1; while [ "$asked" = 1 ]; do asked=0; wait "$child"; code="$?"; done',
        f'if [ "$code" -eq 124 ]; then code={EXIT_TIME_LIMIT}; fi',
        f'if [ "$code" -eq 137 ] && [ "$(date +%s)" -ge "$UPS_REMOTE_DEADLINE" ]; then'
        f" code={EXIT_TIME_LIMIT}; fi",
        'exit "$code"',
    ]
    return ["\n".join(lines)]


def secret_name(spec_id: str, name: str) -> str:
    """Under which the server keeps one job's secret: jobs do not share values.

    dstack takes hyphens in names of secrets, but not in references to them.
    """
    return f"{spec_id.replace('-', '_')}__{name}"


def secret_names(spec: JobSpec) -> list[str]:
    return [secret_name(spec.id, name) for name in spec.secrets]


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as it is."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = "|" if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def _limits(spec: JobSpec) -> tuple[float, float]:
    if spec.max_price is None or spec.max_hours is None:
        raise UsageError(
            "dstack rents machines: a price and a time limit are needed",
            hint="ups remote launch ... --max-price 1.5 --max-hours 6",
        )
    return float(spec.max_price), float(spec.max_hours)


def _image(spec: JobSpec) -> dict[str, Any]:
    """Image, user and Python. With an image but no user, dstack asks its registry at plan time."""
    for option in spec.options:
        if option not in OPTIONS:
            raise UsageError(
                f"dstack: unknown option '{option}'{did_you_mean(option, OPTIONS)}",
                hint=f"options: {', '.join(OPTIONS)}",
            )
    if image := spec.options.get("image"):
        if "python" in spec.options:
            raise UsageError("dstack: an image brings its own Python", hint="leave out 'python'")
        return {"image": image, "user": "root", "shell": "bash"}
    return {"python": spec.options.get("python", "3.12")}


def _resources(spec: JobSpec) -> dict[str, Any]:
    gpu: dict[str, Any] | int = 0
    if not spec.gpu.is_any:
        gpu = {"count": spec.gpu.count}
        if spec.gpu.name:
            gpu["name"] = [spec.gpu.name]
        if spec.gpu.memory_gb:
            gpu["memory"] = f"{spec.gpu.memory_gb:g}GB.."
    return {
        "cpu": f"x86:{spec.cpus or 2}..",
        "gpu": gpu,
        "disk": f"{spec.disk_gb}GB..",
    }


def _environment(spec: JobSpec, deadline: int | None) -> dict[str, str]:
    """Plain values, and references that the server fills in when it hands the job over.

    The server reads `$$` as one dollar sign.
    """
    secrets = {name: f"${{{{ secrets.{secret_name(spec.id, name)} }}}}" for name in spec.secrets}
    limit = {} if deadline is None else {"UPS_REMOTE_DEADLINE": str(deadline)}
    plain = {name: value.replace("$", "$$") for name, value in spec.environment.items()}
    return {**plain, **limit, **secrets}


def _retry(spec: JobSpec, hours: float) -> dict[str, Any]:
    """dstack counts no retries: it tries for a time, which the deadline on the machine bounds."""
    if not spec.retries:
        return {"retry": False}
    events = ["no-capacity", "interruption"]
    return {"retry": {"on_events": events, "duration": math.ceil(hours * 3600)}}


def _listed(spec: JobSpec, names: Mapping[str, str]) -> dict[str, Sequence[str]]:
    return {
        theirs: [part.strip() for part in spec.options[ours].split(",")]
        for ours, theirs in names.items()
        if ours in spec.options
    }
