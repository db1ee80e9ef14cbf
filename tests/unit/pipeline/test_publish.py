"""An artefact is entered into a card's text, and nothing else of the text changes."""

from __future__ import annotations

import pytest
import yaml

from ups import paths
from ups.errors import ConfigError
from ups.pipeline.publish import snippet, with_artefact
from ups.registry import Artefact, DatasetCard

ENTRY = Artefact(version="1.0", location="data/burgers1d/1.0/" + "a" * 16, manifest_sha256="1" * 64)
OTHER = Artefact(version="b", location="data/burgers1d/b/" + "b" * 16, manifest_sha256="2" * 64)


@pytest.fixture(scope="module")
def text():
    folder = paths.registry_dirs()[0]
    return (folder / "burgers1d.yaml").read_text(encoding="utf-8")


def artefacts(text):
    return DatasetCard.model_validate(yaml.safe_load(text)).artefacts


def test_a_card_without_artefacts_gets_its_first_at_the_end(text):
    edited = with_artefact(text, ENTRY, "card")
    assert edited.startswith(text)
    assert artefacts(edited) == (ENTRY,)


def test_the_same_entry_is_written_once(text):
    edited = with_artefact(text, ENTRY, "card")
    assert with_artefact(edited, ENTRY, "card") == edited


@pytest.mark.parametrize(
    "block",
    ["artefacts: []\n", "artefacts: []  # none yet\n", "artefacts:\n", "artefacts: [ ]\n",
     "artefacts:\n  # the first\n  - {entry}\n", "artefacts:\n- {entry}\n",
     "artefacts:\n    - {entry}\n    # last\n",
     "artefacts:\n  - version: b\n    location: {location}\n    manifest_sha256: '{sha}'\n\n"],
    ids=range(8),
)  # fmt: skip
@pytest.mark.parametrize("after", ["", "\n# the end\nconfig: burgers1d.yaml\n"])
def test_other_forms_of_the_list_keep_their_text(text, block, after):
    block = block.format_map({"entry": snippet(OTHER), "location": OTHER.location,
                              "sha": OTHER.manifest_sha256}) if "{" in block else block  # fmt: skip
    before = text.replace("config: burgers1d.yaml\n", "") + block + after
    if block != "artefacts:\n":
        had = artefacts(before)
    else:
        had = ()
        with pytest.raises(ConfigError):
            with_artefact(before, ENTRY, "card")
        return
    edited = with_artefact(before, ENTRY, "card")
    assert artefacts(edited) == (*had, ENTRY)
    kept = [line for line in before.splitlines() if not line.startswith("artefacts:")]
    assert [line for line in edited.splitlines() if line in kept] == kept


def test_a_list_that_cannot_be_added_to_is_refused_with_the_line_to_write(text):
    written = text + f"\nartefacts: [{snippet(OTHER)}]\n"
    with pytest.raises(ConfigError, match="cannot be added to") as caught:
        with_artefact(written, ENTRY, "card")
    assert snippet(ENTRY) in (caught.value.hint or "")


def test_a_snippet_keeps_versions_that_look_like_numbers(text):
    assert yaml.safe_load(snippet(ENTRY))["version"] == "1.0"
