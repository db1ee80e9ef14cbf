"""Shipped configs: what they promise, what the cards and docs/configs.md say of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ups import paths, registry
from ups.config.loading import load_experiment
from ups.config.stages import STAGES
from ups.errors import ConfigError

FOLDER = paths.config_dirs()[0]
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
DOCS = (Path(__file__).parents[3] / "docs" / "configs.md").read_text(encoding="utf-8")
OVERRIDES = re.findall(r"^\| `([a-z_0-9.]+=[^`]+)`", DOCS, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_called_like_its_file_and_names_datasets_that_exist(name):
    experiment = load_experiment(name)
    assert experiment.name == name
    for task in experiment.data.tasks:
        registry.load_card(task.dataset)


@pytest.mark.parametrize("key", registry.dataset_keys())
def test_every_dataset_has_a_config_of_its_own(key):
    card = registry.load_card(key)
    assert card.config == f"{key}.yaml"
    experiment = load_experiment(card.config)
    assert [task.dataset for task in experiment.data.tasks] == [key]
    kind = "grid" if card.discretisation.kind == "grid" else "points"
    assert experiment.codec.kind == kind
    anchors = getattr(experiment.codec, "anchors", None)
    assert anchors is None or len(anchors) == card.num_dims


def test_the_reference_baselines_are_what_they_are_called():
    golden, v1, v2 = (load_experiment(f"baseline_{n}") for n in ("golden32", "v1", "v2"))
    assert (golden.codec.anchors, golden.codec.coefficients) == ((16,), 32)
    stages = golden.stages
    assert (golden.operator.width, stages.operator.ema_decay) == (64, 0.999)
    assert stages.order == STAGES[:4]
    lengths = stages.operator, stages.diff_residual, stages.consistency_distill
    assert [one.epochs for one in lengths] == [15, 5, 6]
    assert {one.optimizer.lr for one in lengths} == {1e-3}
    assert (v1.codec.anchors, v1.operator.width) == ((24,), 80)
    for name in ("operator", "diff_residual", "consistency_distill"):
        stage = getattr(v1.stages, name)
        assert (stage.optimizer.lr, stage.optimizer.betas) == (3e-4, (0.9, 0.95))
        assert stage.ema_decay == 0.9995
    assert (v2.operator.architecture, v2.operator.depths) == ("pdet_unet", (2, 2, 2))
    upt = load_experiment("baseline_upt128").stages.operator.losses
    assert upt.query_points
    assert all(term.weight for term in (upt.inverse_encoding, upt.inverse_decoding))
    assert upt.conservation.weight


def test_the_scaling_presets_turn_the_dial():
    found = [load_experiment(f"scale_s{n}") for n in range(4)]
    assert [one.operator.size for one in found] == ["S", "M", "L", "XL"]
    assert [(one.operator.width, one.operator.depth) for one in found] == [
        (64, 3), (128, 6), (384, 12), (768, 24)
    ]  # fmt: skip
    assert {one.operator.mixer for one in found} == {"attention"}
    assert [one.operator.mlp for one in found] == ["neighbours", "neighbours", "swiglu", "swiglu"]


def test_a_size_sets_what_was_inherited_but_not_what_is_given_with_it():
    found = load_experiment("burgers1d", ["operator.size=L"]).operator
    assert (found.width, found.depth, found.mixer) == (384, 12, "attention")
    found = load_experiment("burgers1d", ["operator.size=L", "operator.width=96"]).operator
    assert (found.width, found.depth) == (96, 12)


def test_one_way_of_naming_data_or_compression_replaces_the_other():
    several = load_experiment("quickstart", ["data.task=[burgers1d, advection1d]"])
    assert [task.dataset for task in several.data.tasks] == ["burgers1d", "advection1d"]
    one = load_experiment("mixed", ["data.dataset=burgers1d"])
    assert [task.dataset for task in one.data.tasks] == ["burgers1d"]
    codec = load_experiment("baseline_golden32", ["codec.compression=4"]).codec
    assert (codec.compression, codec.coefficients) == (4, None)
    with pytest.raises(ConfigError, match="not both"):
        load_experiment("burgers1d", ["codec={compression: 4, coefficients: 2}"])


def test_the_documentation_lists_every_config_and_no_other():
    listed = re.findall(r"^\| `(\w+)\.yaml`", DOCS, re.MULTILINE)
    assert sorted(listed) == NAMES


@pytest.mark.parametrize("override", OVERRIDES)
def test_every_override_of_the_cheat_sheet_is_understood(override):
    refused = []
    for config in ("burgers1d", "baseline_v2", "darcy2d_mesh", "mixed", "fno2d"):
        try:
            load_experiment(config, [override])
        except ConfigError as error:
            refused.append(str(error))
        else:
            return
    pytest.fail("\n".join(refused))
