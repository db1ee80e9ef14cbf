"""A page as a PDF, printed by a Chromium that is on this machine."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from ups import files
from ups.errors import CheckpointError, MissingExtraError

NAMES = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "microsoft-edge",
)  # fmt: skip
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--no-pdf-header-footer",
)  # fmt: skip
_PATIENCE_S = 180


def find_browser() -> str:
    """The path of a Chromium or a relative of it.

    Raises:
        MissingExtraError: There is none.
    """
    for name in NAMES:
        if found := shutil.which(name):
            return found
    raise MissingExtraError(
        "no Chromium or Chrome on the path, and PDF needs one; HTML does not",
        hint="apt-get install chromium, or print the page from any browser",
    )


def write_pdf(page: Path, out: Path) -> Path:
    """Print a page, whole or not at all.

    Raises:
        MissingExtraError: There is no Chromium.
        CheckpointError: It fails, or the file cannot be written.
    """
    browser = find_browser()
    with (
        tempfile.TemporaryDirectory(prefix="ups-pdf-", ignore_cleanup_errors=True) as profile,
        files.atomic_path(out, CheckpointError) as temporary,
    ):
        command = [
            browser, *_FLAGS, f"--user-data-dir={profile}",
            f"--print-to-pdf={temporary.resolve()}", page.resolve().as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, timeout=_PATIENCE_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise _failed(page, f"does not finish within {_PATIENCE_S} s") from error
        if done.returncode or not temporary.is_file() or not temporary.stat().st_size:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise _failed(page, said[-1] if said else f"exit code {done.returncode}")
    return out


def _failed(page: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{page}: printing failed: {why}", hint="open the page in a browser, and print it there"
    )
