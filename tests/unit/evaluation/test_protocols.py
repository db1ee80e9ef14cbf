"""Protocols by name and from files."""

from __future__ import annotations

import pytest

from ups.config.schema import EvaluationConfig
from ups.errors import ConfigError, UsageError
from ups.evaluation.protocols import find_protocol
from ups.registry import load_card


@pytest.mark.parametrize(
    ("key", "name", "history"),
    [
        ("burgers1d", "ic", 1), ("burgers1d", "pdebench", 10), ("burgers1d", "well", 4),
        ("reaction_diffusion1d", "pdebench", 5), ("reaction_diffusion1d", "ic", 1),
    ],
)  # fmt: skip
def test_named_protocols_give_as_many_frames_as_their_benchmarks(key, name, history):
    found = find_protocol(name, load_card(key))
    assert (found.name, found.history, found.horizon) == (name, history, None)


def test_a_file_is_a_protocol_with_its_own_name(tmp_path):
    path = tmp_path / "five_in.yaml"
    path.write_text("{history: 5, horizon: 8, split: valid}")
    found = find_protocol(str(path), load_card("burgers1d"))
    settings = found.applied(EvaluationConfig(batch_size=7))
    assert found.name == "five_in"
    assert (settings.history, settings.horizon, settings.split) == (5, 8, "valid")
    assert settings.batch_size == 7


def test_a_word_that_is_no_protocol_names_those_that_are():
    with pytest.raises(UsageError, match="did you mean 'pdebench'"):
        find_protocol("pdbench", load_card("burgers1d"))


def test_a_file_with_an_unknown_key_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("{history: 5, horzon: 8}")
    with pytest.raises(ConfigError, match="horzon"):
        find_protocol(str(path), load_card("burgers1d"))
