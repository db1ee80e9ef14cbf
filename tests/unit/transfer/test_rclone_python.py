"""Why commands do not go through rclone-python's functions: docs/adr/0009-rclone.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rclone_python import rclone, utils
from servers import rclone_binary


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{Path(rclone_binary()).parent}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)


def test_it_executes_what_stands_in_a_path(tmp_path: Path) -> None:
    rclone.cat(f"{tmp_path}/$(touch executed)")
    assert (tmp_path / "executed").is_file()


COPY = """
from rclone_python import rclone, utils
try:
    rclone.copy("none", "to", show_progress=False)
except utils.RcloneException as error:
    print(sorted(vars(error)))
"""


def test_its_error_for_a_copy_has_no_exit_code() -> None:
    """In a process of its own: it leaves its pipes open."""
    result = subprocess.run([sys.executable, "-c", COPY], capture_output=True, text=True)
    assert result.stdout.endswith("['description', 'error_msg']\n")


def test_it_ignores_a_config_that_is_set_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils.Config, "_instance", None)
    monkeypatch.setattr(utils.Config, "_initialized", False)
    utils.Config()
    rclone.set_config_file("late.conf")
    assert utils.Config().config_path is None


def test_its_reader_of_progress_is_used() -> None:
    stats = {"totalBytes": 10, "bytes": 4, "speed": 1.0, "transferring": []}
    valid, update = utils.extract_rclone_progress(json.dumps({"level": "info", "stats": stats}))
    assert valid
    assert (update["sent"], update["total"]) == (4, 10)
