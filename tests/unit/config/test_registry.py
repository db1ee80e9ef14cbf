"""Dataset cards: what the shipped ones say, and what no card may say."""

from __future__ import annotations

import copy
import csv
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ups import paths
from ups.config.base import read_yaml
from ups.config.loading import load_experiment
from ups.errors import ConfigError
from ups.registry import Parameter, dataset_keys, load_card

SHIPPED = sorted(paths.registry_dirs()[0].glob("*.yaml"))


@pytest.fixture
def card_file(home):
    """card_file(change) writes the Burgers card, changed, as `mine`; returns its path."""
    folder = home / "registry"
    folder.mkdir(parents=True)

    def write(change):
        content = copy.deepcopy(read_yaml(paths.registry_dirs()[0] / "burgers1d.yaml"))
        content["key"] = "mine"
        change(content)
        path = folder / "mine.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_card_is_valid_and_names_a_valid_config(path):
    card = load_card(path.stem)
    assert load_experiment(card.config).data.dataset == card.key


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_published_file_has_a_url_an_md5_and_a_value_of_each_parameter(path):
    card = load_card(path.stem)
    assert card.source.files
    for file in card.source.files:
        assert file.url.startswith("https://darus.uni-stuttgart.de/api/access/datafile/")
        assert len(file.md5) == 32
        assert set(file.parameters) == set(card.parameter_names)
        for parameter in card.parameters:
            assert abs(parameter.unit_interval(file.parameters[parameter.name])) <= 1 + 1e-12
    for column in ("name", "url", "md5"):
        values = [getattr(file, column) for file in card.source.files]
        assert len(set(values)) == len(values)


@pytest.mark.parametrize(("key", "pde"), [("burgers1d", "Burgers"), ("advection1d", "Advection")])
def test_cards_agree_with_pdebenchs_own_list_of_files(key, pde, shared_pdebench):
    with (shared_pdebench.parent / "reference" / "pdebench_files.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["PDE"] == pde]
    published = {(row["Filename"], row["URL"], row["Path"], row["MD5"]) for row in rows}
    files = load_card(key).source.files
    assert {(file.name, file.url, file.folder, file.md5) for file in files} == published
    assert len(files) == len(rows) > 0


def test_the_size_of_a_published_file_follows_from_the_card():
    card = load_card("burgers1d")
    assert card.payload_bytes(card.source.files[0]) == 4 * 10000 * 201 * 1024


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.update(titel="x"), r"titel: unknown key \(did you mean 'title'\?\)"),
        (lambda c: c["time"].update(frame=3), r"time.frame: unknown key \(did you mean 'frames'"),
        (lambda c: c["source"]["files"][1].update(md_5="x"),
         r"source.files.1.md_5: unknown key \(did you mean 'md5'"),
        (lambda c: c["parameters"][0].update(ranges=[0, 1]),
         r"parameters.0.ranges: unknown key \(did you mean 'range'"),
        (lambda c: c["generator"].update(parameter={}),
         r"generator.parameter: unknown key \(did you mean 'parameters'"),
        (lambda c: c.pop("title"), "title: required key is missing"),
        (lambda c: c["source"]["files"][0].pop("md5"), "source.files.0.md5: required"),
        (lambda c: c["time"].update(frames="many"), "time.frames: .*found 'many'"),
        (lambda c: c["source"]["files"][0].update(md5="abc"), "source.files.0.md5: .*'abc'"),
        (lambda c: c["pde"].update(conserved=["v"]), "'v' is not one of the fields"),
        (lambda c: c["generator"].update(parameters={"mu": 1}), "'mu' is not one of the param"),
        (lambda c: c["parameters"][0].update(range=[0.0, 1.0]), "positive for a log scale"),
        (lambda c: c.update(key="other"), "must be the file's name"),
        (lambda c: c.update(fields=[]), "fields: "),
    ],
)  # fmt: skip
def test_a_wrong_card_is_refused_with_file_key_and_remedy(card_file, change, expected):
    path = card_file(change)
    with pytest.raises(ConfigError, match=rf"^{path}: .*{expected}"):
        load_card("mine")


def test_the_users_own_card_is_listed_and_loaded(card_file):
    card_file(lambda content: None)
    assert "mine" in dataset_keys()
    assert load_card("mine").title == load_card("burgers1d").title


def test_two_cards_of_one_name_are_refused(card_file):
    path = card_file(lambda content: content.update(key="burgers1d"))
    path.rename(path.with_name("burgers1d.yaml"))
    with pytest.raises(ConfigError, match="two cards of this name"):
        load_card("burgers1d")


@pytest.mark.parametrize("key", ["burgers2d", "../registry/burgers1d", "", "nothing-like-it"])
def test_an_unknown_dataset_says_where_to_look(key):
    with pytest.raises(ConfigError, match="unknown dataset") as caught:
        load_card(key)
    assert caught.value.hint == "ups data list"


def parameter(scale):
    return Parameter(
        name="a", symbol="a", description="", range=(0.01, 4.0), scale=scale, attribute="a"
    )


@pytest.mark.parametrize(("scale", "middle"), [("linear", 2.005), ("log", math.sqrt(0.04))])
def test_a_parameter_is_mapped_to_the_unit_interval_along_its_scale(scale, middle):
    values = [parameter(scale).unit_interval(value) for value in (0.01, middle, 4.0)]
    assert values == pytest.approx([-1, 0, 1])


@given(st.sampled_from(["linear", "log"]), st.floats(0.01, 4.0), st.floats(0.01, 4.0))
def test_the_map_of_a_parameter_keeps_order_and_range(scale, a, b):
    low, high = sorted((a, b))
    mapped = [parameter(scale).unit_interval(value) for value in (low, high)]
    assert -1 - 1e-9 <= mapped[0] <= mapped[1] <= 1 + 1e-9
