"""What Slurm and a job's own files say, in the words of `ups.remote.driver`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ups.remote.driver import Machine, Offer, State, Status
from ups.remote.drivers.slurm_script import duration_s
from ups.remote.spec import EXIT_TIME_LIMIT, GpuRequest, JobSpec

PARTITIONS = 'sinfo -h -o "%R|%P|%a|%l|%T|%c|%m|%G|%D"'
QUEUE = 'squeue -h -u "$(id -un)" -o "%A|%j|%T|%M|%P|%N|%k"'

_WAITING: dict[str, State] = {
    "PENDING": "queued", "REQUEUED": "queued", "REQUEUE_FED": "queued", "REQUEUE_HOLD": "queued",
    "SPECIAL_EXIT": "queued", "CONFIGURING": "starting", "RUNNING": "running",
    "SUSPENDED": "running", "STOPPED": "running", "SIGNALING": "running", "RESIZING": "running",
    "STAGE_OUT": "stopping", "COMPLETING": "stopping",
}  # fmt: skip
_FAILED = {
    "NODE_FAIL": "its node failed, and Slurm did not start it again",
    "BOOT_FAIL": "its node did not start",
    "OUT_OF_MEMORY": "it used more memory than it had asked for; give --option mem=32G",
    "PREEMPTED": "another job took its place, and the partition does not start it again",
    "REVOKED": "another cluster of the federation has it",
}
_LIMITS = ("time limit", "end of the allocation")
_USABLE = ("idle", "mixed")
_UP = (*_USABLE, "allocated", "completing", "planned", "reserved")
_MEMORY = re.compile(r"(\d+)gb?\b")


@dataclass(frozen=True)
class Nodes:
    """Like nodes of one partition.

    Attributes:
        gres: What Slurm calls their GPUs, `gpu:a100` or `gpu`; empty without.
        gpus: Of one node.
        limit_s: The longest a job may take; None without a limit.
    """

    partition: str
    is_default: bool
    limit_s: int | None
    cpus: int
    memory_gb: float
    gres: str
    gpus: int
    total: int
    usable: int

    @property
    def gpu(self) -> str:
        return self.gres.partition(":")[2]

    @property
    def gpu_memory_gb(self) -> float | None:
        """Where the GPU's name tells it, as `a100_80gb` does."""
        found = _MEMORY.search(self.gpu.lower().replace("_", " ").replace("-", " "))
        return float(found[1]) if found else None

    def has(self, request: GpuRequest) -> bool:
        """Whether one node has these GPUs; what the cluster does not tell is taken for right."""
        if request.is_any:
            return True
        if self.gpus < request.count:
            return False
        if request.name and self.gpu and _plain(request.name) not in _plain(self.gpu):
            return False
        memory = self.gpu_memory_gb
        return not (request.memory_gb and memory and memory < request.memory_gb)

    def offer(self) -> Offer:
        return Offer(
            engine="slurm", backend="slurm", region=self.partition,
            machine=f"{self.total} nodes", gpu=self.gpu or ("gpu" if self.gpus else ""),
            gpu_count=self.gpus, gpu_memory_gb=self.gpu_memory_gb, cpus=self.cpus,
            memory_gb=self.memory_gb, price=0.0, spot=False, available=self.usable > 0,
        )  # fmt: skip


def nodes_of(text: str) -> list[Nodes]:
    """Of `PARTITIONS`: one for each kind of node, those of the default partition first."""
    found: dict[tuple[str, str, str, str], Nodes] = {}
    for line in text.splitlines():
        name, marked, up, limit, state, cpus, memory, gres, count = line.strip().split("|")
        if up != "up":
            continue
        plain_state = state.rstrip("*~#!%$@^-+").lower()
        number = int(count) if plain_state in _UP else 0
        kind, gpus = _gpus(gres)
        key = (name, cpus, memory, gres)
        before = found.get(key)
        found[key] = Nodes(
            name, marked.endswith("*"), duration_s(limit), _int(cpus), _int(memory) / 1024, kind,
            gpus, number + (before.total if before else 0),
            (number if plain_state in _USABLE else 0) + (before.usable if before else 0),
        )  # fmt: skip
    return sorted((each for each in found.values() if each.total), key=lambda n: not n.is_default)


def choose(nodes: Sequence[Nodes], spec: JobSpec) -> list[Nodes]:
    """Nodes that a job could have, best first: free ones, then the default partition's."""
    partition = spec.options.get("partition")
    fitting = [
        each for each in nodes
        if (each.partition == partition or not partition) and each.has(spec.gpu)
        and each.total >= spec.nodes and each.cpus >= (spec.cpus or 1)
    ]  # fmt: skip
    wants_none = spec.gpu.is_any
    return sorted(
        fitting,
        key=lambda n: (wants_none and n.gpus > 0, n.usable < spec.nodes, not n.is_default, n.gpus),
    )


