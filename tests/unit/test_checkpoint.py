"""Checkpoints: what is saved is what is loaded, and damage has a name."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from ups import checkpoint as checkpoints
from ups.checkpoint import Checkpoint, Identity, TaskIdentity
from ups.codec.grid import GridCodec, GridGeometry
from ups.config.models import GridCodecConfig, LatentOperatorConfig
from ups.config.schema import Experiment
from ups.errors import CheckpointError
from ups.models.layout import TokenLayout
from ups.models.operator import LatentOperator
from ups.registry import load_card


def random_weights(module):
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return module


def layout(**changes):
    usual = {
        "anchors": (4,), "periodic": (True,), "latent_dim": 2, "num_fields": 1, "separable": True,
        "points_per_token": 4, "conserved": (True,), "num_parameters": 1, "dt": 0.05,
        "family": "burgers", "boundaries": ((0, 0),),
    }  # fmt: skip
    return TokenLayout(**usual | changes)


@pytest.fixture
def saved():
    torch.manual_seed(0)
    geometry = GridGeometry((16,), (1 / 32,), (1 / 16,), (True,), ("u",))
    codec = random_weights(GridCodec(GridCodecConfig(patch_size=4, coefficients=2), geometry))
    codec.set_normalisation([0.3], [2.5])
    layouts = {"burgers1d": layout()}
    operator = random_weights(LatentOperator(LatentOperatorConfig(width=8, depth=1), layouts))
    task = TaskIdentity(
        "burgers1d", "v", "a" * 64, "b" * 16, 1, codec.fingerprint(),
        load_card("burgers1d").parameters, 0.05,
    )  # fmt: skip
    return Checkpoint(
        stage="operator",
        step=7,
        experiment=Experiment.model_validate(
            {"name": "x", "data": {"dataset": "burgers1d"}, "operator": {"width": 8}}
        ),
        identity=Identity("", "0.1", 3, {"codec": "c" * 64}),
        tasks={"burgers1d": task},
        codecs={"burgers1d": codec.eval()},
        layouts=layouts,
        modules={"operator": operator.eval()},
        metrics={"valid_nrmse": 0.5},
    )


@pytest.fixture
def path(tmp_path, saved):
    path = tmp_path / "operator.pt"
    checkpoints.save(path, saved)
    return path


@torch.no_grad()
def outputs(checkpoint):
    surrogate = checkpoint.surrogate()
    fields = torch.randn(3, 16, 1, generator=torch.Generator().manual_seed(1))
    given = surrogate.given(torch.tensor([[0.01], [0.1], [1.0]], dtype=torch.float64))
    states = surrogate.roll(surrogate.codec.encode(fields)[:, None], given)
    next(states)
    queries = torch.rand(5, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return surrogate.codec.decode(next(states)), surrogate.codec.decode(next(states), queries)


def test_a_loaded_checkpoint_gives_the_same_outputs_and_says_the_same(path, saved):
    loaded = checkpoints.load(path)
    for found, expected in zip(outputs(loaded), outputs(saved), strict=True):
        assert torch.equal(found, expected)
    for name in ("stage", "step", "experiment", "identity", "tasks", "layouts", "metrics"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert loaded.codec().fingerprint() == saved.codec().fingerprint()
    assert loaded.training is None


def test_loaded_modules_are_frozen(path):
    loaded = checkpoints.load(path)
    for module in (loaded.codec(), loaded.modules["operator"]):
        assert not module.training
        assert not any(weight.requires_grad for weight in module.parameters())


def several(saved):
    """The same data under two names, one of them known to the operator only as 'b'."""
    (known,), (codec,) = saved.tasks.values(), saved.codecs.values()
    layouts = {"a": layout(), "b": layout(num_parameters=0)}
    operator = LatentOperator(LatentOperatorConfig(width=8, depth=1), layouts)
    return replace(
        saved, tasks={"a": known, "b": replace(known, parameters=())},
        codecs={"a": codec, "b": codec}, layouts=layouts, modules={"operator": operator},
    )  # fmt: skip


def test_several_tasks_survive_in_order_and_are_asked_for_by_name(tmp_path, saved):
    checkpoints.save(tmp_path / "x.pt", several(saved))
    loaded = checkpoints.load(tmp_path / "x.pt")
    assert list(loaded.tasks) == ["a", "b"]
    assert loaded.surrogate("b").task == "b"
    assert len(loaded.surrogate("a").cards) == 1
    assert loaded.surrogate("b").cards == ()
    with pytest.raises(CheckpointError, match="holds several tasks: a, b"):
        loaded.surrogate()
    with pytest.raises(CheckpointError, match="holds no task 'c': a, b"):
        loaded.codec("c")


def test_a_module_keeps_the_tasks_that_it_was_trained_on(tmp_path, saved):
    both = several(saved)
    alone = {"b": both.layouts["b"]}
    part = LatentOperator(LatentOperatorConfig(width=8, depth=1), alone)
    checkpoints.save(tmp_path / "x.pt", replace(both, modules={"operator": part}))
    found = checkpoints.load(tmp_path / "x.pt").modules["operator"]
    assert list(found.layouts) == ["b"]
    assert found.state_dict().keys() == part.state_dict().keys()


def test_training_state_survives(path, saved):
    saved.training = {"random": torch.get_rng_state(), "optimizers": [{"lr": [0.1]}]}
    checkpoints.save(path, saved)
    found = checkpoints.load(path).training
    assert torch.equal(found["random"], saved.training["random"])
    assert found["optimizers"] == [{"lr": [0.1]}]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_called_damaged(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=f"^{path}: cut off or damaged") as caught:
        checkpoints.load(path)
    assert "ups train" in caught.value.hint


@pytest.mark.parametrize("content", [{"weights": torch.zeros(2)}, [1, 2], {"format": "other"}])
def test_another_torch_file_is_not_a_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of format 'ups-checkpoint-2'"):
        checkpoints.load(tmp_path / "x.pt")


def test_text_is_not_a_checkpoint(tmp_path):
    (tmp_path / "x.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="torch cannot read it"):
        checkpoints.load(tmp_path / "x.pt")


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle ran code')",))


@pytest.mark.parametrize("by_torch", [True, False])
def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path, by_torch):
    path = tmp_path / "x.pt"
    if by_torch:
        torch.save({"format": checkpoints.FORMAT, "stage": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        checkpoints.load(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"x\.pt: no such checkpoint"):
        checkpoints.load(tmp_path / "x.pt")


def test_weights_of_another_shape_do_not_fit(path):
    content = torch.load(path, weights_only=True)
    content["modules"]["operator"]["config"]["width"] = 16
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="does not fit this version of ups"):
        checkpoints.load(path)


def test_a_failed_save_keeps_the_old_checkpoint(path, saved):
    before = path.read_bytes()
    saved.training = {"unpicklable": lambda: None}
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoints.save(path, saved)
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir() if found.name != "home"] == [path.name]


def test_a_codecs_checkpoint_cannot_roll_out(path, saved):
    saved.modules = {}
    checkpoints.save(path, saved)
    with pytest.raises(CheckpointError, match="holds no model that predicts") as caught:
        checkpoints.load(path).surrogate()
    assert caught.value.hint == "ups train --stage operator, or steady_prior"
