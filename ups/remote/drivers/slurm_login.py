"""Where sbatch is run: this machine, or a login node over ssh.

Everything is a small shell script whose arguments and input are given apart, so that the two differ
in one line only.
"""

from __future__ import annotations

import io
import shlex
import subprocess
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ups.errors import DataError, RemoteError, translated_os_errors
from ups.remote.drivers.ssh_host import LOST, Host
from ups.remote.drivers.ssh_host import OPTIONS as CONNECTION

_LIMIT_S = 90.0
_NOT_FOUND = 127


@dataclass(frozen=True)
class Answer:
    """What a script has printed, and how it ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode(errors="replace")

    @property
    def complaint(self) -> str:
        """The last line of standard error that says something, without the program's name."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        return lines[-1].removeprefix("sbatch: error: ") if lines else f"exit code {self.code}"


@dataclass(frozen=True)
class Login:
    """A machine that has Slurm's commands.

    Attributes:
        host: None for this machine.
    """

    host: Host | None = None

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Login:
        """By the options of an ssh host among `options`; without a host this machine."""
        if "host" not in options:
            return cls()
        return cls(Host.of({name: options[name] for name in CONNECTION if name in options}))

    @property
    def where(self) -> str:
        return self.host.host if self.host else "this machine"

    def run(self, script: str, arguments: Sequence[str] = (), *, given: bytes = b"") -> Answer:
        """Run a bash script there.

        Args:
            arguments: Its $1, $2, ...; anybody on the machine can see them.
            given: Its standard input; nobody else can see it.
        Raises:
            RemoteError: ssh or bash cannot be started, the machine not reached, or no answer.
        """
        words = ["bash", "-c", script, "ups", *arguments]
        command = [*self.host.command, shlex.join(words)] if self.host else words
        try:
            done = subprocess.run(command, input=given, capture_output=True, timeout=_LIMIT_S)
        except FileNotFoundError as error:
            raise RemoteError(f"{command[0]} is not installed here") from error
        except subprocess.TimeoutExpired as error:
            raise RemoteError(
                f"{self.where}: no answer within {_LIMIT_S:.0f} s", hint="sinfo; is Slurm well?"
            ) from error
        answer = Answer(done.returncode, done.stdout, done.stderr.decode(errors="replace"))
        if self.host and answer.code == LOST:
            raise self.host.refusal(answer.err)
        if answer.code == _NOT_FOUND:
            raise RemoteError(
                f"{self.where}: {answer.complaint}",
                hint="run this on a login node, or name one: --option host=...",
            )
        return answer

    def send(self, folder: Path, to: str, extra: Mapping[str, bytes]) -> None:
        """Copy the files of a flat folder, and some more by name, into a folder of 0700.

        Raises:
            RemoteError: It cannot be written there.
        """
        packed = io.BytesIO()
        with (
            translated_os_errors(folder, "reading", DataError),
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name, recursive=False)
            for name, content in extra.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
                archive.addfile(member, io.BytesIO(content))
        script = 'umask 077; mkdir -p "$1" && tar -xf - -C "$1" --no-same-owner'
        answer = self.run(script, [to], given=packed.getvalue())
        if answer.code:
            raise RemoteError(
                f"{self.where}: {to}: {answer.complaint}",
                hint="name a folder on a disk that all nodes see: --option folder=/scratch/me",
            )
