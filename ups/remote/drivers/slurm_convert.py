"""Converting raw data on a cluster: an array job for the shares, and one job that merges them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ups import paths
from ups.errors import RemoteError, UsageError, did_you_mean
from ups.remote.drivers.slurm_login import Login
from ups.remote.drivers.slurm_script import INDEX, KEPT, render_array

OPTIONS = ("account", "constraint", "partition", "qos", "reservation")
_OURS = ("--shard", "--merge", "--workers")
_DONE = "merged"


@dataclass(frozen=True)
class Conversion:
    """What is converted, and with how much.

    Attributes:
        dataset: Its key.
        arguments: Of `ups data convert`, beside the key: strides, limits, raw folders.
        shards: Number of jobs that convert.
        workers: Processes, and cores, of each.
        hours: Time limit of each.
        mem: Memory of each, as Slurm writes it; None for 300 MB and 200 MB a worker.
        at_once: How many shares may run together; None for as many as the cluster has room for.
        options: Of sbatch: partition, account, qos, constraint, reservation.
    """

    dataset: str
    arguments: tuple[str, ...] = ()
    shards: int = 8
    workers: int = 4
    hours: int | float = 2
    mem: str | None = None
    at_once: int | None = None
    options: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Submitted:
    """Slurm's numbers of the two jobs, and where they write."""

    shares: str
    merge: str
    logs: Path

    @property
    def has_merged(self) -> bool:
        return (self.logs / _DONE).exists()


def render_conversion(conversion: Conversion, logs: Path, after: str = "SHARES") -> tuple[str, str]:
    """The batch scripts: of the shares, and of the merge that begins when all of them are done.

    Args:
        logs: Folder for what the jobs print.
        after: Slurm's number of the array job.
    Raises:
        UsageError: An option that sbatch does not get from here, or that belongs to the shares.
    """
    _check(conversion)
    name, minutes = f"convert-{conversion.dataset}", max(1, round(60 * conversion.hours))
    asked = {**(conversion.options or {}), "chdir": str(Path.cwd()), "time": str(minutes),
             "mem": conversion.mem or f"{300 + 200 * conversion.workers}M"}  # fmt: skip
    command = [sys.executable, "-m", "ups", "data", "convert", conversion.dataset,
               *conversion.arguments]  # fmt: skip
    count, workers = conversion.shards, str(conversion.workers)
    shares = render_array(
        name, [*command, "--workers", workers, "--shard", f"{INDEX}/{count}"], count,
        log=f"{logs}/share-%a.txt", asked={**asked, "cpus-per-task": workers},
        at_once=conversion.at_once,
    )  # fmt: skip
    merge = render_array(
        f"{name}-merge", [*command, "--merge", str(count)], None, log=f"{logs}/merge.txt",
        asked=asked, after=after, done=f"{logs}/{_DONE}",
    )  # fmt: skip
    return shares, merge


def submit_conversion(conversion: Conversion) -> Submitted:
    """Submit both jobs here; if the second is refused, the first is taken back.

    The jobs use this Python, this folder and this UPS_HOME, which all nodes must see.

    Raises:
        UsageError: As `render_conversion`.
        RemoteError: Slurm is not here, or refuses.
    """
    logs = new_logs(conversion.dataset)
    shares, _ = render_conversion(conversion, logs)
    logs.mkdir(parents=True, exist_ok=True)
    first = _submit(shares)
    try:
        second = _submit(render_conversion(conversion, logs, first)[1])
    except RemoteError:
        Login().run('scancel "$1"', [first])
        raise
    return Submitted(first, second, logs)


def new_logs(dataset: str) -> Path:
    """A folder for what the jobs of one conversion print."""
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    return paths.home() / "remote" / "conversions" / f"{dataset}-{stamp}"


def unfinished(submitted: Submitted) -> list[str]:
    """States of the jobs that are not over, one for each share and the merge.

    Raises:
        RemoteError: The queue cannot be read.
    """
    answer = Login().run('squeue -h -r -u "$(id -un)" -o "%F %T"')
    if answer.code:
        raise RemoteError(f"Slurm: squeue: {answer.complaint}", hint="squeue --me")
    rows = [line.split() for line in answer.text.splitlines()]
    ours = (submitted.shares, submitted.merge)
    return [state.lower() for number, state in rows if number in ours]


def complaints(submitted: Submitted) -> list[str]:
    """The last error of every job that printed one, with the name of its log."""
    found = []
    for path in sorted(submitted.logs.glob("*.txt")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if "error:" in line]
        if errors:
            found.append(f"{path.stem}: {errors[-1]}")
    return found


def _check(conversion: Conversion) -> None:
    for argument in conversion.arguments:
        name = argument.partition("=")[0]
        if name in _OURS:
            raise UsageError(
                f"{name}: the job array gives it itself",
                hint=f"ups remote convert {conversion.dataset} --shards 8 --workers 4",
            )
    for option in conversion.options or {}:
        if option not in OPTIONS:
            raise UsageError(
                f"slurm: unknown option '{option}'{did_you_mean(option, OPTIONS)}",
                hint=f"options: {', '.join(OPTIONS)}",
            )


def _submit(script: str) -> str:
    exported = ",".join((*KEPT, "UPS_HOME"))
    answer = Login().run(
        'UPS_HOME="$1" exec sbatch --parsable --export="$2"', [str(paths.home()), exported],
        given=script.encode(),
    )  # fmt: skip
    number = answer.text.strip().partition(";")[0]
    if answer.code or not number.isdecimal():
        raise RemoteError(f"Slurm: the job was not taken: {answer.complaint}", hint="sinfo")
    return number
