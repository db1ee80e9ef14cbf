"""A machine of one's own, over ssh: a detached job whose files there say everything about it.

Nothing is rented and nothing is installed beforehand but Python 3.11. The job goes on when the
connection breaks or this machine is switched off; whoever asks later finds it by its id.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from ups.errors import RemoteError, UsageError
from ups.remote import gpus
from ups.remote.driver import Handle, Machine, Offer, Plan, State, Status
from ups.remote.drivers import ssh_scripts as scripts
from ups.remote.drivers.ssh_host import FOLDERS, LOST, Host, LostError
from ups.remote.spec import EXIT_TIME_LIMIT, JobSpec

_POLL_S = 2.0
_GRACE_S = 120.0
_PATIENCE_S = 15 * 60.0
"""How long a host may be out of reach while something is waited for."""
_GB = 1e9
_SIGNALS = 128
"""A shell adds it to the number of the signal that ended a process."""
_CHUNK = 65536


class SshDriver:
    """Jobs on hosts of one's own.

    Args:
        hosts: Options of the hosts that `find` and `machines` look at, e.g. of known jobs.
        poll_s: Between two questions while something is waited for.
        grace_s: For the last checkpoint and its push of a job that is stopped.
    """

    name = "ssh"
    is_paid = False

    def __init__(
        self,
        hosts: Sequence[Mapping[str, str]] = (),
        *,
        poll_s: float = _POLL_S,
        grace_s: float = _GRACE_S,
    ) -> None:
        self._hosts = list(dict.fromkeys(Host.of(options) for options in hosts))
        self._poll_s, self._grace_s = poll_s, grace_s

    def offers(self, spec: JobSpec) -> list[Offer]:
        """The host itself, where it has what the job asks for."""
        facts = _facts_of(Host.of(spec.options))
        return [] if _lacking(facts, spec) else [_offer(facts, spec)]

    def plan(self, spec: JobSpec) -> Plan:
        """What would be done there; changes nothing."""
        host = Host.of(spec.options)
        facts = _facts_of(host)
        lacking = _lacking(facts, spec)
        warnings = [f"{host.host}: {text}" for text in lacking]
        if spec.max_hours is None:
            warnings.append("without a time limit the job ends only by itself, or when it hangs")
        content = {
            "host": host.options(),
            "folder": f"~/.ups/jobs/{spec.id}",
            "command": "bash run.sh",
            "time limit": f"{spec.max_hours:g} h" if spec.max_hours else "none",
            "environment": _environment(spec),
            "secrets": list(spec.secrets),
        }
        offer = _offer(facts, spec)
        return Plan(
            yaml.safe_dump(content, sort_keys=False), [] if lacking else [offer], offer, warnings
        )

    def launch(self, spec: JobSpec, bundle: Path, secrets: Mapping[str, str]) -> Handle:
        """Send the job and start it; it is started once, however often this is called.

        Secrets go over the connection into the environment of the job, into no file or argument.

        Raises:
            RemoteError: The host is not reached, or lacks what the job asks for.
            UsageError: Several nodes are asked for, or an option is wrong.
        """
        host = Host.of(spec.options)
        if spec.nodes > 1:
            raise UsageError("ssh: a job has one machine", hint="--engine slurm or dstack")
        if missing := [name for name in spec.secrets if not secrets.get(name)]:
            raise RemoteError(f"no value for {', '.join(missing)}", hint=f"export {missing[0]}=...")
        handle = _handle(spec.id, host)
        if _report(host, spec.id):
            return handle
        if lacking := _lacking(_facts_of(host), spec):
            raise RemoteError(f"{host.host}: {lacking[0]}", hint="ask for less, or another host")
        host.send(bundle, scripts.SEND, spec.id, more={"keeper.sh": scripts.KEEPER})
        limit = "" if spec.max_hours is None else str(math.ceil(float(spec.max_hours) * 3600))
        values = {**_environment(spec), **{name: secrets[name] for name in spec.secrets}}
        exports = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
        given = "\n".join([*exports, "# complete"]).encode()
        host.run(scripts.START, spec.id, limit, given=given)
        return handle

    def find(self, job_id: str) -> Handle | None:
        """A job that was started, on one of the hosts that this driver was made with."""
        for host in self._hosts:
            if _report(host, job_id):
                return _handle(job_id, host)
        return None

    def status(self, handle: Handle) -> Status:
        return _status(_report(Host.of(handle["host"]), handle["job"]))

    def logs(self, handle: Handle, *, follow: bool = False) -> Iterator[str]:
        """Lines of the job's output; with `follow` until it ends, over lost connections too."""
        host, first, rest = Host.of(handle["host"]), 1, b""
        lost_since: float | None = None
        while True:
            with host.follow(
                scripts.LOG, handle["job"], str(first), "follow" if follow else ""
            ) as process:
                assert process.stdout is not None
                while chunk := process.stdout.read1(_CHUNK):  # type: ignore[attr-defined]
                    first, lost_since = first + len(chunk), None
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from (line.decode(errors="replace") for line in lines)
                code = process.wait()
            if code != LOST:
                break
            lost_since = lost_since or time.monotonic()
            _wait_for_contact(host, lost_since, self._poll_s)
        if rest:
            yield rest.decode(errors="replace")

    def wait(self, handle: Handle, *, timeout_s: int | float | None = None) -> Status:
        """Return when the job has ended, or after `timeout_s` with what is known then."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        lost_since: float | None = None
        while True:
            try:
                status, lost_since = self.status(handle), None
            except LostError:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() > lost_since + _PATIENCE_S:
                    raise
                status = Status("running", reason="the host is out of reach")
            left = self._poll_s if end is None else min(self._poll_s, end - time.monotonic())
            if status.has_ended or left <= 0:
                return status
            time.sleep(left)

    def stop(self, handle: Handle) -> None:
        """End the job, first with time for its checkpoint; nothing of it stays behind."""
        host, job = Host.of(handle["host"]), str(handle["job"])
        host.run(scripts.ASK, job)
        end = time.monotonic() + self._grace_s
        while time.monotonic() < end and "alive" in _report(host, job):
            time.sleep(min(self._poll_s, 1.0))
        host.run(scripts.KILL, job)

    def machines(self) -> list[Machine]:
        """Jobs that run on the hosts that this driver was made with."""
        found = []
        for host in self._hosts:
            for line in host.run(scripts.JOBS).splitlines():
                job, age = line.split()
                found.append(
                    Machine("ssh", f"{host.host}/{job}", "running", job, 0.0, float(age),
                            host.options())
                )  # fmt: skip
        return found

    def remove(self, machine: Machine) -> None:
        """Stop its job: the machine is not ours to give back."""
        self.stop(_handle(machine.job, Host.of(machine.details)))


def _environment(spec: JobSpec) -> dict[str, str]:
    """The job's own variables, and those that options of this engine stand for."""
    named = {variable: spec.options[name] for name, variable in FOLDERS.items()
             if name in spec.options}  # fmt: skip
    return {**spec.environment, **named}


