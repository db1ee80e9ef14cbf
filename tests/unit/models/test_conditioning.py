"""What a network is told besides the tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ups.models.conditioning import Conditioner
from ups.models.layout import Given, TokenLayout

RING = TokenLayout(
    anchors=(6,), periodic=(True,), latent_dim=4, num_fields=1, separable=True,
    points_per_token=4, conserved=(True,), num_parameters=2, dt=0.1, family="burgers",
    boundaries=((0, 0),),
)  # fmt: skip
WALLS = replace(RING, periodic=(False,), boundaries=((1, 2),), family="heat")


def given(batch=3, dt=0.1):
    generator = torch.Generator().manual_seed(0)
    return Given(torch.rand(batch, 2, generator=generator), torch.full((batch,), dt))


def numbers(batch=3):
    return torch.randn(batch, 3, generator=torch.Generator().manual_seed(1))


def conditioner(layouts, extra=0):
    torch.manual_seed(0)
    return Conditioner(16, layouts, extra)


@pytest.mark.parametrize(
    "changed",
    [
        (numbers() + 1, given()), (numbers(), given(dt=0.2)),
        (numbers(), replace(given(), parameters=given().parameters.flip(0))),
    ],
    ids=["numbers", "dt", "parameters"],
)  # fmt: skip
def test_everything_that_is_told_counts(changed):
    module = conditioner({"a": RING})
    usual, other = module(numbers(), given(), "a"), module(*changed, "a")
    assert (usual - other).abs().amax(1).max() > 0.05


def test_the_usual_time_step_counts_as_one_in_every_task():
    module = conditioner({"a": RING, "b": replace(RING, dt=5.0)})
    module.numbers["b"] = module.numbers["a"]
    a, b = (module(numbers(), given(dt=dt), task) for dt, task in ((0.1, "a"), (5.0, "b")))
    torch.testing.assert_close(a, b)
    a, b = (module(numbers(), given(dt=dt), task) for dt, task in ((0.3, "a"), (15.0, "b")))
    torch.testing.assert_close(a, b)


def test_one_task_has_no_weights_for_what_it_is():
    assert conditioner({"a": RING}).kind is None
    assert conditioner({"a": RING, "b": RING}).kind is None


def test_tasks_that_differ_learn_what_they_are():
    module = conditioner({"a": RING, "b": WALLS})
    module.numbers["b"] = module.numbers["a"]
    # Two families, and two conditions at each of two ends.
    assert len(module.kind) == 6
    assert torch.equal(module(numbers(), given(), "a"), module(numbers(), given(), "b"))
    torch.nn.init.normal_(module.kind)
    assert not torch.allclose(module(numbers(), given(), "a"), module(numbers(), given(), "b"))


def test_each_further_number_is_embedded():
    module = conditioner({"a": RING}, extra=2)
    usual = torch.tensor([[0.2, 0.7]] * 3)
    answer = module(numbers(), given(), "a", usual)
    for column in range(2):
        other = usual.clone()
        other[:, column] += 0.02
        assert (module(numbers(), given(), "a", other) - answer).abs().amax(1).min() > 0.05


def test_a_wrong_number_of_further_numbers_is_refused():
    for wrong in (None, torch.zeros(3, 2)):
        with pytest.raises(ValueError, match="zip"):
            conditioner({"a": RING}, extra=1)(numbers(), given(), "a", wrong)


def test_half_precision_regions_leave_the_condition_in_float32():
    module = conditioner({"a": RING, "b": WALLS}, extra=1)
    arguments = numbers(), given(), "a", torch.full((3, 1), 0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = module(*arguments)
    assert torch.equal(inside, module(*arguments))


def test_who_is_not_told_hears_the_time_step_only():
    torch.manual_seed(0)
    silent = Conditioner(16, {"a": RING}, told=False)
    one = silent(numbers(), given(), "a")
    assert torch.equal(one, silent(numbers() + 1, given(), "a"))
    other = replace(given(), parameters=given().parameters.flip(0))
    assert torch.equal(one, silent(numbers(), other, "a"))
    assert not torch.equal(one, silent(numbers(), given(dt=0.2), "a"))
    assert one.shape == (3, 16)
    one.sum().backward()
    assert all(weight.grad is not None for weight in silent.parameters())
