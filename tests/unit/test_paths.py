"""Where things are, and what is said when they may not be read."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ups import paths

AS_NOBODY = """
import os, sys
from ups import errors, paths
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
os.environ["UPS_HOME"] = sys.argv[1]
try:
    print(paths.registry_dirs())
except errors.UsageError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("below", ["", "home", "home/deeper"])
def test_a_home_that_may_not_be_read_is_one_clear_line(below):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0)
        try:
            result = subprocess.run(
                [sys.executable, "-c", AS_NOBODY, folder / below], capture_output=True, text=True
            )
        finally:
            folder.chmod(0o700)
    assert result.returncode == 2, result.stderr
    assert result.stdout == f"UPS_HOME: no permission for reading {folder / below}\n"


def test_everything_written_is_below_ups_home(home):
    for place in (
        paths.raw_dir("x"),
        paths.caches_dir(),
        paths.runs_dir(),
        paths.leaderboard_dir(),
    ):
        assert place.is_relative_to(home)


def test_a_checkout_keeps_everything_inside_itself(monkeypatch):
    monkeypatch.delenv("UPS_HOME")
    assert paths.home() == paths.checkout() == Path(__file__).resolve().parents[2]
    assert paths.registry_dirs() == [paths.checkout() / "registry"]


def test_an_installed_package_uses_the_users_home(monkeypatch):
    monkeypatch.delenv("UPS_HOME")
    monkeypatch.setattr(paths, "checkout", lambda: None)
    assert paths.home() == Path.home() / ".ups"
    assert paths.registry_dirs()[0].parts[-2:] == ("_packaged", "registry")


def test_the_users_own_cards_and_configs_are_looked_at_last(home):
    assert len(paths.config_dirs()) == 1
    (home / "configs").mkdir(parents=True)
    assert paths.config_dirs()[1:] == [home / "configs"]


def test_paths_are_shown_relative_where_that_is_shorter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths.display(tmp_path / "a" / "b") == "a/b"
    assert paths.display(tmp_path) == "."
    assert paths.display(Path("/elsewhere")) == "/elsewhere"
