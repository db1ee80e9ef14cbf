"""A real dstack server on loopback whose clouds are stand-ins.

The server's process alone is redirected: a `sitecustomize` on its PYTHONPATH turns requests to the
two clouds' hosts into requests to loopback. The installed packages stay as they are.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import vast_api
import vultr_api

INSTALL = "pip install -e '.[remote]'"
VAST_KEY = "vast-planted-5d41402abc4b2a76b9719d911017c592"
VULTR_KEY = "VULTR-PLANTED-7d793037a0760186574b0282f2f435e7"

_SITECUSTOMIZE = """
import json
import pathlib

import httpx
import requests

HOSTS = json.loads((pathlib.Path(__file__).parent / "hosts.json").read_text())


def here(url):
    for theirs, ours in HOSTS.items():
        if str(url).startswith(theirs):
            return ours + str(url)[len(theirs):]
    return url


def patched(cls, name, change):
    original = getattr(cls, name)
    setattr(cls, name, lambda self, *args, **kwargs: change(original, self, *args, **kwargs))


def request(original, self, method, url, *args, **kwargs):
    return original(self, method, here(url), *args, **kwargs)


def client(original, self, *args, **kwargs):
    kwargs["base_url"] = here(kwargs.get("base_url", ""))
    original(self, *args, **kwargs)


patched(requests.Session, "request", request)
patched(httpx.Client, "__init__", client)
"""


@dataclass
class Clouds:
    """The two stand-ins that a server rents from, and the environment it is used with."""

    vast: vast_api.VastApi
    vultr: vultr_api.VultrApi
    folder: Path
    hosts: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """UPS_HOME, a home of its own for the server, and planted keys."""
        for name, value in {
            "UPS_HOME": self.home, "HOME": self.folder / "user", "PYTHONPATH": self.folder / "shim",
            "VASTAI_API_KEY": VAST_KEY, "VULTR_API_KEY": VULTR_KEY,
        }.items():  # fmt: skip
            monkeypatch.setenv(name, str(value))
        for name in ("UPS_DSTACK_URL", "UPS_DSTACK_TOKEN", "LAMBDA_API_KEY", "RUNPOD_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        from ups.remote.drivers import dstack_audit

        for backend, host in dict(dstack_audit.HOSTS).items():
            monkeypatch.setitem(dstack_audit.HOSTS, backend, self.hosts.get(host, host))

    def rented(self) -> int:
        """Machines that cost money now."""
        return len(self.vast.instances) + len(self.vultr.instances)

    def files_with(self, *texts: str) -> list[str]:
        """Files of UPS_HOME, the user's home and the shim in which one of `texts` stands."""
        needles = [text.encode() for text in texts]
        return [
            str(path)
            for path in self.folder.rglob("*")
            if path.is_file() and any(needle in path.read_bytes() for needle in needles)
        ]


@contextmanager
def clouds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clouds]:
    """Stand-ins, UPS_HOME and keys in the environment; a server started inside rents from them.

    That server is ended with the block, however the test ended.
    """
    pytest.importorskip("dstack", reason=INSTALL)
    pytest.importorskip("uvicorn", reason=INSTALL)
    both = Clouds(vast_api.VastApi(VAST_KEY), vultr_api.VultrApi(VULTR_KEY), folder)
    with both.vast.serving() as vast, both.vultr.serving() as vultr:
        shim = folder / "shim"
        shim.mkdir(parents=True)
        (shim / "sitecustomize.py").write_text(_SITECUSTOMIZE)
        both.hosts = {vast_api.HOST: vast, vultr_api.HOST: vultr}
        (shim / "hosts.json").write_text(json.dumps(both.hosts))
        both.environment(monkeypatch)
        try:
            yield both
        finally:
            both.environment(monkeypatch)
            kill_server()


def kill_server() -> None:
    """As a crash does: SIGKILL."""
    from ups.remote.drivers.dstack_server import server_pid

    if (pid := server_pid()) is not None:
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 10
        while server_pid() is not None and time.monotonic() < end:
            time.sleep(0.05)


def until(is_true: Callable[[], Any], what: str, limit_s: float = 90) -> Any:
    """Wait for something to become true, and return it."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if found := is_true():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {limit_s:g} s: {what}")
