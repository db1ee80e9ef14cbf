"""`ups data download`: what it prints and the codes it leaves with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from ups import paths
from ups.cli._app import UpsGroup
from ups.cli.data_download import download
from ups.registry import DatasetCard

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit" / "data"))
from fault_server import Fault, FaultServer, serving, tiny_file, write_card

NAMES = [f"1D_Advection_Sols_beta0.{i}.hdf5" for i in (1, 2, 3)]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving() as world:
        yield world


@pytest.fixture
def contents(tmp_path: Path, server: FaultServer) -> dict[str, bytes]:
    made = {name: tiny_file(tmp_path, 20, seed=seed) for seed, name in enumerate(NAMES)}
    server.files.update(made)
    return made


@pytest.fixture
def card(home: Path, server: FaultServer, contents: dict[str, bytes]) -> DatasetCard:
    return write_card(home, server.address, contents)


def run(*words: str) -> Result:
    """The command under a root that turns errors into lines, as `ups` has it."""
    app = typer.Typer(cls=UpsGroup)
    app.command()(download)
    app.command("other")(lambda: None)  # with one command alone, typer drops its name
    return CliRunner().invoke(app, ["download", "loopback1d", *words])


def test_one_variant_is_fetched_and_the_next_call_is_instant(card, server, contents):
    result = run("--variant", "beta=0.2")
    assert result.exit_code == 0, result.output
    assert "MD5 verified" in result.stdout
    assert (paths.raw_dir("loopback1d") / NAMES[1]).read_bytes() == contents[NAMES[1]]
    requests = len(server.log)
    again = run("--variant", "beta=0.2")
    assert again.stdout.startswith("download  there, MD5 verified")
    assert len(server.log) == requests


def test_first_files_as_json(card, contents):
    result = run("--files", "2", "--json")
    rows = json.loads(result.stdout)
    assert [(row["name"], row["state"]) for row in rows] == [(n, "fetched") for n in NAMES[:2]]
    assert not (paths.raw_dir("loopback1d") / NAMES[2]).exists()


def test_a_dry_run_fetches_nothing(card, server, contents, monkeypatch):
    result = run("--dry-run")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in NAMES)
    assert ": enough room" in result.stdout
    assert not paths.raw_dir("loopback1d").exists()
    assert sum(server.sent(name) for name in NAMES) <= len(NAMES)
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "NOT enough room" in run("--dry-run").stdout
    plan = json.loads(run("--dry-run", "--json").stdout)
    assert plan["needed_bytes"] == sum(len(content) for content in contents.values())
    assert plan["fits"] is False


def test_first_trajectories(card):
    result = run("--files", "1", "--trajectories", "4")
    assert result.exit_code == 0, result.output
    assert "first trajectories" in result.stdout
    assert (paths.raw_dir("loopback1d") / NAMES[0].replace(".hdf5", ".first4.hdf5")).is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variant", "nu=1"], "--variant nu: unknown name; the files differ by beta, initial"),
        (["--variant", "beta=9"], "beta is one of 0.1, 0.2, 0.3"),
        (["--trajectories", "20"], "holds 20"),
    ],
)
def test_wrong_words_exit_2(card, words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("error:") == 1


def test_a_file_that_cannot_be_had_exits_3_and_the_others_are_there(card, server):
    server.faults[NAMES[1]] = [Fault(status=410)]
    result = run()
    assert result.exit_code == 3
    assert f"error: {NAMES[1]}: not fetched" in result.stderr
    assert "Traceback" not in result.output
    there = {path.name for path in paths.raw_dir("loopback1d").glob("1D*")}
    assert there == {NAMES[0], NAMES[2]}


def test_rejection_is_one_line_on_stderr(card, server):
    server.faults[NAMES[0]] = [Fault(flip=1000)]
    result = run("--files", "1")
    assert result.exit_code == 0
    lines = [line for line in result.stderr.splitlines() if "rejected" in line]
    assert len(lines) == 1
    assert lines[0].count("MD5") == 1


def test_ctrl_c_exits_130_at_once_and_leaves_what_can_go_on(card, server, contents):
    server.faults[NAMES[0]] = [Fault(stall=20_480)]
    code = (
        "import typer; from ups.cli._app import UpsGroup\n"
        "from ups.cli.data_download import download\n"
        "app = typer.Typer(cls=UpsGroup); app.command()(download); app.command('x')(lambda: None)\n"
        "app(['download', 'loopback1d', '--files', '1'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a CI may ignore it
    )  # fmt: skip
    assert server.holding.wait(30)
    part = paths.raw_dir("loopback1d") / f".{NAMES[0]}.part"
    while not part.exists() or part.stat().st_size < 20_480:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)  # the stall time-out would be 30 s
    assert (process.returncode, errors.strip()) == (130, "interrupted")
    result = json.loads(run("--files", "1", "--json").stdout)
    assert result[0]["received"] == len(contents[NAMES[0]]) - 20_480
