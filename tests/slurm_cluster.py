"""A real Slurm on loopback: munge, slurmctld, two slurmd on this host, of Debian's packages."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers import free_port

INSTALL = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
_CONFIGURATION = """\
ClusterName=ups
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
MinJobAge={remembers_s}
KillWait=5
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1
GresTypes=gpu
MailProg=/bin/true
JobRequeue=0
NodeName=n[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{node1},{node2}] CPUs=4 \
RealMemory=4000 Gres=gpu:a100_80gb:2
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=1-00:00:00 DefaultTime=10 State=UP
PartitionName=short Nodes=n[1-2] MaxTime=1 State=UP
"""


@dataclass
class Cluster:
    """A cluster that runs; `folder` holds all that Slurm writes, `shared` is for jobs."""

    folder: Path
    shared: Path
    controller: subprocess.Popen[bytes]

    def restart_controller(self) -> None:
        """Kill slurmctld and start it again, as after a crash."""
        self.controller.kill()
        self.controller.wait()
        self.controller = _daemon(["slurmctld", "-D"], self.folder, "slurmctld.out")
        _until_idle(self.folder)


@contextmanager
def slurm_cluster(remembers_s: int = 5) -> Iterator[Cluster]:
    """A cluster of two nodes with four cores and two named GPUs that are plain files.

    Sets SLURM_CONF for this process. Skips where a program is missing.

    Args:
        remembers_s: How long Slurm knows a job that has ended.
    """
    if missing := [name for name in _PROGRAMS if _program(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed: {INSTALL}")
    with tempfile.TemporaryDirectory(prefix="slurm-") as text, ExitStack() as stack:
        folder = Path(text)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        _configure(folder, remembers_s)
        munge = _daemon(
            ["munged", "--foreground", "--force", *_munge(folder)], folder, "munged.out"
        )
        stack.callback(_end, munge)
        _until((folder / "munge.sock").exists, "munged")
        cluster = Cluster(
            folder, folder / "shared", _daemon(["slurmctld", "-D", "-c"], folder, "slurmctld.out")
        )
        stack.callback(lambda: _end(cluster.controller))
        for node in ("n1", "n2"):
            stack.callback(
                _end, _daemon(["slurmd", "-D", "-N", node], folder, f"slurmd-{node}.out")
            )
        _until_idle(folder)
        stack.callback(_cancel_all)
        yield cluster


def _munge(folder: Path) -> list[str]:
    files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log",
             "seed-file": "seed"}  # fmt: skip
    return [f"--{option}={folder}/munge.{end}" for option, end in files.items()]


def _configure(folder: Path, remembers_s: int) -> None:
    folder.chmod(0o755)
    for name in ("state", "shared"):
        (folder / name).mkdir()
    for name in ("gpu0", "gpu1", "cgroup.conf"):
        (folder / name).touch()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    (folder / "gres.conf").write_text(
        f"NodeName=n[1-2] Name=gpu Type=a100_80gb File={folder}/gpu[0-1]\n"
    )
    text = _CONFIGURATION.format(
        folder=folder, user=getpass.getuser(), controller=free_port(), node1=free_port(),
        node2=free_port(), remembers_s=remembers_s,
    )  # fmt: skip
    (folder / "slurm.conf").write_text(text)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _daemon(command: list[str], folder: Path, output: str) -> subprocess.Popen[bytes]:
    program = _program(command[0])
    assert program is not None
    with (folder / output).open("ab") as log:
        return subprocess.Popen(
            [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def _until_idle(folder: Path) -> None:
    def is_idle() -> bool:
        said = subprocess.run(
            ["sinfo", "-h", "-p", "main", "-o", "%T"], capture_output=True, text=True
        )
        return said.returncode == 0 and set(said.stdout.split()) <= {"idle", "mixed", "allocated"}

    _until(is_idle, f"Slurm; see {folder}")


def _cancel_all() -> None:
    """End all jobs; Slurm's own children end with them."""
    user = getpass.getuser()
    subprocess.run(["scancel", "--user", user], capture_output=True)

    def is_empty() -> bool:
        said = subprocess.run(["squeue", "-h", "-o", "%A"], capture_output=True, text=True)
        return not said.stdout.strip()

    _until(is_empty, "the jobs to end")


def _until(is_true, what: str, limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not is_true():
        assert time.monotonic() < end, f"waited {limit_s:.0f} s for {what}"
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
