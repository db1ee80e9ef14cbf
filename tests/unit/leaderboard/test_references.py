"""Published figures stand beside tables with their source, and never have a rank."""

from __future__ import annotations

from dataclasses import replace

import pytest
from boards import PROTOCOL, enter, judged

from ups.errors import CheckpointError, ConfigError
from ups.leaderboard import entries, references, table, text
from ups.registry import dataset_keys, load_card


def test_every_shipped_figure_has_a_source_a_protocol_and_a_dataset_of_ours():
    found = references.read_file()
    assert len(found) > 40
    assert len({one.id for one in found}) == len(found)
    for one in found:
        assert one.kind == "reference"
        assert one.source
        assert one.value > 0
        assert one.protocol.dataset in dataset_keys()
        card = load_card(one.protocol.dataset)
        named = {f"{name}" for name in card.parameter_names} | {"rand", "periodic"}
        assert all(any(part.startswith(name) for name in named) for part in one.protocol.variant)


def test_known_figures_are_as_published():
    found = {
        (one.model, one.protocol.dataset, one.protocol.variant, one.source.split()[0]): one.value
        for one in references.read_file() if one.metric == "nrmse"
    }  # fmt: skip
    assert found["FNO", "burgers1d", ("nu0.01",), "Takamoto"] == 7.8e-3
    assert found["FNO", "burgers1d", ("nu0.01",), "FNO"] == 4.2e-3
    assert found["HAMLET", "darcy2d", ("beta1",), "Bryutkin"] == 1.40e-2
    assert found["U-Net", "reaction_diffusion2d", (), "Takamoto"] == 0.84


def test_import_is_repeatable_and_disturbs_no_entry(tmp_path):
    (entry,) = enter(tmp_path, judged())
    board = tmp_path / "board"
    new, known = references.import_references(board)
    assert (new, known) == (len(references.read_file()), 0)
    assert references.import_references(board) == (0, new)
    assert entries.load_all(board) == [entry]
    assert len(references.load_all(board)) == new


def test_a_figure_of_the_same_protocol_stands_below_without_a_rank(tmp_path):
    (ranking,) = table.rank(enter(tmp_path, judged()))
    found = references.beside(PROTOCOL, references.read_file())
    same = [one.reference for one in found if not one.differences]
    assert [(one.model, one.value) for one in same] == [("FNO", 7.8e-3)]
    assert all("published" not in line.label for line in ranking.lines)
    shown = text.to_markdown([ranking], references.read_file())
    assert "published: nRMSE 0.00780  FNO, Takamoto et al. 2022" in shown
    assert "selected on test" in shown
    assert "published by other protocols: 1" in shown


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_trajectories": 16}, "test trajectories 1000, here 16"),
        ({"history": 1, "horizon": 40}, "frames given 10, here 1"),
        ({"resolution": (1024,)}, "grid 256, here 1024"),
        ({"dt": 0.01}, "time step 0.05, here 0.01"),
        ({"split": "valid"}, "split test, here valid"),
    ],
)
def test_another_protocol_is_told_in_what_it_differs(change, said):
    (first, *_) = [
        one for one in references.beside(replace(PROTOCOL, **change), references.read_file())
        if one.reference.source.startswith("Takamoto")
    ]  # fmt: skip
    assert said in first.differences


def test_another_dataset_or_parameter_is_no_neighbour():
    other = replace(PROTOCOL, version="nu0.1-x4-t5")
    values = {one.reference.value for one in references.beside(other, references.read_file())}
    assert values == {2.9e-3, 1.4e-3}
    assert references.beside(replace(PROTOCOL, dataset="era5_64x32"), references.read_file()) == []


BASE = """
revision: {revision}
sources: {{here: {{cite: Somebody 2020}}}}
published:
  - protocol: {{dataset: burgers1d}}
    figures: [{{model: FNO, value: {value}, source: {source}}}]
"""


def test_a_correction_by_revision_replaces_what_is_shown(tmp_path):
    path = tmp_path / "own.yaml"
    for revision, value in ((1, 0.5), (2, 0.4)):
        path.write_text(BASE.format(revision=revision, value=value, source="here"))
        assert references.import_references(tmp_path / "board", path) == (1, 0)
    (shown,) = references.load_all(tmp_path / "board")
    assert shown.value == 0.4
    assert len(list((tmp_path / "board" / "references").iterdir())) == 2


def test_a_figure_without_a_source_and_a_damaged_file_are_refused(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(BASE.format(revision=1, value=1, source="nowhere"))
    with pytest.raises(ConfigError, match="source 'nowhere' is not one of here"):
        references.read_file(path)
    path.write_text(BASE.format(revision=1, value=1, source="here"))
    references.import_references(tmp_path, path)
    (file,) = (tmp_path / "references").iterdir()
    file.write_text(file.read_text().replace("1.0", "0.1"))
    with pytest.raises(CheckpointError, match="does not match the name"):
        references.load_all(tmp_path)
