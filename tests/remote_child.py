"""A client of remote jobs that a test kills: `python remote_child.py ENGINE PAUSE ARGUMENT...`."""

from __future__ import annotations

import sys
from pathlib import Path

from local_engine import LocalEngine

from ups.cli.main import app
from ups.remote import drivers, launch
from ups.remote.spec import JobSpec


def build(spec: JobSpec, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.sh").write_text("sleep 300\n")


engine = LocalEngine(Path(sys.argv[1]), pause_s=float(sys.argv[2]))
drivers.driver_of = lambda name, options: engine  # type: ignore[assignment]
launch.build_bundle = build  # type: ignore[assignment]
sys.stdout.write("ready\n")
sys.stdout.flush()
app(sys.argv[3:])
