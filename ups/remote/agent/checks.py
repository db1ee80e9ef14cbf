"""What must be right before a job begins: told in the first minute, not after an hour."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ups.config.schema import Experiment, TaskConfig
from ups.data.versions import parts_folder, version_paths
from ups.remote.agent.steps import Outcome, Steps
from ups.remote.spec import JobSpec

LAUNCHER = "UPS_REMOTE_LAUNCHER"
"""What an engine puts before the training command: `srun --ntasks-per-node=4` for example."""


def launcher() -> list[str]:
    """Words before the training command; none where it starts its processes itself."""
    return shlex.split(os.environ.get(LAUNCHER, ""))


@dataclass(frozen=True)
class Needs:
    """What the training reads, and where it comes from.

    Attributes:
        stages: In order; empty where only the data decide.
        on_tokens: No codec is trained: a cache from the remote is enough.
    """

    spec: JobSpec
    experiment: Experiment

    @property
    def stages(self) -> tuple[str, ...]:
        return self.spec.task.stages or tuple(self.experiment.stages.order or ())

    @property
    def on_tokens(self) -> bool:
        return bool(self.stages) and "codec" not in self.stages

    def missing(self) -> list[TaskConfig]:
        """Tasks whose data are not on this machine; where tokens are enough, a part of them is."""
        return [task for task in self.experiment.data.tasks if not self._is_here(task)]

    def _is_here(self, task: TaskConfig) -> bool:
        found = [
            path for path in version_paths(task.dataset)
            if self.on_tokens or parts_folder(path) is None
        ]  # fmt: skip
        names = {(parts_folder(path) or path).stem for path in found}
        return bool(names) if task.version == "latest" else task.version in names

    def pull(self, task: TaskConfig) -> list[str]:
        """Arguments of the command that brings what is missing of a task."""
        what = "cache" if self.on_tokens else "data"
        version = [] if task.version == "latest" else ["--version", task.version]
        return [what, "pull", task.dataset, *version, "--from", str(self.spec.remote)]


def preflight(needs: Needs, steps: Steps) -> Outcome:
    """Machine, GPU, disk, remote, data: the first that is wrong.

    Returns:
        Its exit code is that of the command that failed, 1 where none did.
    """
    for check in _checks(needs, steps):
        if not check.ok:
            return check
    return Outcome(0)


def _checks(needs: Needs, steps: Steps) -> Iterator[Outcome]:
    spec = needs.spec
    if needs.experiment.name != spec.task.run_name:
        yield _wrong(f"the config is {needs.experiment.name}'s, the run {spec.task.run_name}'s")
    if spec.nodes > 1 and not launcher():
        yield _wrong(f"{spec.nodes} nodes, and the engine has set no {LAUNCHER}")
    doctor = steps.ups("ups doctor", ["doctor", "--json"], captured=True)
    yield doctor
    yield _gpus(spec, doctor)
    if spec.remote:
        yield steps.ups("ups remotes check", ["remotes", "check", spec.remote])
    for task in needs.missing():
        if spec.remote is None:
            yield _wrong(f"{task.dataset} is not on this machine, and the job has no remote")
        arguments = [*needs.pull(task), "--dry-run"]
        yield steps.ups(f"looking for {task.dataset}", arguments)


def _gpus(spec: JobSpec, doctor: Outcome) -> Outcome:
    """Whether PyTorch sees as many GPUs as were asked for."""
    try:
        named = str(json.loads(doctor.output)["facts"].get("gpu", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return _wrong("ups doctor printed no facts")
    seen = [] if named.startswith("none") or not named else named.split(", ")
    wanted = 0 if spec.gpu.is_any else spec.gpu.count
    if len(seen) < max(wanted, spec.task.nproc if wanted else 0):
        return _wrong(f"PyTorch sees {len(seen)} GPUs here, the job asks for {spec.gpu}")
    return Outcome(0)


def _wrong(reason: str) -> Outcome:
    return Outcome(1, reason=reason)
