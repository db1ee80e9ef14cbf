"""`ups --help` against importing typer, rich, pydantic and yaml in a bare interpreter.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys

from _common import paired

BARE = [sys.executable, "-c", "import typer, rich, pydantic, yaml"]
OURS = [sys.executable, "-m", "ups", "--help"]


def main() -> None:
    def run(command: list[str]) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    print("--help / bare imports:", paired(lambda: run(OURS), lambda: run(BARE), repeats=15))


if __name__ == "__main__":
    main()
