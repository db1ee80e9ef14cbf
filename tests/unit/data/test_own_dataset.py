"""docs/add-your-own-dataset.md: every card is valid, reads and converts its example's file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from ups.cli.main import app
from ups.data.layouts import open_raw, open_raw_points
from ups.data.versions import open_store
from ups.registry import load_card

DOC = Path(__file__).resolve().parents[3] / "docs" / "add-your-own-dataset.md"
BLOCK = re.compile(r"```(python|yaml)\n(.*?)```", re.DOTALL)
BLOCKS = BLOCK.findall(DOC.read_text(encoding="utf-8"))
EXAMPLES = {
    yaml.safe_load(card)["key"]: (code, card)
    for (_, code), (_, card) in zip(BLOCKS[::2], BLOCKS[1::2], strict=True)
}


@pytest.fixture(params=EXAMPLES)
def example(request, home, tmp_path, monkeypatch):
    """(card, raw file) of one example, written by its own code."""
    code, text = EXAMPLES[request.param]
    if "import numpy as np, xarray" in code:
        pytest.importorskip("xarray")
        pytest.importorskip("h5netcdf")
    monkeypatch.chdir(tmp_path)
    (home / "registry").mkdir(parents=True)
    (home / "registry" / f"{request.param}.yaml").write_text(text, encoding="utf-8")
    exec(compile(code, DOC.name, "exec"), {})
    card = load_card(request.param)
    (raw,) = tmp_path.glob(card.source.pattern)
    return card, raw


def test_the_page_has_the_three_examples_and_their_cards_are_short():
    assert set(EXAMPLES) == {"my_heat", "my_weather", "my_plates"}
    for _, text in EXAMPLES.values():
        assert len(text.splitlines()) <= 11


def test_the_card_reads_the_file_of_its_example(example):
    card, raw = example
    if card.source.layout == "points":
        reader = open_raw_points(raw, card)
        trajectory = reader.read(0)
        assert trajectory.fields.shape == (card.time.frames, 40, len(card.fields))
        assert trajectory.cells is not None
        values = trajectory.fields
    else:
        reader = open_raw(raw, card)
        values = reader.read(slice(0, reader.num_trajectories), slice(0, card.time.frames))
        space = tuple(axis.points for axis in card.discretisation.axes)
        assert values.shape == (12, card.time.frames, *space, len(card.fields))
        inputs = reader.read_inputs(slice(0, 2))
        assert (inputs is None) == (not card.inputs)
    assert np.isfinite(values).all()
    assert values.std() > 0
    assert reader.num_trajectories == 12
    np.testing.assert_allclose(np.diff(reader.times), card.time.step, rtol=1e-5)
    for column, parameter in zip(reader.parameters.T, card.parameters, strict=True):
        assert all(abs(parameter.unit_interval(float(value))) <= 1 for value in column)
    reader.close()


def test_the_commands_of_the_page_work_on_the_example(example):
    card, raw = example
    for command in (
        ["data", "convert", card.key, "--raw", str(raw)],
        ["data", "audit", card.key],
        ["data", "info", card.key],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    store = open_store(card.key)
    assert store.num_trajectories == 12
    assert store.metadata.fields == card.field_names
    assert store.metadata.inputs == card.input_names
