"""Space files: what they may say, and what W&B makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ups import paths
from ups.config.schema import TrackingConfig
from ups.errors import ConfigError, UsageError
from ups.pipeline.space import Space, check_keys, experiment_at, load_space
from ups.pipeline.wandb_sweep import create, wandb_sweep

LR = "stages.operator.optimizer.lr"


def write(path: Path, **content) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def space(**content) -> Space:
    return Space.model_validate({"parameters": {LR: {"log_uniform": [1e-4, 1e-2]}}, **content})


@pytest.mark.parametrize("path", sorted((paths.config_dirs()[0] / "sweeps").glob("*.yaml")),
                         ids=lambda path: path.stem)  # fmt: skip
def test_shipped_spaces_fit_the_config_that_their_first_line_names(path):
    words = path.read_text().splitlines()[0].split()
    check_keys(load_space(path), words[words.index("sweep") + 1], (), path.name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"parameters": {LR: {"log_uniforn": [1, 2]}}}, "did you mean 'log_uniform'"),
        ({"parameters": {LR: {"uniform": [2, 1]}}}, "2 is not below 1"),
        ({"parameters": {LR: {"log_uniform": [0, 1]}}}, "0 is not positive"),
        ({"parameters": {LR: {"uniform": [0, 1], "choice": [1]}}}, "give one of"),
        ({"parameters": {LR: {"choice": []}}}, "choice: is empty"),
        ({"parameters": {LR: {"uniform": [0, 1], "step": 2}}}, "belongs to integers"),
        ({"parameters": {}}, "parameters"),
        ({"parameters": {LR: {"uniform": [0, 1]}}, "objective": "x"}, "did you mean 'objectives'"),
        ({"parameters": {LR: {"uniform": [0, 1]}}, "objectives": ["nrmse"]}, "objectives.0"),
        ({"parameters": {LR: {"uniform": [0, 1]}}, "sampler": {"kind": "grid"}}, "needs choices"),
        ({"parameters": {LR: {"uniform": [0, 1]}}, "objectives": ["valid_nrmse", "train_flops"],
          "pruner": {"kind": "median"}}, "several objectives"),
        ({"parameters": {LR: {"uniform": [0, 1]}}, "objectives": ["train_flops"]}, "kind: none"),
    ],
)  # fmt: skip
def test_what_a_space_may_not_say_is_named(tmp_path, content, said):
    with pytest.raises(ConfigError, match=said):
        load_space(write(tmp_path / "space.yaml", **content))


def test_a_key_that_the_config_does_not_have_is_named_with_its_place():
    wrong = Space.model_validate({"parameters": {"operator.widht": {"choice": [8, 16]}}})
    with pytest.raises(ConfigError, match=r"s\.yaml: parameters\.operator\.widht: .*'width'"):
        check_keys(wrong, "burgers1d", (), "s.yaml")
    with pytest.raises(ConfigError, match=r"parameters\.operator\.width"):
        check_keys(Space.model_validate({"parameters": {"operator.width": {"choice": [0, -1]}}}),
                   "burgers1d", (), "s.yaml")  # fmt: skip


def test_values_have_the_last_word_and_a_choice_may_be_a_mapping():
    adamw = {"kind": "adamw", "lr": 1e-5}
    found = experiment_at(
        "burgers1d", ["operator.width=8"],
        {"operator.width": 16, "stages.operator.optimizer": adamw, "data.augment": ["shift"]},
    )  # fmt: skip
    assert found.operator.width == 16
    assert (found.stages.operator.optimizer.kind, found.stages.operator.optimizer.lr) == (
        "adamw", 1e-5,
    )  # fmt: skip
    assert found.data.augment == ("shift",)


def test_pruning_follows_the_objectives():
    assert space().pruning.kind == "median"
    assert space(objectives=["valid_nrmse", "train_seconds"]).pruning.kind == "none"


def test_a_space_becomes_a_sweep_of_wandb():
    parameters = {
        LR: {"log_uniform": [1e-4, 1e-2]}, "data.noise": {"uniform": [0, 1]},
        "operator.depth": {"integers": [2, 4]}, "operator.width": {"integers": [8, 16], "step": 4},
        "stages.operator.steps": {"log_integers": [10, 100]},
        "operator.local": {"choice": [True, False]},
    }  # fmt: skip
    found = wandb_sweep(
        space(parameters=parameters), name="s", config="burgers1d", overrides=["seed=1"]
    )
    assert found["parameters"] == {
        LR: {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        "data.noise": {"distribution": "uniform", "min": 0.0, "max": 1.0},
        "operator.depth": {"distribution": "int_uniform", "min": 2, "max": 4},
        "operator.width": {"values": [8, 12, 16]},
        "stages.operator.steps": {
            "distribution": "q_log_uniform_values", "min": 10, "max": 100, "q": 1},
        "operator.local": {"values": [True, False]},
    }  # fmt: skip
    assert found["method"] == "bayes"
    assert found["metric"] == {"name": "operator/best/valid_nrmse", "goal": "minimize"}
    assert found["command"] == [
        "${env}", "ups", "sweep", "burgers1d", "--set", "seed=1", "--point", "${args_json}",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="goes by valid_nrmse"):
        wandb_sweep(space(objectives=["valid_nrmse", "train_flops"]), name="s", config="x")


def test_without_a_key_no_sweep_is_made_and_the_way_on_is_said():
    with pytest.raises(UsageError, match="no key of W&B") as caught:
        create({"name": "s"}, TrackingConfig())
    assert "wandb sweep FILE" in str(caught.value.hint)
