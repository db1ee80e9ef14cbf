"""The path on a GPU; `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ups import convert, generate, judge, load_card, load_experiment, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("amp", ["none", "bfloat16", "float16"])
def test_training_on_a_gpu_beats_persistence(home: Path, tmp_path: Path, amp: str) -> None:
    card = load_card("burgers1d")
    raw = generate(
        card, parameters={"nu": 0.1}, num_trajectories=160, seed=0, out_dir=tmp_path,
        points=64, frames=21, device="cuda",
    )  # fmt: skip
    convert(card, [raw])
    small = ["stages.codec.steps=40", "stages.operator.steps=200", f"stages.operator.amp={amp}"]
    run = train(load_experiment(None, [*small, "device=cuda"]))
    report = judge(run, device="cuda")[0].report
    model, persistence = report.row("model"), report.row("persistence")
    assert model is not None
    assert persistence is not None
    assert (model.value("nrmse") or 1e9) < (persistence.value("nrmse") or 0) / 3
