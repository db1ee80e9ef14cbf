"""What a job will fetch, as far as the remote's listing tells: data, or tokens with their codec."""

from __future__ import annotations

from dataclasses import dataclass

from ups.config.schema import Experiment, TaskConfig
from ups.remote.estimates import stages_of
from ups.remote.spec import JobSpec
from ups.transfer.artefacts import Listing, list_artefacts
from ups.transfer.remotes import Remote

BUNDLE_BYTES = 1_000_000
"""About: the wheel, the lock file, the config."""


@dataclass(frozen=True)
class Transfer:
    """One thing that travels.

    Attributes:
        size: Bytes; None where it is not there.
        problem: What keeps it from arriving; empty where nothing does.
    """

    what: str
    name: str
    size: int | None
    problem: str = ""


def transfers(spec: JobSpec, experiment: Experiment, remote: Remote) -> list[Transfer]:
    """What comes from the remote to a machine that has nothing yet, and the bundle.

    A machine with data or tokens of its own fetches less.

    Raises:
        RemoteError: The remote does not answer.
    """
    on_tokens = "codec" not in stages_of(experiment, spec.task.stages)
    kind = "cache" if on_tokens else "data"
    listed = list_artefacts(kind, remote)
    found = [_of_task(task, kind, listed, remote) for task in experiment.data.tasks]
    return [Transfer("bundle", "code and config", BUNDLE_BYTES), *found]


def _of_task(task: TaskConfig, kind: str, listed: list[Listing], remote: Remote) -> Transfer:
    what = "tokens, codec, test data" if kind == "cache" else "data"
    parts = [(one, one.name.split("/")) for one in listed if not one.deprecated]
    fitting = [
        one for one, names in parts
        if names[0] == task.dataset and task.version in ("latest", names[1])
    ]  # fmt: skip
    if not fitting:
        name = task.dataset if task.version == "latest" else f"{task.dataset}/{task.version}"
        to = remote.root if remote.kind in ("local", "rclone") else remote.name
        problem = f"{name} is not on {remote.describe()}: ups {kind} push {task.dataset} --to {to}"
        return Transfer(what, name, None, problem)
    newest = max(fitting, key=lambda one: one.created)
    return Transfer(what, "/".join(newest.name.split("/")[:2]), newest.size)
