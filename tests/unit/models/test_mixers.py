"""Mixers alone: known weights give known answers."""

from __future__ import annotations

import pytest
import torch

from ups.config.models import LatentOperatorConfig
from ups.errors import ConfigError
from ups.models.mixers import SpectralMixer, build_mixer

GRIDS = [
    ((8,), (True,)), ((7,), (True,)), ((8,), (False,)), ((4, 6), (True, True)),
    ((5, 4), (False, True)), ((3, 4, 2), (True, False, True)),
]  # fmt: skip


def noise(anchors, width=8, batch=2):
    return torch.randn(batch, *anchors, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("modes", [None, 2])
@pytest.mark.parametrize("mixer", ["spectral", "conv", "attention"])
@pytest.mark.parametrize(("anchors", "periodic"), GRIDS)
def test_shape_is_kept(mixer, anchors, periodic, modes):
    config = LatentOperatorConfig(mixer=mixer, width=16, heads=2, kernel_size=3, modes=modes)
    x = noise(anchors, width=16)
    assert build_mixer(config, anchors, periodic)(x).shape == x.shape


def test_attention_without_a_rotated_pair_for_each_axis_is_refused():
    config = LatentOperatorConfig(mixer="attention", width=8, heads=2)
    with pytest.raises(ConfigError, match="2 rotated pairs of channels a head for 3 axes"):
        build_mixer(config, (4, 4, 4), (True, True, True))


def identity(anchors, periodic, modes=None):
    mixer = SpectralMixer(8, anchors, periodic, modes)
    with torch.no_grad():
        mixer.weight.zero_()
        mixer.weight[..., 0] = torch.eye(8)
    return mixer


@pytest.mark.parametrize(("anchors", "periodic"), GRIDS)
def test_spectral_mixing_by_the_identity_is_the_identity(anchors, periodic):
    x = noise(anchors)
    torch.testing.assert_close(identity(anchors, periodic)(x), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("anchors", "periodic"), GRIDS)
def test_spectral_mixing_with_few_modes_is_a_low_pass(anchors, periodic):
    x = noise(anchors)
    low = identity(anchors, periodic, modes=1)(x)
    mean = x.mean(tuple(range(1, x.ndim - 1)), keepdim=True)
    torch.testing.assert_close(low, mean.expand_as(x), rtol=0, atol=1e-5)
    twice = identity(anchors, periodic, modes=2)
    torch.testing.assert_close(twice(twice(x)), twice(x), rtol=0, atol=1e-5)


def test_convolution_reaches_as_far_as_its_kernel():
    config = LatentOperatorConfig(mixer="conv", width=8, kernel_size=5)
    mixer = build_mixer(config, (16,), (True,))
    x = noise((16,))
    changed = x.clone()
    changed[:, 0] += 1
    moved = (mixer(changed) - mixer(x)).abs().amax((0, 2)) > 1e-6
    assert torch.nonzero(moved).flatten().tolist() == [0, 1, 2, 14, 15]


@pytest.mark.parametrize("mixer", ["spectral", "attention"])
def test_global_mixers_reach_everywhere(mixer):
    config = LatentOperatorConfig(mixer=mixer, width=8, heads=2)
    module = build_mixer(config, (16,), (True,))
    x = noise((16,))
    changed = x.clone()
    changed[:, 0] += 1
    assert ((module(changed) - module(x)).abs().amax((0, 2)) > 1e-7).all()


def test_attention_tells_distances_apart():
    """Without positions, exchanging two other tokens would change nothing for the first."""
    config = LatentOperatorConfig(mixer="attention", width=8, heads=2)
    module = build_mixer(config, (8,), (True,))
    x = noise((8,))
    order = [0, 1, 5, 3, 4, 2, 6, 7]
    assert (module(x[:, order])[:, 0] - module(x)[:, 0]).abs().max() > 1e-4
