"""Baselines by name: what the recipe changes, what it leaves, what it refuses."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from ups.cli.train import ModelChoice
from ups.config.baselines import MODELS, Domain, Model, Network, baseline, is_baseline, is_trivial
from ups.config.loading import load_experiment
from ups.config.models import FieldOperatorConfig
from ups.errors import ConfigError

RING = Domain("burgers1d", (1024,), (True,), False)
SQUARE = Domain("reaction_diffusion2d", (128, 128), (False, False), False)
STEADY = Domain("darcy2d", (128, 128), (False, False), True)
MESH = Domain("darcy2d_mesh", None, (), True)
CUBE = Domain("cns3d", (64, 64, 64), (True, True, True), False)


def of(model, config="burgers1d", domain=RING, overrides=()):
    return baseline(load_experiment(config), model, [domain], overrides)


def test_the_command_offers_every_model():
    assert [one.value for one in ModelChoice] == list(MODELS) == list(get_args(Model))


@pytest.mark.parametrize("model", [name for name in MODELS if name != "latent"])
@pytest.mark.parametrize(("config", "domain"), [("burgers1d", RING), ("quickstart", RING),
                                                ("reaction_diffusion2d", SQUARE)])  # fmt: skip
def test_data_losses_and_length_are_the_configs_own(model, config, domain):
    own, found = load_experiment(config), of(model, config, domain)
    assert found.name == f"{config}-{model}"
    assert (found.data, found.seed, found.threads) == (own.data, own.seed, own.threads)
    mine, theirs = found.stages.operator, own.stages.operator
    for key in ("steps", "losses", "unroll", "early_bias", "validate_every", "curriculum"):
        assert getattr(mine, key) == getattr(theirs, key), key
    assert found.evaluation.history == own.evaluation.history
    assert found.evaluation.gates.nrmse_mean is None
    assert found.operator.kind == model
    assert found.codec.patch_size == 1
    assert found.stages.order == ("codec", "operator")
    assert is_baseline(found)
    assert not is_baseline(own)
    assert is_trivial(found) == (model in ("persistence", "mean"))


@pytest.mark.parametrize("model", get_args(Network))
def test_networks_have_small_batches_muon_and_a_cosine(model):
    stage = of(model, "baseline_golden32").stages.operator
    assert (stage.batch_size, stage.optimizer.kind) == (32, "muon_hybrid")
    assert stage.schedule.kind == "cosine"
    assert of(model, domain=CUBE).stages.operator.batch_size == 8


def test_the_fno_in_one_dimension_is_the_one_that_was_tuned():
    found = of("fno")
    operator, optimizer = found.operator, found.stages.operator.optimizer
    assert (operator.width, operator.depth, operator.modes) == (32, 4, 16)
    assert (operator.padding, operator.wrapper, optimizer.lr) == (0.0, False, 8e-3)


@pytest.mark.parametrize("model", get_args(Network))
def test_shipped_configs_have_the_operators_of_the_recipe(model):
    assert load_experiment(f"{model}1d").operator == of(model).operator
    assert load_experiment(f"{model}2d").operator == of(model, domain=SQUARE).operator
    if model in ("uno", "unet", "dit"):
        recipe = of(model).stages.operator.optimizer
        assert load_experiment(f"{model}1d").stages.operator.optimizer == recipe


def test_walls_are_padded_or_fitted():
    assert of("fno", domain=SQUARE).operator.padding > 0
    assert of("uno", domain=SQUARE).operator.padding > 0
    cosine = of("cosine_fno", domain=SQUARE).operator
    assert (cosine.padding, cosine.coarsen) == (0, 2)
    assert of("cosine_fno", "darcy2d", STEADY).operator.coarsen == 1
    assert of("fno", "darcy2d", STEADY).operator.coordinates
    assert not of("fno").operator.coordinates


def test_a_steady_baseline_is_trained_as_long_as_the_stage_in_its_place():
    own = load_experiment("darcy2d", ["stages.steady_prior.steps=77"])
    found = baseline(own, "unet", [STEADY])
    assert found.stages.operator.steps == 77
    assert found.stages.operator.losses == own.stages.operator.losses


def test_overrides_have_the_last_word():
    given = ["operator.width=12", "stages.operator.optimizer.lr=1e-4", "name=mine"]
    found = of("unet", overrides=given)
    assert (found.operator.width, found.operator.kind) == (12, "unet")
    assert found.stages.operator.optimizer.lr == 1e-4
    assert found.name == "mine"
    with pytest.raises(ConfigError, match=r"burgers1d --model unet operator\.mdoes=3: operator"):
        of("unet", overrides=["operator.mdoes=3"])


def test_latent_is_the_config_itself():
    assert of("latent") == load_experiment("burgers1d")
    with pytest.raises(ConfigError, match=r"config 'fno1d' has operator\.kind 'fno'"):
        of("latent", "fno1d")


def test_what_does_not_fit_is_refused_with_a_way_out():
    with pytest.raises(ConfigError, match="works on one task, found burgers1d, darcy2d"):
        baseline(load_experiment("burgers1d"), "dit", [RING, STEADY])
    with pytest.raises(ConfigError, match="works on a grid") as caught:
        of("unet", "darcy2d_mesh", MESH)
    assert caught.value.hint == "--model persistence, or mean"
    with pytest.raises(ConfigError, match="is steady, no state persists"):
        of("persistence", "darcy2d", STEADY)


def test_on_a_mesh_a_trivial_predictor_keeps_the_codec():
    own, found = load_experiment("darcy2d_mesh"), of("mean", "darcy2d_mesh", MESH)
    assert (found.codec, found.stages.codec) == (own.codec, own.stages.codec)
    several = baseline(load_experiment("mixed"), "mean", [RING, MESH])
    assert several.codecs["mesh"].kind == "points"
    assert several.codec.patch_size == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "unet", "modes": 12}, "modes: is of fno, tfno, uno, cosine_fno, and kind is"),
        ({"kind": "fno", "levels": 2}, "levels: is of unet"),
        ({"kind": "dit", "padding": 0.1}, "padding: is of fno"),
        ({"kind": "dit", "width": 20, "heads": 4}, "must be a multiple of 2 x heads = 8"),
    ],
)
def test_options_of_another_kind_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        FieldOperatorConfig(**options)
