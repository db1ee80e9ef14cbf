"""The transformer on patches: any size, what a sample is told, neutral beginnings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ups.models.dit import DiffusionTransformer
from ups.models.waves import Axis

GRIDS = {
    "ring": (Axis(16, True),), "odd": (Axis(11),), "square": (Axis(13), Axis(8, True)),
    "cube": (Axis(6, True), Axis(5), Axis(7, False, True, False)), "small": (Axis(3),),
}  # fmt: skip


def network(axes, *, condition=2, trained=True):
    torch.manual_seed(0)
    found = DiffusionTransformer(axes, 3, 2, condition, width=24, depth=2, patch=4, heads=4)
    if trained:
        for weight in found.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.3)
    return found


def fields(axes, batch=2):
    return torch.randn(batch, *(axis.points for axis in axes), 3)


@pytest.mark.parametrize("axes", GRIDS.values(), ids=GRIDS)
def test_every_grid_gives_fields_of_its_size_and_trains_every_weight(axes):
    found = network(axes)
    out = found(fields(axes), torch.randn(2, 2))
    assert out.shape == (2, *(axis.points for axis in axes), 2)
    out.square().mean().backward()
    dead = [name for name, w in found.named_parameters() if w.grad is None or not w.grad.any()]
    # One token attends to itself alone: queries and keys make no difference.
    single = all(size == 1 for size in found.grid.anchors)
    assert dead == [] or (single and all("temperature" in name for name in dead))


def test_an_untrained_network_gives_zero_and_its_blocks_pass_on():
    axes = (Axis(16, True),)
    found = network(axes, trained=False)
    assert not found(fields(axes), torch.randn(2, 2)).any()
    h = torch.randn(2, 4, 24)
    torch.testing.assert_close(found.blocks[0](h, torch.randn(2, 24), found.grid), h)


@pytest.mark.parametrize("axes", [GRIDS["ring"], GRIDS["square"], GRIDS["cube"]])
def test_cutting_and_joining_patches_gives_the_fields_again(axes):
    found, x = network(axes), fields(axes)
    assert torch.equal(found._joined(found._cut(x)), x)


def test_a_point_goes_into_the_token_of_its_patch():
    axes = (Axis(8, True), Axis(8, True))
    found, x = network(axes), torch.zeros(1, 8, 8, 3)
    x[0, 5, 2, 1] = 1
    filled = found._cut(x)[0].any(-1)
    assert filled.nonzero().tolist() == [[1, 0]]


def test_a_ring_has_no_place_of_its_own_but_for_the_patches():
    axes = (Axis(16, True),)
    found, x, told = network(axes), fields(axes), torch.randn(2, 2)
    moved = found(x.roll(8, 1), told)
    torch.testing.assert_close(moved, found(x, told).roll(8, 1), rtol=0, atol=1e-4)


def test_what_a_sample_is_told_changes_its_answer_alone():
    axes = (Axis(11),)
    found, x, told = network(axes), fields(axes), torch.randn(2, 2)
    other = told.clone()
    other[0] += 1
    before, after = found(x, told), found(x, other)
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1], after[1])
    assert network(axes, condition=0)(x, torch.zeros(2, 0)).isfinite().all()