def _gpus(gres: str) -> tuple[str, int]:
    """`gpu:a100:4(S:0-1),lustre:1` -> (`gpu:a100`, 4)."""
    for each in re.sub(r"\([^)]*\)", "", gres).split(","):
        kind, *rest = each.split(":")
        if kind == "gpu" and rest and rest[-1].isdecimal():
            return ":".join([kind, *rest[:-1]]), int(rest[-1])
    return "", 0


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _int(text: str) -> int:
    """A number of sinfo, which puts + behind the least of several."""
    return int(text.rstrip("+") or 0)


def fields_of(text: str) -> dict[str, str]:
    """Of `scontrol show job -o`; empty where it shows none."""
    return dict(re.findall(r"(?:^|\s)([A-Za-z][\w/:]*)=(\S*)", text)) if "JobId=" in text else {}


def status_of(kept: Mapping[str, str], job: Mapping[str, str]) -> Status:
    """What is known of a job.

    Args:
        kept: Files of the job's folder by name; empty where the folder is gone.
        job: Fields of `scontrol show job`; empty where Slurm has forgotten it.
    """
    slurm = job.get("JobState", "")
    is_there = slurm in _WAITING
    running = float(duration_s(job.get("RunTime", "0")) or 0) if slurm == "RUNNING" else 0.0
    state, code, reason = _outcome(kept, job, slurm)
    place = f"{job.get('NodeList', '')} ({job.get('Partition', '')})"
    return Status(
        state=state, exit_code=code, reason=reason,
        machine=place if job.get("NodeList", "(null)") not in ("", "(null)") and is_there else "",
        running_s=max(float(kept.get("used_s") or 0), _earlier(kept, slurm) + running),
        attempts=max(1, int(kept.get("attempts") or 1)),
    )  # fmt: skip


def _earlier(kept: Mapping[str, str], slurm: str) -> float:
    """Seconds of attempts before this one; the first has none."""
    is_first = slurm == "RUNNING" and int(kept.get("attempts") or 1) <= 1
    return 0.0 if is_first else float(kept.get("used_s") or 0)


def _outcome(
    kept: Mapping[str, str], job: Mapping[str, str], slurm: str
) -> tuple[State, int | None, str]:
    if "exit_code" in kept:
        return _by_itself(kept)
    if slurm in _WAITING:
        if "stop" in kept and slurm == "RUNNING":
            return "stopping", None, ""
        return _WAITING[slurm], None, _why_waiting(job) if slurm == "PENDING" else ""
    if slurm == "CANCELLED" or (not slurm and "stop" in kept):
        why = "" if "stop" in kept else "cancelled, and not by ups"
        return "stopped", None, why
    if "stop" in kept and slurm:
        return "stopped", _code(job), ""
    if slurm in ("TIMEOUT", "DEADLINE") or (not slurm and kept.get("ending") in _LIMITS):
        return "timed_out", None, "ended by Slurm's time limit"
    if slurm in _FAILED:
        return "failed", None, _FAILED[slurm]
    if slurm:
        signal = int(job.get("ExitCode", "0:0").partition(":")[2] or 0)
        if signal:
            return "failed", 128 + signal, f"killed by signal {signal}"
        return "done", _code(job), ""
    if kept:
        return "failed", None, "killed without a word: Slurm has forgotten it; see its log"
    return "unknown", None, "neither Slurm nor the job's folder knows it"


def _by_itself(kept: Mapping[str, str]) -> tuple[State, int | None, str]:
    code = int(kept["exit_code"] or 1)
    if "stop" in kept and code:
        return "stopped", code, ""
    if code == EXIT_TIME_LIMIT:
        return "timed_out", code, "ended by the time limit"
    return "done", code, ""


def _why_waiting(job: Mapping[str, str]) -> str:
    reason = job.get("Reason", "")
    return "" if reason in ("", "None", "Priority") else f"Slurm: {reason}"


def _code(job: Mapping[str, str]) -> int:
    return int(job.get("ExitCode", "0:0").partition(":")[0] or 0)


def machines_of(text: str) -> list[Machine]:
    """Of `QUEUE`: jobs that were launched, by their comment; no conversions."""
    found = []
    for line in text.splitlines():
        number, name, state, age, partition, nodes, comment = line.strip().split("|")
        if comment.startswith("ups:"):
            details = {"partition": partition, "nodes": nodes}
            seconds = float(duration_s(age) or 0)
            found.append(Machine("slurm", number, state.lower(), name, 0.0, seconds, details))
    return found
