"""What tests of whole commands share."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny_commands import ups
from tiny_runs import SMALL


@pytest.fixture
def config(home: Path, tmp_path: Path) -> str:
    """A config of a few steps, with its data: twenty short trajectories of advection."""
    ups("data", "generate", "advection1d", "--num-trajectories", "20", "--points", "32",
        "--frames", "9", "--param", "beta=0.4")  # fmt: skip
    ups("data", "convert", "advection1d")
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"name": "tiny", "data": {"dataset": "advection1d"}}))
    return str(path)
