"""The house has one way down: docs/conventions.md names the rooms, low to high."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ups

ROOT = Path(ups.__file__).parent
ROOMS = ("errors", "paths", "files", "crew", "config", "registry", "runs", "data", "transfer",
         "codec", "models", "cache", "physics", "checkpoint", "evaluation", "training",
         "leaderboard", "pipeline", "remote", "cli", "__main__")  # fmt: skip
# Not even downwards: each of these rooms is read without the other.
FORBIDDEN = {"cache": {"codec", "models"}, "leaderboard": {"training", "checkpoint", "models"}}
TORCH_ROOMS = {"data", "codec", "models", "cache", "physics", "checkpoint", "evaluation",
               "training", "pipeline"}  # fmt: skip
HEAVY = {"torch", "h5py", "zarr", "wandb", "matplotlib", "scipy"}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(nodes) -> set[str]:
    """Dotted names that the given statements import; `from ups import x` counts as `ups.x`."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    room = room_of(path)
    assert room in ROOMS, f"{room} is a new room: give it its place in ROOMS and in the docs"
    names = imported(ast.walk(ast.parse(path.read_text())))
    rooms = {name.split(".")[1] for name in names if name.startswith("ups.")} - {"__version__"}
    assert rooms <= set(ROOMS[: ROOMS.index(room) + 1]) - FORBIDDEN.get(room, set())


def test_slow_packages_are_imported_at_module_level_by_the_torch_rooms_only():
    slow = {}
    for path in FILES:
        names = imported(ast.parse(path.read_text()).body)
        if room_of(path) not in TORCH_ROOMS and HEAVY & {name.split(".")[0] for name in names}:
            slow[str(path.relative_to(ROOT))] = sorted(names)
    assert not slow


def test_command_line_and_leaderboard_start_without_any_slow_package():
    code = (
        "import sys, ups.cli.main, ups.leaderboard.entries, ups.leaderboard.table; "
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
