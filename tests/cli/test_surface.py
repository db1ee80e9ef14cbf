"""The command line as a whole: start-up, help, documentation."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import ups
from ups.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HEAVY = ("torch", "h5py", "zarr", "wandb", "matplotlib", "scipy", "numpy")


def commands() -> list[tuple[str, ...]]:
    """Every command as the words that call it."""
    found: list[tuple[str, ...]] = []

    def walk(command: object, words: tuple[str, ...]) -> None:
        children = getattr(command, "commands", {})
        if not children:
            found.append(words)
        for name, child in children.items():
            walk(child, (*words, name))

    walk(get_command(app), ())
    return found


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from ups.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help_and_stands_in_the_readme(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) >= 6
    assert f"ups {' '.join(words)}" in README


def test_public_names_are_there() -> None:
    for name in ups.__all__:
        assert getattr(ups, name).__doc__, name


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_readme_console_blocks_run_in_order(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line that begins with `$ ups` works, and the Python block after them does too."""
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("console") for line in block.splitlines()]
    ran = 0
    for line in lines:
        if line.startswith("$ ups "):
            arguments = shlex.split(line.removeprefix("$ ups "), comments=True)
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, (line, result.output, result.exception)
            ran += 1
    assert ran >= 8
    for block in blocks("python"):
        subprocess.run([sys.executable, "-c", block], check=True, cwd=tmp_path)


def test_the_readme_lists_the_datasets_as_the_command_does() -> None:
    result = CliRunner().invoke(app, ["data", "list", "--markdown"])
    assert result.exit_code == 0
    assert result.stdout.strip() in README
