"""Codec and operator together: rolling out, and PDE parameters by name."""

from __future__ import annotations

import itertools

import pytest
import torch

from ups.codec.grid import GridCodec, GridGeometry
from ups.config.models import GridCodecConfig, LatentOperatorConfig
from ups.errors import UsageError
from ups.models.layout import TokenLayout
from ups.models.operator import LatentOperator
from ups.models.surrogate import Surrogate, padded_history, scale_parameters
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
    layout = TokenLayout(
        anchors=(4,), periodic=(True,), latent_dim=4, num_fields=1, separable=True,
        points_per_token=4, conserved=(True,), num_parameters=2, dt=0.1,
    )  # fmt: skip
    config = LatentOperatorConfig(width=8, depth=1, history=2)
    operator = LatentOperator(config, {"task": layout})
    for weight in operator.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.1)
    return Surrogate(codec, operator, "task", layout, CARDS, 0.1).eval()


def test_parameters_are_scaled_column_by_column():
    values = torch.tensor([[1e-3, -1.0], [0.1, 1.0], [10.0, 3.0]], dtype=torch.float64)
    expected = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(scale_parameters(CARDS, values).float(), expected)


def test_no_parameters_are_an_empty_row_per_sample():
    assert scale_parameters((), torch.zeros(5, 0)).shape == (5, 0)


def test_rolling_out_is_stepping_again_and_again(surrogate):
    initial = torch.randn(2, 16, 1, generator=torch.Generator().manual_seed(0))
    given = surrogate.given(torch.tensor([[0.01, 0.0], [1.0, 2.0]], dtype=torch.float64))
    assert given.dt.tolist() == pytest.approx([0.1, 0.1])
    with torch.no_grad():
        tokens = surrogate.codec.encode(initial)
        rolled = list(itertools.islice(surrogate.roll(tokens[:, None], given), 5))
        frames = [tokens, tokens]  # one frame is given, and stands for the one before it too
        for state in rolled:
            past = torch.stack(frames[-2:], 1)
            assert torch.equal(state, surrogate.operator(past, given, "task"))
            frames.append(state)
    assert not torch.equal(rolled[0], rolled[1])


def test_a_users_own_state_is_rolled_out_alone_or_in_a_batch(surrogate):
    initial = torch.randn(3, 16, 1, generator=torch.Generator().manual_seed(0)).numpy()
    batch = surrogate.predict(initial, steps=4, nu=0.5, beta=1.0)
    assert batch.shape == (3, 4, 16, 1)
    alone = surrogate.predict(initial[1], steps=4, nu=0.5, beta=1.0)
    torch.testing.assert_close(torch.from_numpy(alone), torch.from_numpy(batch[1]))
    with pytest.raises(UsageError, match=r"shape \(15, 1\), expected \(16, 1\)"):
        surrogate.predict(initial[0, 1:], steps=1, nu=0.5, beta=1.0)


def test_the_oldest_frame_stands_for_those_before_it():
    frames = torch.arange(3.0).reshape(1, 3, 1, 1)
    assert padded_history(frames, 5).flatten().tolist() == [0, 0, 0, 1, 2]
    assert padded_history(frames, 2).flatten().tolist() == [1, 2]


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
