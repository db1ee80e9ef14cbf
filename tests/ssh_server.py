"""A real sshd on loopback: its own host key and known_hosts, and a home folder of the test."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers import free_port

from ups.remote.drivers.ssh_host import Host

INSTALL = "apt-get install -y openssh-server openssh-client"
SFTP = shutil.which(
    "sftp-server", path="/usr/lib/openssh:/usr/libexec/openssh:/usr/lib/ssh:/usr/libexec"
)


@dataclass
class SshServer:
    """A host that takes one key. `home` is its user's home folder, `process` its sshd.

    Attributes:
        options: Of a job that goes there.
    """

    home: Path
    folder: Path
    port: int
    options: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    def job(self, name: str) -> Path:
        return self.home / ".ups" / "jobs" / name

    def start(self) -> None:
        """Start sshd."""
        program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(program), "-D", "-e", "-f", self.folder / "sshd_config"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        for _ in range(200):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def cut(self) -> None:
        """Stop sshd, and every connection with it; jobs go on."""
        assert self.process is not None
        Host.of(self.options).close()
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError, ProcessLookupError):
                words = path.read_text().rpartition(")")[2].split()
                if int(words[3]) == self.process.pid or int(words[1]) == self.process.pid:
                    os.kill(int(path.parent.name), signal.SIGKILL)
        self.process.kill()
        self.process.wait()


@contextmanager
def ssh_server(folder: Path, *, environment: dict[str, str] | None = None) -> Iterator[SshServer]:
    """Run sshd; what a job leaves running is killed afterwards.

    Args:
        environment: Of everything that is run there.
    """
    for name in ("sshd", "ssh", "ssh-keygen"):
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"{name} is not installed: {INSTALL}")
    folder.mkdir(parents=True)
    home, port = folder / "home", free_port()
    home.mkdir()
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    (folder / "authorized_keys").write_text((folder / "user_key.pub").read_text())
    kind, key, *_ = (folder / "host_key.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    values = {"HOME": str(home), "PATH": os.environ["PATH"]} | (environment or {})
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in values.items())
    Path("/run/sshd").mkdir(parents=True, exist_ok=True)
    (folder / "enter.sh").write_text(
        f'cd {home}\nexec env {words} bash -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/host_key\nPort {port}\nListenAddress 127.0.0.1\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nForceCommand bash {folder}/enter.sh\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        f"PidFile none\nSubsystem sftp {SFTP}\n"
    )
    options = {
        "host": "127.0.0.1", "port": str(port), "identity": str(folder / "user_key"),
        "known_hosts": str(folder / "known_hosts"), "user": pwd.getpwuid(os.getuid()).pw_name,
    }  # fmt: skip
    server = SshServer(home, folder, port, options)
    server.start()
    try:
        yield server
    finally:
        server.cut()
        for record in (home / ".ups" / "jobs").glob("*/pid"):
            kill_session(int(record.read_text().split()[0]))


def kill_session(session: int) -> None:
    """Kill every process of a session."""
    for pid in members(session):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def members(session: int) -> list[int]:
    """Processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            if int(words[3]) == session and words[0] != "Z":
                found.append(int(path.parent.name))
    return found
