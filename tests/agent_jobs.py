"""Jobs for tests of the agent, and a stand-in for the commands that it runs."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import sysconfig
import textwrap
import venv
from pathlib import Path
from typing import Any

import yaml
from tiny_runs import SMALL

from ups.remote.spec import JobSpec, Task

RUN = "tiny/run-1"


def job(folder: Path, **changes: Any) -> Path:
    """A job.json and its config in `folder`: a few steps on advection1d, with a remote folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = SMALL | {"name": "tiny", "data": {"dataset": "advection1d"}}
    task = {"config": yaml.safe_dump(content), "run_name": "tiny", "run_id": "run-1"}
    task |= changes.pop("task", {})
    fields: dict[str, Any] = {
        "id": "tiny-00000001",
        "engine": "ssh",
        "remote": str(folder / "remote"),
        "task": Task(**task),
    }
    spec = JobSpec(**(fields | changes))
    (folder / "config.yaml").write_text(spec.task.config)
    (folder / "job.json").write_text(spec.model_dump_json())
    return folder / "job.json"


def status(path: Path) -> dict[str, Any]:
    """What a job's status.json says."""
    return json.loads((path.parent / "status.json").read_text())


def stand_in(folder: Path, **commands: str) -> dict[str, str]:
    """A package `ups` whose commands do what the given Python says, and write down their calls.

    Args:
        commands: First word of a command -> its program; others succeed and do nothing. `args` is
            the list of all words, `run` the job's run folder.
    Returns:
        The environment in which `python -m ups` is this package.
    """
    package = folder / "stand-in" / "ups"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    known = {"doctor": 'print(\'{"facts": {"gpu": "none: the CPU"}}\')'} | commands
    known = {name: textwrap.dedent(program) for name, program in known.items()}
    (package / "__main__.py").write_text(
        "import os, pathlib, signal, sys, time\n"
        f"args, calls = sys.argv[1:], pathlib.Path({str(folder / 'calls')!r})\n"
        f"run = pathlib.Path(os.environ['UPS_HOME'], 'runs', {RUN!r})\n"
        "with calls.open('a') as file:\n"
        "    file.write(' '.join(args) + '\\n')\n"
        f"exec({known!r}.get(args[0], ''))\n"
    )
    return {"PYTHONPATH": str(package.parent)}


def calls(folder: Path) -> list[str]:
    """The commands that the stand-in was called with: their first two words."""
    lines = (folder / "calls").read_text().splitlines()
    return [" ".join(line.split()[:2]) for line in lines]


def agent_command(path: Path) -> list[str]:
    return [sys.executable, "-m", "ups.remote.agent", str(path)]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z" and os.path.exists(f"/proc/{pid}")


def prepared_environment(folder: Path, lock: str) -> dict[str, str]:
    """An environment that run.sh takes for the one of this lock file: the tests' own packages.

    Returns:
        What names it, and the Python that it is of.
    """
    version = f"{platform.python_version()} {platform.machine()}\n"
    name = hashlib.sha256((lock + version).encode()).hexdigest()[:16]
    environment = folder / name
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    if (rclone := Path(sys.executable).parent / "rclone").exists():
        (environment / "bin" / "rclone").symlink_to(rclone)
    (environment / "ready").touch()
    return {"UPS_ENVIRONMENTS": str(folder), "UPS_PYTHON": sys.executable}
