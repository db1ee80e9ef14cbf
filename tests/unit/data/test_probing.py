"""Files that hang or crash the HDF5 library are found out in a process of their own."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from ups.data.conversion import probing
from ups.errors import DataError
from ups.registry import load_card


@pytest.fixture
def raw(tmp_path, write_raw):
    values = np.random.default_rng(0).normal(size=(4, 3, 8)).astype(np.float32)
    return write_raw(tmp_path / "1D_Advection_Sols_beta1.0.hdf5", values, {"beta": 1.0})


def test_sound_files_and_files_that_merely_fail_pass(raw):
    nothing = raw.with_name("nothing.hdf5")
    nothing.write_bytes(b"no HDF5")
    probing.Probe([raw, nothing], load_card("advection1d")).wait()


@pytest.mark.parametrize(
    ("what", "message"),
    [("import time; time.sleep(60)", "does not come back"),
     ("import os; os.kill(os.getpid(), 11)", "crashes")],
)  # fmt: skip
def test_a_file_that_hangs_or_crashes_is_named(raw, monkeypatch, tmp_path, what, message):
    """The second file does; the process is a stand-in that reaches it and then does `what`."""
    script = tmp_path / "stand_in.py"
    script.write_text(f"print(0); print(1, flush=True); {what}")
    popen = probing.subprocess.Popen
    monkeypatch.setattr(
        probing.subprocess, "Popen", lambda command, **options: popen([sys.executable, script],
                                                                    **options))  # fmt: skip
    other = raw.with_name("other.hdf5")
    with pytest.raises(DataError, match=rf"{other}: damaged: the HDF5 library {message}"):
        probing.Probe([raw, other], load_card("advection1d"), limit_s=1.0).wait()
