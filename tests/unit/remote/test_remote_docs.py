"""docs/remote.md names a test for each way in which a job ends, and speaks of every exit code."""

from __future__ import annotations

import re
from pathlib import Path

from ups.remote.launch import MEANINGS

ROOT = Path(__file__).parents[3]


def test_every_row_of_the_table_names_tests_that_exist() -> None:
    rows = [line for line in (ROOT / "docs/remote.md").read_text().splitlines()
            if line.startswith("| ") and "what happened" not in line]  # fmt: skip
    assert len(rows) > 10
    known = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        for name in named:
            assert f"def {name}(" in known, name
    codes = {int(code) for row in rows for code in re.findall(r"\d+", row.split("|")[1])}
    assert set(MEANINGS) <= codes