def _handle(job: str, host: Host) -> Handle:
    return {"engine": "ssh", "job": job, "host": host.options()}


def _report(host: Host, job: str) -> dict[str, str]:
    """What the job's folder says; empty where it was never started."""
    lines = host.run(scripts.STATUS, job).splitlines()
    told = dict(line.split(" ", 1) for line in lines if " " in line)
    return {} if told.get("state") != "started" else told


def _status(told: Mapping[str, str]) -> Status:
    if not told:
        return Status("unknown", reason="there is no such job on the host")
    agent = _agent(told)
    now, began = float(told["now"]), float(told.get("began", told["now"]))
    code = int(told["code"]) if told.get("code", "").strip() else None
    state, reason = _state(told, code, agent)
    return Status(
        state, code, reason or _reason(told, code, agent), told.get("machine", ""), 0.0,
        max(float(told.get("ended", now)) - began, 0.0),
    )  # fmt: skip


def _reason(told: Mapping[str, str], code: int | None, agent: Mapping[str, object]) -> str:
    """One line on an end that was no success: the agent's, else what came before it or ended it."""
    if agent.get("state") == "ended" or not code:
        return str(agent.get("reason", ""))
    if code > _SIGNALS:
        return f"killed by signal {code - _SIGNALS}: did the machine run out of memory?"
    return told.get("error", "")


