"""Shared fixtures: every test has its own UPS_HOME, and never the developer's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

pytest_plugins = ["servers"]

# torch's first call is slower than hypothesis' default deadline.
settings.register_profile("ups", deadline=None, derandomize=True)
settings.load_profile("ups")

# Before torch is imported: the test processes share the machine's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh UPS_HOME, so that no test reads or writes outside its own folder.

    Without a key for W&B, so that no test imports wandb or uploads anything unless it asks to.
    """
    folder = tmp_path / "home"
    monkeypatch.setenv("UPS_HOME", str(folder))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def shared_pdebench() -> Path:
    """Files made by PDEBench's own generators; tests that need them skip without."""
    folder = SHARED / "pdebench"
    if not folder.is_dir():
        pytest.skip(f"no PDEBench-made files in {folder}")
    return folder
