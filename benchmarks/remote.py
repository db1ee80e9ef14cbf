"""How long a user waits for offers and for a plan: whole commands, with a dstack server that runs.

    python benchmarks/remote.py [REPEATS]

The server is a real one; the clouds and the bucket are the stand-ins of the tests on loopback, so
what the internet takes comes on top. The bar is 5 s for each.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import pytest
from _common import seconds
from dstack_server import clouds
from servers import rclone_s3

from ups.remote import dstack_setup

BAR_S = 5.0


def main(repeats: int) -> int:
    """Time the commands; 1 if one of them is too slow."""
    with (
        tempfile.TemporaryDirectory(prefix="ups-benchmark-") as folder,
        pytest.MonkeyPatch.context() as patch,
        clouds(Path(folder) / "clouds", patch),
        rclone_s3(Path(folder) / "s3") as s3,
    ):
        dstack_setup.setup()
        s3.environment(patch)
        start = [sys.executable, "-m", "ups", "remote"]
        limits = ["--max-price", "2", "--max-hours", "3"]
        commands = {
            "offers --gpu A100": [*start, "offers", "--gpu", "A100"],
            "launch --dry-run": [
                *start, "launch", "--engine", "dstack", "--gpu", "A100", *limits,
                "--dry-run",
            ],
        }  # fmt: skip
        slowest = 0.0
        for name, command in commands.items():
            times = sorted(seconds(lambda run=command: _quiet(run)) for _ in range(repeats))
            slowest = max(slowest, times[-1])
            print(f"{name:<20} {times[0]:.1f} to {times[-1]:.1f} s")
    return int(slowest > BAR_S)


def _quiet(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