def _state(
    told: Mapping[str, str], code: int | None, agent: Mapping[str, object]
) -> tuple[State, str]:
    is_stopped = "stopped" in told
    if code is not None:
        if is_stopped:
            return "stopped", ""
        return ("timed_out" if code == EXIT_TIME_LIMIT else "done"), ""
    if "alive" in told:
        if is_stopped:
            return "stopping", ""
        return ("running" if agent else "starting"), ""
    if "began" not in told:
        return "starting", ""
    if "restarted" in told:
        return "failed", "the machine was restarted; a new launch of the run goes on where it was"
    return "failed", "killed without a word: did the machine run out of memory?"


def _agent(told: Mapping[str, str]) -> Mapping[str, object]:
    """The agent's status.json; nothing before it has begun."""
    try:
        content = json.loads(told.get("agent", "{}"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _wait_for_contact(host: Host, since: float, poll_s: float) -> None:
    """Return when the host answers again.

    Raises:
        LostError: Not for a quarter of an hour.
    """
    while True:
        time.sleep(poll_s)
        try:
            host.run("true")
        except LostError:
            if time.monotonic() > since + _PATIENCE_S:
                raise
        else:
            return


def _facts_of(host: Host) -> dict[str, list[str]]:
    """Of the machine: name, cpus, memory_kb, disk_kb, and gpu, once for each."""
    facts: dict[str, list[str]] = {}
    for line in host.run(scripts.MACHINE).splitlines():
        key, _, value = line.partition(" ")
        facts.setdefault(key, []).append(value.strip())
    return facts


def _number(facts: Mapping[str, list[str]], key: str) -> float:
    text = facts.get(key, ["0"])[0]
    return float(text) if text.isdecimal() else 0.0


def _gpus(facts: Mapping[str, list[str]]) -> list[tuple[str, float]]:
    """Name and memory in GB of each GPU."""
    found = []
    for line in facts.get("gpu", []):
        memory, _, name = line.partition(",")
        if memory.strip().isdecimal():
            found.append((name.strip(), float(memory) * 2**20 / _GB))
    return found


def _lacking(facts: Mapping[str, list[str]], spec: JobSpec) -> list[str]:
    """What the job asks for and the machine has not."""
    lacking, here, wanted = [], _gpus(facts), spec.gpu
    if not wanted.is_any:
        fitting = [
            memory for name, memory in here
            if (wanted.name is None or gpus.same_gpu(wanted.name, name))
            and memory >= float(wanted.memory_gb or 0)
        ]  # fmt: skip
        if len(fitting) < wanted.count:
            seen = ", ".join(name for name, _ in here) or "none"
            lacking.append(f"{wanted} is asked for, its GPUs are: {seen}")
    if (cpus := _number(facts, "cpus")) < (spec.cpus or 0):
        lacking.append(f"{spec.cpus} cores are asked for, it has {cpus:.0f}")
    return lacking


def _offer(facts: Mapping[str, list[str]], spec: JobSpec) -> Offer:
    here = _gpus(facts)
    return Offer(
        engine="ssh", backend="ssh", region=spec.options["host"],
        machine=facts.get("name", ["?"])[0], gpu=here[0][0] if here else "",
        gpu_count=len(here), gpu_memory_gb=round(here[0][1], 1) if here else None,
        cpus=int(_number(facts, "cpus")),
        memory_gb=round(1024 * _number(facts, "memory_kb") / _GB, 1), price=0.0, spot=False,
    )  # fmt: skip
