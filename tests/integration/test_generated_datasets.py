"""Every dataset with a generator: made, converted, audited, drawn and read by its commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ups.cli.main import app
from ups.data.reading.windows import Windows
from ups.data.versions import open_store
from ups.registry import dataset_keys, load_card

KEYS = [key for key in dataset_keys() if load_card(key).generator]


def ups(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, (arguments, result.output, result.exception)
    return result.stdout


@pytest.mark.parametrize("key", KEYS)
def test_the_dataset_goes_the_whole_way_with_the_cards_defaults(key: str, tmp_path: Path) -> None:
    card = load_card(key)
    points = {"mesh": "200", "particles": "40"}.get(card.discretisation.kind, "32")
    count = 10 if card.discretisation.kind == "grid" else 4  # those cost seconds each
    frames = [] if card.time.step is None else ["--frames", "4"]
    ups("data", "generate", key, "--num-trajectories", str(count), "--points", points, *frames)
    ups("data", "convert", key)
    found = json.loads(ups("data", "audit", key, "--json"))
    assert "fail" not in {finding["verdict"] for finding in found}
    picture = tmp_path / "picture.png"
    ups("data", "show", key, "--out", str(picture), "--dpi", "30")
    assert picture.stat().st_size > 1000
    store = open_store(key)
    assert store.num_trajectories == count
    assert store.num_frames == (1 if card.time.step is None else 4)
    batch = Windows(store, card, split="train", history=1, horizon=1).batch(0, 2)
    assert batch.fields.shape[-1] == len(card.fields)
