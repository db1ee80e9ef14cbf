"""The dstack server that launches and ends machines: the user's own, or one started here.

Machines are made and given back by this server, so it has to run while a job does. Without
`UPS_DSTACK_URL` and `UPS_DSTACK_TOKEN` one is started on loopback and left running; its folder is
`UPS_HOME/remote/dstack`:

    token         of its only user, mode 0600
    config.yml    key that secrets in the database are encrypted with, mode 0600
    server.json   port and process
    server.log    warnings; mode 0600
    data/         SQLite database, uploads and logs of jobs
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from ups import paths
from ups.errors import MissingExtraError, RemoteError, translated_os_errors
from ups.files import exclusive, write_json

PROJECT = "main"
_START_S = 180.0
_STOP_S = 20.0
_UPLOAD_LIMIT = 64 * 2**20
_PASSED_ON = (
    "HOME", "LANG", "LOGNAME", "PATH", "PYTHONPATH", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "XDG_CACHE_HOME", "KUBECONFIG",
)  # fmt: skip


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes:
        is_ours: Whether it is the one of UPS_HOME.
    """

    url: str
    token: str
    project: str = PROJECT
    is_ours: bool = True

    def __repr__(self) -> str:
        return f"Server({self.url}, project {self.project})"


def folder() -> Path:
    return paths.home() / "remote" / "dstack"


def ensure_server() -> Server:
    """The user's server if one is named, else ours, started where it does not run.

    Raises:
        RemoteError: It does not answer, or does not start.
    """
    if url := os.environ.get("UPS_DSTACK_URL"):
        return _named(url.rstrip("/"))
    if running := running_server():
        return running
    _private_folder()
    with exclusive(folder() / "server", "starting the dstack server", RemoteError, wait_s=_START_S):
        return running_server() or _start()


def running_server() -> Server | None:
    """Ours, if it answers; nothing is started."""
    record = _record()
    if record is None:
        return None
    url = f"http://127.0.0.1:{record['port']}"
    token_file = folder() / "token"
    if not token_file.is_file() or not _answers(url):
        return None
    return Server(url, token_file.read_text(encoding="utf-8").strip())


def server_pid() -> int | None:
    """Of our server, if that process is there and is one."""
    record = _record()
    if record is None or not _is_server(record["pid"]):
        return None
    return int(record["pid"])


def stop_server() -> bool:
    """End our server; machines of running jobs stay, and nothing watches them until it runs again.

    Returns:
        Whether one was running.
    """
    pid = server_pid()
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + _STOP_S
    while _is_server(pid) and time.monotonic() < end:
        time.sleep(0.1)
    if _is_server(pid):
        os.kill(pid, signal.SIGKILL)
    return True


def _named(url: str) -> Server:
    token = os.environ.get("UPS_DSTACK_TOKEN")
    if not token:
        raise RemoteError("UPS_DSTACK_URL is set, UPS_DSTACK_TOKEN is not",
                          hint="export UPS_DSTACK_TOKEN=...")  # fmt: skip
    if not _answers(url):
        raise RemoteError(f"dstack: no server answers at {url}", hint="check UPS_DSTACK_URL")
    project = os.environ.get("UPS_DSTACK_PROJECT", PROJECT)
    return Server(url, token, project, is_ours=False)


def _private_folder() -> None:
    """The database and its journal are written as the server likes; nobody else gets to them."""
    home = folder()
    with translated_os_errors(home, "making the folder", RemoteError):
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)


def _start() -> Server:
    program = _program()
    home = folder()
    token = _kept_secret(home / "token", secrets.token_urlsafe(32))
    _kept_secret(home / "config.yml", _configuration())
    previous = _record()
    port = _free_port(previous["port"] if previous else None)
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment |= {
        "DSTACK_SERVER_DIR": str(home),
        "DSTACK_SERVER_ADMIN_TOKEN": token,
        "DSTACK_SERVER_LOG_FORMAT": "standard",
        "DSTACK_SERVER_CODE_UPLOAD_LIMIT": str(_UPLOAD_LIMIT),
    }
    command = [program, "server", "--host", "127.0.0.1", "--port", str(port),
               "--log-level", "WARNING", "--no"]  # fmt: skip
    log = os.open(home / "server.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        process = subprocess.Popen(
            command, env=environment, cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(log)
    write_json(home / "server.json", {"pid": process.pid, "port": port}, RemoteError)
    _wait_for(process, f"http://127.0.0.1:{port}", home / "server.log")
    # Not ours to reap: it outlives this process.
    process.returncode = 0
    return Server(f"http://127.0.0.1:{port}", token)


def _wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        if _answers(url):
            return
        if process.poll() is not None:
            raise RemoteError(
                f"dstack: the server ended while starting: {_last_line(log)}",
                hint=f"less {paths.display(log)}",
            )
        time.sleep(0.2)
    process.kill()
    process.wait()
    raise RemoteError(f"dstack: the server did not answer in {_START_S:g} s",
                      hint=f"less {paths.display(log)}")  # fmt: skip


def _configuration() -> str:
    """Encryption only: backends come through the API, and a project named here would lose them."""
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    keys = [{"type": "aes", "name": "ups", "secret": key}]
    return yaml.safe_dump({"projects": [], "encryption": {"keys": keys}})


def _kept_secret(path: Path, text: str) -> str:
    """What `path` holds; `text`, readable by its owner only, where there was no such file."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
        return path.read_text(encoding="utf-8").strip()
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return text


def _program() -> str:
    beside = Path(sys.executable).parent / "dstack"
    found = str(beside) if beside.is_file() else shutil.which("dstack")
    if found is None:
        raise MissingExtraError("the dstack engine needs the package dstack",
                                hint="pip install 'universal-physics-stack[remote]'")  # fmt: skip
    return found


def _record() -> dict[str, int] | None:
    try:
        record = json.loads((folder() / "server.json").read_text(encoding="utf-8"))
        return {"pid": int(record["pid"]), "port": int(record["port"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _answers(url: str) -> bool:
    try:
        with httpx.Client(trust_env="127.0.0.1" not in url) as client:
            answer = client.post(f"{url}/api/server/get_info", timeout=5)
    except httpx.HTTPError:
        return False
    return answer.status_code == httpx.codes.OK and b"server_version" in answer.content


def _is_server(pid: int) -> bool:
    """Whether the process is a dstack server, and not another one that got the number since."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return _is_alive_without_proc(pid)
    return status != "Z" and b"server" in command and any(b"dstack" in part for part in command)


def _is_alive_without_proc(pid: int) -> bool:
    if Path("/proc/self").exists():
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _free_port(preferred: int | None) -> int:
    """The port of before if it is free, so that what was noted stays right."""
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(sock.getsockname()[1])
    raise RemoteError("dstack: no free port on loopback")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
