"""A real dstack server on loopback whose clouds are stand-ins.

The server's process alone is redirected: a `sitecustomize` on its PYTHONPATH turns requests to the
two clouds' hosts into requests to loopback. The installed packages stay as they are.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
    """The two stand-ins that a server rents from."""

    vast: vast_api.VastApi
    vultr: vultr_api.VultrApi

    def rented(self) -> int:
        return len(self.vast.instances) + len(self.vultr.instances)


@contextmanager
def clouds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clouds]:
    """Stand-ins, UPS_HOME and keys in the environment; a server started inside rents from them.

    That server is ended with the block, however the test ended.
    """
    pytest.importorskip("dstack", reason=INSTALL)
    pytest.importorskip("uvicorn", reason=INSTALL)
    from ups.remote.drivers.dstack_server import server_pid

    both = Clouds(vast_api.VastApi(VAST_KEY), vultr_api.VultrApi(VULTR_KEY))
    with both.vast.serving() as vast, both.vultr.serving() as vultr:
        shim = folder / "shim"
        shim.mkdir(parents=True)
        (shim / "sitecustomize.py").write_text(_SITECUSTOMIZE)
        hosts = {vast_api.HOST: vast, vultr_api.HOST: vultr}
        (shim / "hosts.json").write_text(json.dumps(hosts))
        for name, value in {
            "UPS_HOME": folder / "home", "HOME": folder / "user", "PYTHONPATH": shim,
            "VASTAI_API_KEY": VAST_KEY, "VULTR_API_KEY": VULTR_KEY,
        }.items():  # fmt: skip
            monkeypatch.setenv(name, str(value))
        for name in ("UPS_DSTACK_URL", "UPS_DSTACK_TOKEN", "LAMBDA_API_KEY", "RUNPOD_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        try:
            yield both
        finally:
            if (pid := server_pid()) is not None:
                os.kill(pid, signal.SIGKILL)
