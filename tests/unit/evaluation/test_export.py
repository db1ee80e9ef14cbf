"""Exported programs: equal to the surrogate, for any batch, without ups."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ups
from ups.cli.main import app
from ups.codec.grid import GridCodec, GridGeometry
from ups.config.models import (
    FieldOperatorConfig,
    GridCodecConfig,
    LatentOperatorConfig,
    PriorConfig,
    ResidualConfig,
)
from ups.errors import CheckpointError
from ups.evaluation import export
from ups.evaluation.export_programs import ScaledParameters, programs_of
from ups.models.corrector import ResidualModel
from ups.models.layout import TokenLayout
from ups.models.operator import build_operator
from ups.models.steady import SteadyPrior
from ups.models.surrogate import Surrogate, scale_parameters
from ups.registry import Parameter

CARDS = (
    Parameter(name="nu", range=(1e-3, 10.0), scale="log"),
    Parameter(name="beta", range=(-1.0, 3.0)),
)
SMALL = {"width": 16, "depth": 1, "heads": 2, "modes": 4}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def filled(module):
    """Weights that begin at zero too."""
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return module


def grid_surrogate(operator=None, *, space=(16, 12), patch=4, inputs=(), **more):
    """A surrogate of a field u on a grid, one axis periodic."""
    dims = len(space)
    periodic = (True, False)[:dims]
    geometry = GridGeometry(
        space, (0.5 / 16,) * dims, (1 / 16,) * dims, periodic, ("u",), inputs=inputs
    )
    config = GridCodecConfig(
        patch_size=patch, width=4, **({"coefficients": 3} if patch > 1 else {})
    )
    codec = filled(GridCodec(config, geometry))
    codec.set_normalisation([0.5], [2.0])
    layout = TokenLayout(
        anchors=codec.anchors, periodic=periodic, latent_dim=codec.latent_dim, num_fields=1,
        separable=True, points_per_token=codec.points_per_token, conserved=(True,),
        num_parameters=2, dt=more.pop("dt", 0.1), context_dim=codec.context_dim,
        weights=codec.weights,
    )  # fmt: skip
    built = None if operator is None else filled(build_operator(operator, {"task": layout}))
    parts = {name: filled(make({"task": layout})) for name, make in more.items()}
    return Surrogate(codec, built, "task", layout, CARDS, layout.dt, **parts).eval()


def written(surrogate, folder):
    """The largest difference, and the programs as loaded from their files."""
    programs = tuple(
        programs_of(surrogate, surrogate.codec, ("x", "y")[: len(surrogate.codec.anchors)])
    )
    difference = export.write_programs(surrogate, programs, folder)
    return difference, {
        one.name: torch.export.load(folder / f"{one.name}.pt2").module() for one in programs
    }


OPERATORS = {
    "spectral": LatentOperatorConfig(**SMALL, mixer="spectral", history=3),
    "window": LatentOperatorConfig(**SMALL, mixer="attention", window=2),
    "conv": LatentOperatorConfig(**SMALL, mixer="conv", normalise=False),
    "cosine_fno": FieldOperatorConfig(kind="cosine_fno", width=8, depth=2, modes=3, wrapper=True),
    "fno": FieldOperatorConfig(kind="fno", width=8, depth=2, modes=3, history=2),
    "tfno": FieldOperatorConfig(kind="tfno", width=8, depth=2, modes=3),
    "unet": FieldOperatorConfig(kind="unet", width=8, depth=1, levels=2),
    "dit": FieldOperatorConfig(kind="dit", width=8, depth=1, heads=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPERATORS)
def test_every_kind_of_operator_is_exported_equal(kind, tmp_path):
    config = OPERATORS[kind]
    surrogate = grid_surrogate(config, patch=4 if config.kind == "latent" else 1)
    difference, _ = written(surrogate, tmp_path)
    assert difference <= 1e-6


@pytest.mark.slow
def test_any_batch_and_any_points_with_physical_parameters(tmp_path):
    surrogate = grid_surrogate(OPERATORS["conv"], space=(16,))
    _, programs = written(surrogate, tmp_path)
    fields = torch.randn(5, 16, 1)
    parameters = torch.tensor([[0.02, 1.5]], dtype=torch.float64).repeat(5, 1)
    tokens = programs["step"](programs["encode"](fields)[:, None], parameters)
    own = surrogate.predict(fields.numpy(), steps=1, nu=0.02, beta=1.5)
    np.testing.assert_allclose(programs["decode"](tokens).detach().numpy(), own[:, 0], rtol=1e-5)
    other = programs["step"](programs["encode"](fields)[:, None], 2 * parameters)
    assert not torch.allclose(tokens, other), "parameters matter"
    for count in (1, 7):
        coords = torch.rand(count, 1, dtype=torch.float64)
        found = programs["decode_at"](tokens, coords)
        torch.testing.assert_close(found, surrogate.codec.decode(tokens, coords))


@pytest.mark.slow
def test_a_residual_models_point_forecast_is_exported(tmp_path):
    surrogate = grid_surrogate(
        OPERATORS["conv"], space=(16,), residual=lambda layouts: ResidualModel(
            ResidualConfig(**SMALL), layouts
        ),
    )  # fmt: skip
    tokens = surrogate.codec.encode(torch.randn(1, 16, 1))[:, None]
    given = surrogate.given(torch.tensor([[0.1, 0.0]], dtype=torch.float64))
    without = next(surrogate.roll(tokens, given))
    surrogate.residual.port("task").gain.fill_(0.5)
    assert not torch.allclose(next(surrogate.roll(tokens, given)), without)
    difference, _ = written(surrogate, tmp_path)
    assert difference <= 1e-6


@pytest.mark.slow
def test_a_steady_prior_takes_its_noise(tmp_path):
    surrogate = grid_surrogate(
        inputs=("a",), dt=None, prior=lambda layouts: SteadyPrior(
            PriorConfig(**SMALL, refinement_steps=3), layouts
        ),
    )  # fmt: skip
    difference, programs = written(surrogate, tmp_path)
    assert difference <= 1e-6
    assert {"encode_inputs", "solve", "decode"} <= set(programs)
    assert np.load(tmp_path / "example.npz")["noise"].shape[1] == 2


def test_parameters_are_scaled_as_the_run_scales_them():
    values = torch.tensor([[1e-3, -1.0], [0.02, 0.7], [10.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(
        ScaledParameters(CARDS)(values), scale_parameters(CARDS, values).float()
    )
    assert ScaledParameters(())(torch.zeros(3, 0, dtype=torch.float64)).shape == (3, 0)


@pytest.mark.slow
def test_programs_that_differ_from_the_run_are_refused(tmp_path, monkeypatch):
    surrogate = grid_surrogate(OPERATORS["conv"], space=(16,))
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(CheckpointError, match="differ from the run by"):
        written(surrogate, tmp_path)


@pytest.fixture
def run(small):
    """A trained run on burgers1d."""
    from tiny_runs import small_experiment

    small("burgers1d")
    return ups.train(small_experiment("burgers1d"))


WITHOUT_UPS = """
import pathlib, sys
sys.path = [one for one in sys.path if not pathlib.Path(one, "ups", "__init__.py").is_file()]
sys.modules["ups"] = None  # an import fails wherever it might be found
"""


def test_the_readmes_code_repeats_the_run_without_ups(run, tmp_path):
    out = tmp_path / "model"
    result = CliRunner().invoke(app, ["eval", "export", str(run), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "checked" in result.stdout
    text = (out / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_UPS + code], cwd=out, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = float(done.stdout.split("at most ")[1].split()[0])
    assert found <= 1e-5
    about = json.loads((out / "model.json").read_text())
    assert about["parameters"][0]["name"] == "nu"
    assert about["axes"][0]["points"] == 32
    assert about["check"]["difference"] <= about["check"]["tolerance"]
    decode_at = torch.export.load(out / "decode_at.pt2").module()
    for batch, count in ((1, 1), (5, 7)):
        tokens, coords = torch.randn(batch, 4, 8), torch.rand(count, 1, dtype=torch.float64)
        own = ups.load_run(run).codec.decode(tokens, coords)
        torch.testing.assert_close(decode_at(tokens, coords), own)

    again = CliRunner().invoke(app, ["eval", "export", str(run), "--out", str(out)])
    assert again.exit_code == 2
    assert "--force" in again.stderr
    (tmp_path / "mine.txt").write_text("precious")
    other = CliRunner().invoke(app, ["eval", "export", str(run), "--out", str(tmp_path), "--force"])
    assert other.exit_code == 2, "no export, and so not replaced"
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_meshes_are_refused(small, tmp_path):
    from tiny_runs import small_experiment

    small("darcy2d_mesh")
    run = ups.train(small_experiment("darcy2d_mesh"))
    result = CliRunner().invoke(app, ["eval", "export", str(run), "--out", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert "only runs on grids" in result.stderr
