"""Counts with known answers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ups.config.models import LatentOperatorConfig
from ups.models.flops import activation_bytes, count_flops, num_parameters
from ups.models.layout import Given, TokenLayout
from ups.models.operator import LatentOperator


def test_a_linear_layer():
    layer = nn.Linear(5, 7)
    assert count_flops(layer, torch.randn(3, 5)) == 2 * 3 * 5 * 7
    assert num_parameters(layer) == 5 * 7 + 7


def test_fourier_transforms():
    x = torch.randn(4, 16, 3)
    assert count_flops(lambda v: torch.fft.fft(v.cfloat(), dim=1), x) == 5 * x.numel() * 4
    assert count_flops(lambda v: torch.fft.rfft(v, dim=1), x) == 5 * x.numel() * 4 // 2
    back = count_flops(lambda v: torch.fft.irfft(v, n=16, dim=1), torch.fft.rfft(x, dim=1))
    assert back == 5 * x.numel() * 4 // 2
    plane = torch.randn(2, 8, 4)
    expected = round(5 * plane.numel() * math.log2(32) / 2)
    assert count_flops(lambda v: torch.fft.rfftn(v, dim=(1, 2)), plane) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_a_complex_product_takes_four_real_ones(dtype):
    a, b = torch.randn(6, 2, 3, dtype=dtype), torch.randn(6, 3, 5, dtype=dtype)
    factor = 8 if dtype.is_complex else 2
    assert count_flops(torch.bmm, a, b) == factor * 6 * 2 * 3 * 5
    assert count_flops(torch.mm, a[0], b[0]) == factor * 2 * 3 * 5


def test_attention_is_counted():
    q = torch.randn(2, 4, 16, 8)
    expected = 2 * 2 * 2 * 4 * 16 * 16 * 8
    assert count_flops(nn.functional.scaled_dot_product_attention, q, q, q) == expected


def test_what_a_network_keeps_for_its_backward_pass():
    # Input and the output of the first layer; weights are there anyway.
    network = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    x = torch.randn(16, 8)
    assert activation_bytes(network, x) == 4 * (16 * 8 + 16 * 32)
    assert activation_bytes(network, x.repeat(2, 1)) == 2 * activation_bytes(network, x)


def operator(**options):
    layout = TokenLayout(
        anchors=(8,), periodic=(True,), latent_dim=4, num_fields=1, separable=True,
        points_per_token=4, conserved=(True,), num_parameters=0, dt=0.1,
    )  # fmt: skip
    return LatentOperator(LatentOperatorConfig(width=32, **options), {"a": layout})


def arguments(batch):
    return torch.randn(batch, 1, 8, 4), Given(torch.zeros(batch, 0), torch.full((batch,), 0.1)), "a"


@pytest.mark.parametrize("mixer", ["spectral", "conv", "attention"])
def test_operations_of_an_operator_grow_with_batch_and_depth(mixer):
    one, three = operator(mixer=mixer, depth=1), operator(mixer=mixer, depth=3)
    assert count_flops(one, *arguments(6)) == 3 * count_flops(one, *arguments(2))
    per_block = (count_flops(three, *arguments(2)) - count_flops(one, *arguments(2))) / 2
    tokens, width = 2 * 8, 32
    # The token network alone, and at most as much again for mixing and modulation.
    network = 2 * tokens * (3 * width * 2 * width + 2 * width * width)
    assert network < per_block < 2.2 * network


def test_blocks_that_are_computed_again_keep_less():
    sizes = [
        activation_bytes(operator(depth=6, activation_checkpointing=again), *arguments(64))
        for again in (False, True)
    ]
    assert sizes[1] < sizes[0] / 4
