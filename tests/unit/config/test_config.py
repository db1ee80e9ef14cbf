"""YAML -> typed config: merging, overrides, and errors that name file, key and remedy."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ups import paths
from ups.config.loading import load_experiment, merged, parse_override, to_yaml
from ups.config.schema import Experiment
from ups.errors import ConfigError

CONFIGS = sorted(path for folder in paths.config_dirs() for path in folder.glob("*.yaml"))
MINIMAL = {"name": "x", "data": {"dataset": "burgers1d"}}

keys = st.sampled_from("abcd")
leaves = st.one_of(st.integers(-5, 5), st.none(), st.lists(st.integers(0, 3), max_size=2))
trees = st.dictionaries(
    keys, st.recursive(leaves, lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=6)
)


def write(path: Path, content) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def leaves_of(tree, place=()):
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves_of(value, (*place, key))
        elif not isinstance(value, dict):
            yield (*place, key), value


@given(trees, trees)
def test_merging_takes_every_value_of_the_upper_tree_and_changes_neither(base, over):
    before = copy.deepcopy((base, over))
    result = merged(base, over)
    for place, value in leaves_of(over):
        found = result
        for key in place:
            found = found[key]
        assert found == value
    assert (base, over) == before


@given(trees)
def test_merging_nothing_or_itself_changes_nothing(tree):
    assert merged(tree, {}) == merged({}, tree) == merged(tree, tree) == tree


@given(trees, trees)
def test_merging_keeps_what_the_upper_tree_does_not_mention(base, over):
    result = merged(base, over)
    for key in base.keys() - over.keys():
        assert result[key] == base[key]
    assert result.keys() == base.keys() | over.keys()


@given(trees, trees)
def test_merging_twice_is_merging_once(base, over):
    assert merged(merged(base, over), over) == merged(base, over)


def test_another_kind_replaces_and_the_same_kind_merges():
    base = {"optimizer": {"kind": "muon_hybrid", "lr": 1, "momentum": 0.9}}
    assert merged(base, {"optimizer": {"kind": "adamw"}}) == {"optimizer": {"kind": "adamw"}}
    same = merged(base, {"optimizer": {"kind": "muon_hybrid", "lr": 2}})
    assert same == {"optimizer": {"kind": "muon_hybrid", "lr": 2, "momentum": 0.9}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_is_valid_and_survives_being_written_and_read(path, tmp_path):
    experiment = load_experiment(path)
    copied = tmp_path / "config.yaml"
    copied.write_text(to_yaml(experiment))
    assert load_experiment(copied) == experiment


def test_a_config_lies_on_its_ancestors(tmp_path):
    write(tmp_path / "base.yaml", MINIMAL | {"seed": 3, "operator": {"width": 8, "depth": 1}})
    write(tmp_path / "middle.yaml", {"extends": "base.yaml", "operator": {"width": 16}})
    child = write(tmp_path / "child.yaml", {"extends": "middle.yaml", "name": "child"})
    found = load_experiment(child)
    assert (found.name, found.seed) == ("child", 3)
    assert (found.operator.width, found.operator.depth) == (16, 1)


def test_configs_that_extend_each_other_are_refused(tmp_path):
    write(tmp_path / "a.yaml", {"extends": "b.yaml"})
    write(tmp_path / "b.yaml", {"extends": "a.yaml"})
    with pytest.raises(ConfigError, match="circle"):
        load_experiment(tmp_path / "a.yaml")


def test_a_missing_ancestor_is_named(tmp_path):
    path = write(tmp_path / "a.yaml", MINIMAL | {"extends": "nowhere.yaml"})
    with pytest.raises(ConfigError, match=r"a\.yaml: extends: no such file .*nowhere\.yaml"):
        load_experiment(path)


@pytest.mark.parametrize(
    ("wrong", "key", "near"),
    [
        ({"sed": 1}, "sed", "seed"),
        ({"operator": {"widht": 8}}, "operator.widht", "width"),
        ({"stages": {"operator": {"stpes": 9}}}, "stages.operator.stpes", "steps"),
        ({"stages": {"codec": {"schedule": {"warmup": 9}}}}, "stages.codec.schedule.warmup",
         "warmup_steps"),
        ({"stages": {"codec": {"optimizer": {"kind": "muon_hybrid", "momentun": 0.9}}}},
         "stages.codec.optimizer.momentun", "momentum"),
        ({"stages": {"operator": {"unroll": [{"start": 0, "step": 1}]}}},
         "stages.operator.unroll.0.step", "steps"),
        ({"evaluation": {"gates": {"nrmse_men": 1.0}}}, "evaluation.gates.nrmse_men",
         "nrmse_mean"),
    ],
)  # fmt: skip
def test_an_unknown_key_names_file_key_and_the_nearest_valid_key(tmp_path, wrong, key, near):
    path = write(tmp_path / "mine.yaml", MINIMAL | wrong)
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert str(caught.value).startswith(f"{path}: {key}: unknown key (did you mean '{near}'?)")


def test_a_misspelt_override_is_named_with_its_remedy(tmp_path):
    path = write(tmp_path / "mine.yaml", MINIMAL)
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, ["stages.operator.stpes=9"])
    message = str(caught.value)
    assert "mine.yaml" in message
    assert "stages.operator.stpes: unknown key (did you mean 'steps'?)" in message


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"seed": -1}, "seed: "),
        ({"seed": "many"}, "seed: .*found 'many'"),
        ({"data": {}}, "data: name either one `dataset` or a list `task`"),
        ({"operator": {"mixer": "magic"}}, "operator.mixer: .*found 'magic'"),
        ({"operator": {"kernel_size": 4}}, "kernel_size must be odd, found 4"),
        ({"operator": {"mixer": "attention", "width": 12}}, "multiple of 2 x heads = 8"),
        ({"stages": {"codec": {"batch_size": 3, "accumulate": 2}}}, "multiple of accumulate 2"),
        ({"stages": {"codec": {"optimizer": {"kind": "sgd"}}}}, "stages.codec.optimizer"),
        ({"stages": {"operator": {"unroll": [{"start": 0.5, "steps": 1}]}}}, "rise from 0"),
        ({"stages": {"codec": {"optimizer": {"lr": 1}}}},
         "stages.codec.optimizer.kind: required key is missing"),
        ({"codec": {"gate": float("nan")}}, "codec.gate: .*finite number"),
        ({"name": "../escape"}, "name: "),
    ],
)  # fmt: skip
def test_a_wrong_value_names_file_key_and_what_was_found(tmp_path, wrong, expected):
    path = write(tmp_path / "mine.yaml", MINIMAL | wrong)
    with pytest.raises(ConfigError, match=rf"^{path}: .*{expected}"):
        load_experiment(path)


def test_an_override_reads_its_value_as_yaml():
    assert parse_override("a.b=1e-3") == {"a": {"b": "1e-3"}}
    assert parse_override("a=[1, 2]") == {"a": [1, 2]}
    assert parse_override("a=x=y") == {"a": "x=y"}
    assert parse_override("a.b=null") == {"a": {"b": None}}
    assert parse_override("a={kind: muon_hybrid}") == {"a": {"kind": "muon_hybrid"}}


def test_numbers_in_exponent_form_become_numbers(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: x\ndata: {dataset: burgers1d}\ncodec: {gate: 1e-3}\n")
    found = load_experiment(path, ["stages.operator.optimizer={kind: adamw, lr: 5e-4}"])
    assert found.codec.gate == 1e-3
    assert found.stages.operator.optimizer.lr == 5e-4
    assert load_experiment(path, ["codec.gate=2e-3"]).codec.gate == 2e-3


@pytest.mark.parametrize("override", ["seed", "=1", "a..b=1", ".a=1", "a={"])
def test_an_override_that_is_not_key_and_value_is_refused(override):
    with pytest.raises(ConfigError, match="--set"):
        parse_override(override)


def test_an_override_of_the_kind_replaces_the_whole_optimizer(tmp_path):
    path = write(tmp_path / "mine.yaml", MINIMAL | {
        "stages": {"operator": {"optimizer": {"kind": "muon_hybrid", "lr": 0.5, "momentum": 0.5}}}
    })  # fmt: skip
    found = load_experiment(path, ["stages.operator.optimizer.kind=adamw"])
    assert found.stages.operator.optimizer.model_dump()["kind"] == "adamw"
    assert found.stages.operator.optimizer.lr == 2e-3


@given(
    seed=st.integers(0, 2**31),
    lr=st.floats(1e-9, 1e3, allow_nan=False),
    width=st.integers(1, 512),
    coefficients=st.none() | st.integers(1, 8),
    mixer=st.sampled_from(["spectral", "conv"]),
    kind=st.sampled_from(["adamw", "muon_hybrid"]),
)
def test_any_config_written_and_read_is_equal(
    tmp_path_factory, seed, lr, width, coefficients, mixer, kind
):
    original = Experiment.model_validate(
        MINIMAL
        | {
            "seed": seed,
            "codec": {"coefficients": coefficients},
            "operator": {"width": width, "mixer": mixer},
            "stages": {"operator": {"optimizer": {"kind": kind, "lr": lr}}},
        }
    )
    path = tmp_path_factory.getbasetemp() / "roundtrip.yaml"
    path.write_text(to_yaml(original))
    assert load_experiment(path) == original


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a: [", "not YAML"), ("- 1", "expected a mapping"), ("", "expected a mapping")],
)
def test_a_file_that_is_not_a_yaml_mapping_is_refused(tmp_path, text, expected):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected):
        load_experiment(path)


def test_an_unknown_config_name_offers_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'burgers1d'") as caught:
        load_experiment("burger1d")
    assert "advection1d" in caught.value.hint


def test_the_users_own_config_is_found_by_name(home):
    (home / "configs").mkdir(parents=True)
    write(home / "configs" / "mine.yaml", MINIMAL | {"seed": 9})
    assert load_experiment("mine").seed == 9


def test_a_config_is_frozen():
    experiment = Experiment.model_validate(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        experiment.seed = 2


def test_override_of_one_key_finds_the_kind_beside_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ndata: {dataset: burgers1d}\n")
    experiment = load_experiment(path, ["stages.operator.optimizer.lr=5e-4"])
    assert experiment.stages.operator.optimizer.kind == "muon_hybrid"
    assert experiment.stages.operator.optimizer.lr == 5e-4


def test_override_may_complete_a_config(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\n")
    assert load_experiment(path, ["data.dataset=burgers1d"]).data.dataset == "burgers1d"
