"""The U-Net on a grid: any size, edges that fit, what a sample is told, Muon's matrices."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ups.config.stages import MuonConfig
from ups.models.unet import Convolution, UNet, beyond_ends
from ups.models.waves import Axis
from ups.training.optim import build_optimizer

RING, BOX, WALL = Axis(16, True), Axis(11), Axis(9, False, True, True)
GRIDS = {
    "ring": (RING,), "odd": (BOX,), "square": (Axis(13), Axis(10, True)),
    "cube": (Axis(6, True), Axis(5), Axis(7, False, True, False)), "flat": (Axis(7, True), Axis(1)),
}  # fmt: skip


def network(axes, *, condition=2, trained=True, width=4, depth=1, levels=3):
    torch.manual_seed(0)
    found = UNet(axes, 3, 2, condition, width, depth, levels)
    if trained:
        nn.init.normal_(found.head.matrix, std=0.5)
        for block in found.modules():
            if hasattr(block, "modulation"):
                nn.init.normal_(block.modulation.weight, std=0.5)
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
    assert dead == []


def test_an_untrained_network_gives_zero():
    assert not network((RING,), trained=False)(fields((RING,)), torch.randn(2, 2)).any()


def test_a_ring_has_no_place_of_its_own():
    found, x, told = network((RING,), levels=3), fields((RING,)), torch.randn(2, 2)
    # A shift by a multiple of the coarsest level's spacing moves the answer with it.
    moved = found(x.roll(4, 1), told)
    torch.testing.assert_close(moved, found(x, told).roll(4, 1), rtol=0, atol=1e-5)


def test_convolution_on_a_ring_is_torchs_circular_one():
    layer, x = Convolution((RING,), 3, 5), torch.randn(2, 3, 16)
    weight = layer.matrix.reshape(5, 3, 3)
    expected = F.conv1d(F.pad(x, (1, 1), mode="circular"), weight, layer.bias)
    torch.testing.assert_close(layer(x), expected)


def test_beyond_the_ends_stands_what_the_boundary_says():
    x = torch.tensor([[[1.0, 2.0, 3.0]]])
    for axis, low, high in (
        (Axis(3, True), 3, 1), (Axis(3), 1, 3), (Axis(3, False, True, True), 0, 0),
        (Axis(3, False, True, False), 0, 3), (Axis(3, False, False, True), 1, 0),
    ):  # fmt: skip
        expected = torch.tensor([[[low, 1.0, 2.0, 3.0, high]]])
        assert torch.equal(beyond_ends(x, 2, axis, 1, 1), expected), axis


def test_what_a_sample_is_told_changes_its_answer_alone():
    axes = (BOX,)
    found, x, told = network(axes), fields(axes), torch.randn(2, 2)
    other = told.clone()
    other[0] += 1
    before, after = found(x, told), found(x, other)
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1], after[1])


def test_a_sample_that_is_told_nothing_is_served():
    axes = (WALL,)
    out = network(axes, condition=0)(fields(axes), torch.zeros(2, 0))
    assert out.isfinite().all()


def test_levels_end_where_no_axis_can_be_halved():
    assert len(network((Axis(4),), levels=9).down) == 3
    assert len(network((Axis(64),), levels=2).down) == 2


def test_muon_has_all_convolutions_but_the_first_and_the_last():
    found = network((RING,))
    muon = [one for one in build_optimizer(found, MuonConfig()).members
            if isinstance(one, torch.optim.Muon)]  # fmt: skip
    ours = {id(w) for one in muon for group in one.param_groups for w in group["params"]}
    names = [n for n, m in found.named_modules() if isinstance(m, Convolution)
             and id(m.matrix) not in ours]  # fmt: skip
    assert names == ["stem", "head"]
