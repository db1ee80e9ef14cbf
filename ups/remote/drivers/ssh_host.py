"""A machine that is reached by OpenSSH: small scripts run there, and their output followed.

Keys of hosts are never accepted here: a host that is not in known_hosts, or has another key than
it says, is an error that tells what to do. Nothing secret is in an argument; it goes by stdin.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ups.errors import RemoteError, UsageError, did_you_mean, translated_os_errors

OPTIONS = ("host", "identity", "known_hosts", "port", "user")
FOLDERS = {"home": "UPS_HOME", "python": "UPS_PYTHON", "environments": "UPS_ENVIRONMENTS"}
"""Options that are not of the connection -> the variable that the job gets."""
LOST = 255
"""Exit code of ssh itself: no connection, or no more."""
_LIMIT_S = 90.0
_SSH = (
    "ssh", "-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
    "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3",
    "-o", "ControlMaster=auto", "-o", "ControlPersist=30", "-o", "LogLevel=ERROR",
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@:%-]*")


class LostError(RemoteError):
    """ssh has no connection: the host may be there again later."""


@dataclass(frozen=True)
class Host:
    """How a machine is reached; what is empty is as ~/.ssh/config says.

    Attributes:
        host: Name, address, or alias of ~/.ssh/config.
        identity: Private key file.
        known_hosts: Keys of the hosts that are trusted.
    """

    host: str
    user: str = ""
    port: str = ""
    identity: str = ""
    known_hosts: str = ""

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Host:
        """From a job's options.

        Raises:
            UsageError: There is no host, an option is unknown, or a value is none.
        """
        known = (*OPTIONS, *FOLDERS)
        for name in options:
            if name not in known:
                raise UsageError(
                    f"ssh: unknown option '{name}'{did_you_mean(name, known)}",
                    hint=f"options: {', '.join(known)}",
                )
        if not options.get("host"):
            raise UsageError("ssh: which machine?", hint="--option host=NAME, as in `ssh NAME`")
        for name in ("host", "user"):
            if (value := options.get(name)) and not _WORD.fullmatch(value):
                raise UsageError(f"ssh: {name}={value!r}: not a name")
        if (port := options.get("port")) and not port.isdecimal():
            raise UsageError(f"ssh: port={port!r}: not a number")
        return cls(**{name: value for name, value in options.items() if name in OPTIONS})

    def options(self) -> dict[str, str]:
        """What `of` takes."""
        return {name: value for name in OPTIONS if (value := getattr(self, name))}

    @property
    def command(self) -> list[str]:
        """ssh up to the host; words for a remote shell follow."""
        words = [*_SSH, "-o", f"ControlPath={_control_path()}"]
        if self.known_hosts:
            path = Path(self.known_hosts).expanduser()
            words += ["-o", f"UserKnownHostsFile={path}", "-o", "GlobalKnownHostsFile=/dev/null"]
        if self.identity:
            words += ["-o", "IdentitiesOnly=yes", "-i", str(Path(self.identity).expanduser())]
        words += ["-p", self.port] if self.port else []
        words += ["-l", self.user] if self.user else []
        return [*words, "--", self.host]

    def run(self, script: str, *arguments: str, given: bytes = b"") -> str:
        """Run a bash script there and return what it prints.

        Args:
            arguments: Its $1, $2, ...; anybody on either machine can see them.
            given: Its standard input; nobody else can see it.
        Raises:
            LostError: There is no connection.
            RemoteError: ssh is not installed, the host or its key is refused, or the script fails.
        """
        try:
            done = subprocess.run(
                self._words(script, arguments), input=given, capture_output=True, timeout=_LIMIT_S
            )
        except FileNotFoundError as error:
            raise RemoteError("ssh is not installed", hint="install openssh-client") from error
        except subprocess.TimeoutExpired as error:
            raise LostError(f"{self.host}: no answer within {_LIMIT_S:.0f} s") from error
        complaint = done.stderr.decode(errors="replace")
        if done.returncode == LOST:
            raise self.refusal(complaint)
        if done.returncode:
            raise RemoteError(f"{self.host}: {_last_line(complaint, done.returncode)}")
        return done.stdout.decode(errors="replace")

    @contextmanager
    def follow(self, script: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A script's output as it comes, on `stdout`; ended with the block."""
        process = subprocess.Popen(
            self._words(script, arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            with process.stdout:
                yield process
        finally:
            process.terminate()
            process.wait()

    def send(self, folder: Path, script: str, *arguments: str, more: Mapping[str, str]) -> None:
        """Give a script a tar file of a flat folder, with some more files, on its stdin."""
        packed = io.BytesIO()
        with (
            translated_os_errors(folder, "reading", RemoteError),
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name, recursive=False)
            for name, text in more.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(text.encode()), 0o600
                archive.addfile(member, io.BytesIO(text.encode()))
        self.run(script, *arguments, given=packed.getvalue())

    def close(self) -> None:
        """End the connection that is kept open for half a minute."""
        words = self.command
        words[1:1] = ["-O", "exit"]
        subprocess.run(words, capture_output=True, timeout=_LIMIT_S, check=False)

    def _words(self, script: str, arguments: Sequence[str]) -> list[str]:
        return [*self.command, shlex.join(["bash", "-c", script, "ups", *arguments])]

    def refusal(self, complaint: str) -> RemoteError:
        """What ssh's message means, and what helps."""
        port = f"-p {self.port} " if self.port else ""
        if "IDENTIFICATION HAS CHANGED" in complaint:
            return RemoteError(
                f"{self.host}: its key is not the one that is known: it was set up anew, or "
                "somebody stands between",
                hint=f"ask its owner; then ssh-keygen -R {self.host}, and ssh {port}{self.host}",
            )
        if "host key" in complaint.lower():
            return RemoteError(
                f"{self.host}: its key is not known here",
                hint=f"ssh-keyscan {port}{self.host} prints it; compare it with its owner's and "
                "add it to known_hosts, or log in once by hand",
            )
        if "Permission denied" in complaint:
            return RemoteError(
                f"{self.host}: permission denied",
                hint=f"ssh {port}{self.host} must work without questions: ssh-copy-id, ssh-add, "
                "or --option identity=FILE",
            )
        return LostError(
            f"{self.host}: no connection: {_last_line(complaint, LOST)}",
            hint=f"try: ssh {port}{self.host} true",
        )


def _control_path() -> str:
    """Sockets of connections; their path must be short, and nobody else's."""
    folder = Path.home() / ".ssh"
    with translated_os_errors(folder, "keeping connections", RemoteError):
        folder.mkdir(mode=0o700, exist_ok=True)
    return os.fspath(folder / "ups-%C")


def _last_line(text: str, code: int) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {code}"
