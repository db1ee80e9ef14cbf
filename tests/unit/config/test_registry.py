"""Dataset cards: what the shipped ones say, and what no card may say."""

from __future__ import annotations

import copy
import csv
import math
import re
from collections import Counter
from fnmatch import fnmatch

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


PDEBENCH = {
    "advection1d": ("Advection", 8),
    "burgers1d": ("Burgers", 12),
    "reaction_diffusion1d": ("1D_ReacDiff", 36),
    "diffusion_sorption1d": ("Diff_Sorp", 1),
    "compressible_ns1d": ("1D_CFD", 12),
    "compressible_ns2d": ("2D_CFD", 17),
    "compressible_ns3d": ("3D_CFD", 8),
    "navier_stokes2d": ("NS_Incom", 274),
    "darcy2d": ("Darcy", 5),
    "reaction_diffusion2d": ("2D_ReacDiff", 1),
    "shallow_water2d": ("SWE", 1),
}
"""Our key -> the name in PDEBench's list of files, and how many files it has there."""


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
    dataset = load_experiment(card.config).data.dataset
    assert dataset == card.key or card.discretisation.kind != "grid"


@pytest.mark.parametrize("key", PDEBENCH)
def test_every_published_file_has_a_url_an_md5_and_its_parameters(key):
    card = load_card(key)
    for file in card.source.files:
        assert file.url.startswith("https://darus.uni-stuttgart.de/api/access/datafile/")
        assert file.folder.endswith("/")
        for parameter in card.parameters:
            if parameter.name in file.parameters:
                value = file.parameters[parameter.name]
                assert abs(parameter.unit_interval(value)) <= 1 + 1e-12
    for column in ("name", "url"):
        values = [getattr(file, column) for file in card.source.files]
        assert len(set(values)) == len(values) == PDEBENCH[key][1]


@pytest.mark.parametrize("key", PDEBENCH)
def test_md5_are_unique_but_for_the_known_pairs_of_navier_stokes(key):
    counts = Counter(file.md5 for file in load_card(key).source.files)
    assert sorted(set(counts.values())) == ([1, 2] if key == "navier_stokes2d" else [1])
    assert list(counts.values()).count(2) == (24 if key == "navier_stokes2d" else 0)


def test_the_known_issue_names_every_pair_of_equal_files():
    card = load_card("navier_stokes2d")
    numbers: dict[str, list[str]] = {}
    for file in card.source.files:
        number = re.fullmatch(r"ns_incom_inhom_2d_512-(\d+)\.h5", file.name)
        assert number
        numbers.setdefault(file.md5, []).append(number[1])
    pairs = {"/".join(sorted(n, key=int)) for n in numbers.values() if len(n) > 1}
    issue = next(issue for issue in card.known_issues if issue.id == "duplicate-files")
    assert set(re.findall(r"\d+/\d+", issue.summary)) == pairs


@pytest.mark.parametrize("name", ["eta0.1", "Eta1.e-8", "Eta1e-08", "Eta2.50"])
def test_both_spellings_of_an_exponent_are_understood(name):
    assert stated_in(name, "eta") == {"eta0.1": 0.1, "Eta2.50": 2.5}.get(name, 1e-8)


@pytest.mark.parametrize("key", [key for key in PDEBENCH if load_card(key).parameters])
def test_parameters_are_those_in_the_files_names(key):
    card = load_card(key)
    drawn = card.generator.drawn if card.generator else ()
    checked = 0
    for file in card.source.files:
        train = file.variant.get("set", "train") == "train"
        for parameter in card.parameters:
            stated = stated_in(file.name, str(parameter.attribute)) if train else None
            if stated is not None:
                assert file.parameters[parameter.name] == stated, file.name
                checked += 1
            elif train:
                assert parameter.name in drawn, file.name
    names = len([p for p in card.parameters if p.name not in drawn])
    files = [f for f in card.source.files if f.variant.get("set", "train") == "train"]
    assert checked == names * len(files)


