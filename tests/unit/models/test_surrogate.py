"""Codec and operator together: rolling out, and PDE parameters by name."""

from __future__ import annotations

import itertools

import pytest
import torch

from ups.codec.grid import GridCodec, GridGeometry
from ups.config.models import GridCodecConfig, LatentOperatorConfig
from ups.errors import UsageError
from ups.models.operator import LatentOperator, TokenLayout
from ups.models.surrogate import Surrogate, scale_parameters
from ups.registry import Parameter


def parameter(name, low, high, scale):
    return Parameter(
        name=name, symbol=name, description="", range=(low, high), scale=scale, attribute=name
    )


CARDS = (parameter("nu", 1e-3, 10.0, "log"), parameter("beta", -1.0, 3.0, "linear"))


@pytest.fixture
def surrogate():
    torch.manual_seed(0)
    geometry = GridGeometry((16,), (1 / 32,), (1 / 16,), (True,), ("u",))
    codec = GridCodec(GridCodecConfig(patch_size=4, width=4), geometry)
    layout = TokenLayout((4,), (True,), 4, 4, (True,), 2, 0.1)
    operator = LatentOperator(LatentOperatorConfig(width=8, depth=1), layout)
    for layer in (operator.modulation, operator.head):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return Surrogate(codec, operator, CARDS, 0.1).eval()


def test_parameters_are_scaled_column_by_column():
    values = torch.tensor([[1e-3, -1.0], [0.1, 1.0], [10.0, 3.0]], dtype=torch.float64)
    expected = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(scale_parameters(CARDS, values).float(), expected)


def test_no_parameters_are_an_empty_row_per_sample():
    assert scale_parameters((), torch.zeros(5, 0)).shape == (5, 0)


def test_rolling_out_is_stepping_again_and_again(surrogate):
    initial = torch.randn(2, 16, 1, generator=torch.Generator().manual_seed(0))
    physical = torch.tensor([[0.01, 0.0], [1.0, 2.0]], dtype=torch.float64)
    with torch.no_grad():
        rolled = list(itertools.islice(surrogate.roll(initial, physical), 5))
        tokens = surrogate.codec.encode(initial)
        for state in rolled:
            tokens = surrogate.step(tokens, surrogate.scaled(physical).float())
            assert torch.equal(state, tokens)
    assert not torch.equal(rolled[0], rolled[1])


def test_parameters_can_be_given_by_name_in_any_order(surrogate):
    row = surrogate.parameter_row({"beta": 2.0, "nu": 0.5})
    assert row.tolist() == [[0.5, 2.0]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"nu": 1.0, "betta": 1.0}, r"betta: unknown parameter \(did you mean 'beta'"),
        ({"nu": 1.0}, "parameters missing: beta"),
    ],
)
def test_wrong_parameter_names_are_usage_errors(surrogate, values, expected):
    with pytest.raises(UsageError, match=expected):
        surrogate.parameter_row(values)
