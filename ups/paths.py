"""Where things are: data, caches, runs, leaderboard entries, registry cards and configs.

`UPS_HOME` holds what `ups` writes. Without it, a checkout keeps everything inside itself and an
installed package uses `~/.ups`. Cards and configs come from the checkout, or from the copy inside
the wheel; `UPS_HOME/registry` and `UPS_HOME/configs` may add the user's own.
"""

from __future__ import annotations

import os
from pathlib import Path

from ups.errors import UsageError

_PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The repository this package runs from, or None for an installed wheel."""
    root = _PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "registry").is_dir() else None


def home() -> Path:
    """The folder that holds everything `ups` writes.

    Raises:
        UsageError: UPS_HOME may not be read.
    """
    if configured := os.environ.get("UPS_HOME"):
        folder = Path(configured).expanduser().resolve()
        if not _may_be_read(folder):
            raise UsageError(
                f"UPS_HOME: no permission for reading {folder}",
                hint="set UPS_HOME to a folder of yours",
            )
        return folder
    return checkout() or Path.home() / ".ups"


def _may_be_read(folder: Path) -> bool:
    """Whether `folder` is readable, or could be made."""
    try:
        return not folder.is_dir() or os.access(folder, os.R_OK | os.X_OK)
    except PermissionError:
        return False


def data_dir(dataset: str) -> Path:
    return home() / "data" / dataset


def raw_dir(dataset: str) -> Path:
    return data_dir(dataset) / "raw"


def caches_dir() -> Path:
    return home() / "caches"


def blocks_dir() -> Path:
    """What was read on remotes in place: `ups.transfer.blocks`."""
    return home() / "blocks"


def runs_dir() -> Path:
    return home() / "runs"


def leaderboard_dir() -> Path:
    return home() / "leaderboard"


def registry_dirs() -> list[Path]:
    return _with_users_own("registry")


def config_dirs() -> list[Path]:
    return _with_users_own("configs")


def packaged_commit() -> str:
    """The commit that this package was built from, where that was recorded; else empty."""
    record = _PACKAGE / "_packaged" / "commit.txt"
    return record.read_text(encoding="utf-8").strip() if record.is_file() else ""


def _with_users_own(name: str) -> list[Path]:
    root = checkout()
    shipped = root / name if root else _PACKAGE / "_packaged" / name
    own = home() / name
    return [shipped] if own == shipped or not own.is_dir() else [shipped, own]


def display(path: Path) -> str:
    """`path` relative to the working directory where that is shorter."""
    try:
        relative = str(path.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)
    return relative or "."