def stated_in(name: str, attribute: str) -> float | None:
    """The number that follows a parameter's name in a file's name: 1e-08, 1.e-8, 0.1."""
    number = r"(\d+(?:\.\d*)?(?:e-?\d+)?)(?=_|\.hdf5|$)"
    found = re.search(rf"(?:^|_|s_|w_){re.escape(attribute)}{number}", name, re.IGNORECASE)
    return float(found[1]) if found else None


@pytest.mark.parametrize("key", ["compressible_ns1d", "compressible_ns2d", "compressible_ns3d"])
def test_variants_boundaries_and_points_are_those_in_the_files_names(key):
    card = load_card(key)
    for file in card.source.files:
        if file.variant["set"] == "train":
            assert f"_{file.variant['initial'].capitalize()}_" in file.name
            assert f"_{file.variant['boundary']}_" in file.name
            assert (file.boundary == "outflow") == ("_trans_" in file.name)
            assert (file.points == (512, 512)) == ("_512_" in file.name)
            assert file.variant.get("resolution", "") in file.name
        else:
            assert not file.parameters
            assert "test-files-not-described" in {issue.id for issue in card.known_issues}


@pytest.mark.parametrize("key", PDEBENCH)
def test_the_default_conversion_takes_all_train_files_and_no_test_file(key):
    source = load_card(key).source
    if source.pattern is not None:
        for file in source.files:
            train = file.variant.get("set", "train") == "train"
            assert fnmatch(file.name, source.pattern) == train, file.name
            partial = file.name.replace(".h", ".first200.h")
            assert fnmatch(partial, source.pattern) == train, partial


@pytest.mark.parametrize("key", [key for key in PDEBENCH if load_card(key).generator])
def test_a_generated_file_has_a_published_name(key):
    card = load_card(key)
    assert card.generator is not None
    name = card.generator.file.format(**card.generator.parameters)
    published = card.source.file(name)
    assert published is not None
    assert published.parameters == card.generator.parameters
    undrawn = set(card.parameter_names) - set(card.generator.drawn)
    assert undrawn == set(card.generator.parameters)


@pytest.mark.parametrize(("key", "pde"), [(key, pde) for key, (pde, _) in PDEBENCH.items()])
def test_cards_agree_with_pdebenchs_own_list_of_files(key, pde, shared_pdebench):
    with (shared_pdebench.parent / "reference" / "pdebench_files.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["PDE"] == pde]
    published = {(row["Filename"], row["URL"], row["Path"], row["MD5"]) for row in rows}
    files = load_card(key).source.files
    assert {(file.name, file.url, file.folder, file.md5) for file in files} == published
    assert len(files) == len(rows) > 0


def test_every_row_of_pdebenchs_list_of_files_belongs_to_a_card(shared_pdebench):
    with (shared_pdebench.parent / "reference" / "pdebench_files.csv").open() as file:
        kinds = Counter(row["PDE"] for row in csv.DictReader(file))
    assert kinds == {pde: count for pde, count in PDEBENCH.values()}


@pytest.mark.parametrize(
    ("key", "issues"),
    [
        ("advection1d", {"issue 46": "beta", "": "same initial conditions"}),
        ("burgers1d", {"issue 51": "x in (-1, 1)"}),
        ("reaction_diffusion1d", {"issue 94": "float32"}),
        ("diffusion_sorption1d", {"issue 61": "constant"}),
        ("darcy2d", {"issue 39": "U-Net", "": "same coefficient fields"}),
        ("navier_stokes2d", {"issue 31": "MD5"}),
        ("compressible_ns1d", {"": "one entry more"}),
        ("compressible_ns2d", {"": "one entry more"}),
        ("compressible_ns3d", {"": "one entry more"}),
    ],
)
def test_each_known_defect_is_on_its_card(key, issues):
    found = load_card(key).known_issues
    for reference, words in issues.items():
        assert any(reference in i.reference and words in i.summary for i in found), words


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
        (lambda c: c.pop("fields"), "fields: required key is missing"),
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
