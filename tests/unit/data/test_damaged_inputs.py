"""Damaged inputs end in one line; benchmarks/fuzz_inputs.py makes hundreds of them."""

from __future__ import annotations

import sys
import types
from pathlib import Path


def test_damaged_raw_files_stores_cards_and_configs_end_in_one_clear_line(home):
    path = Path(__file__).resolve().parents[3] / "benchmarks/fuzz_inputs.py"
    module = types.ModuleType("fuzz_inputs")
    sys.modules["fuzz_inputs"] = module  # dataclasses look their module up
    exec(compile(path.read_text(), str(path), "exec"), vars(module))
    home.mkdir()
    tally = module.fuzz(home, cases=48, seed=7)
    assert tally.failures == []
    assert sum(tally.outcomes.values()) == 48
    assert tally.outcomes["exit 3"] > 12
