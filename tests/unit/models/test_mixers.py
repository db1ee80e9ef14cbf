"""Mixers alone: known weights give known answers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ups.config.models import BackboneConfig
from ups.errors import ConfigError
from ups.models.anchor_grid import AnchorGrid
from ups.models.attention import AttentionMixer
from ups.models.mixers import DepthwiseConv, build_mixer
from ups.models.spectral import SpectralMixer

GRIDS = [
    AnchorGrid(*grid)
    for grid in (
        ((8,), (True,)), ((7,), (True,)), ((8,), (False,)), ((4, 6), (True, True)),
        ((5, 4), (False, True)), ((3, 4, 2), (True, False, True)),
    )
]  # fmt: skip
RING = AnchorGrid((8,), (True,))
each_grid = pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.label)


def noise(grid, width=8, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *grid.anchors, width, generator=generator, dtype=torch.float64)


def mixer_of(kind, grids, width=8, **options):
    torch.manual_seed(0)
    heads = options.pop("heads", 2)
    config = BackboneConfig(mixer=kind, width=width, heads=heads, kernel_size=3, **options)
    return build_mixer(config, width, grids).double()


@pytest.mark.parametrize("modes", [None, 2])
@pytest.mark.parametrize("kind", ["spectral", "conv", "attention"])
@each_grid
def test_shape_is_kept(kind, grid, modes):
    x = noise(grid, width=16)
    assert mixer_of(kind, [grid], 16, modes=modes)(x, grid).shape == x.shape


@pytest.mark.parametrize("kind", ["spectral", "conv", "attention"])
@each_grid
def test_moving_the_tokens_around_a_periodic_axis_moves_the_answer(kind, grid):
    mixer, x = mixer_of(kind, [grid], 16), noise(grid, 16)
    for axis, wraps in enumerate(grid.periodic, start=1):
        difference = mixer(x.roll(1, axis), grid) - mixer(x, grid).roll(1, axis)
        assert (difference.abs().max() < 1e-6) == wraps


@pytest.mark.parametrize("kind", ["spectral", "conv"])
def test_a_state_that_is_constant_along_a_missing_axis_gives_the_answer_of_the_smaller_grid(kind):
    """A 1D task beside a 2D one has the weights of waves and kernels along its own axis."""
    line, plane = AnchorGrid((8, 1), (False, True)), AnchorGrid((8, 4), (False, True))
    mixer = mixer_of(kind, [line, plane], 16)
    x = noise(line, 16)
    on_plane = mixer(x.expand(-1, -1, 4, -1), plane)
    torch.testing.assert_close(on_plane, mixer(x, line).expand(-1, -1, 4, -1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["conv", "attention"])
def test_weights_that_do_not_depend_on_the_grid_answer_alike_beside_another_grid(kind):
    alone, beside = (
        mixer_of(kind, [RING], 16),
        mixer_of(kind, [RING, AnchorGrid((6,), (False,))], 16),
    )
    x = noise(RING, 16)
    assert torch.equal(alone(x, RING), beside(x, RING))


def identity(grid, modes=None):
    mixer = SpectralMixer(8, [grid], modes).double()
    with torch.no_grad():
        mixer.weight.zero_()
        mixer.weight[:, :, :8] = torch.eye(8)
    return mixer


@each_grid
def test_spectral_mixing_by_the_identity_is_the_identity(grid):
    x = noise(grid)
    torch.testing.assert_close(identity(grid)(x, grid), x, rtol=0, atol=1e-6)


@each_grid
def test_spectral_mixing_with_few_modes_is_a_low_pass(grid):
    x = noise(grid)
    low = identity(grid, modes=1)(x, grid)
    mean = x.mean(tuple(range(1, x.ndim - 1)), keepdim=True)
    torch.testing.assert_close(low, mean.expand_as(x), rtol=0, atol=1e-6)
    twice = identity(grid, modes=2)
    torch.testing.assert_close(twice(twice(x, grid), grid), twice(x, grid), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [7, 8])
def test_on_a_ring_spectral_mixing_is_a_complex_matrix_for_each_fourier_mode(size):
    grid = AnchorGrid((size,), (True,))
    mixer, x = mixer_of("spectral", [grid]), noise(grid)
    even, odd = mixer.weight.chunk(2, -1)
    spectrum = torch.fft.rfft(x, dim=1)
    mixed = torch.einsum("bkc,kcd->bkd", spectrum, torch.complex(even, -odd))
    expected = torch.fft.irfft(mixed, n=size, dim=1)
    torch.testing.assert_close(mixer(x, grid), expected, rtol=0, atol=1e-6)


def test_on_a_torus_spectral_mixing_is_a_complex_matrix_for_each_fourier_mode():
    grid = AnchorGrid((4, 6), (True, True))
    mixer, x = mixer_of("spectral", [grid]), noise(grid)
    even, odd = mixer.weight.unflatten(0, (3, 6)).chunk(2, -1)
    spectrum = torch.fft.rfftn(x, dim=(2, 1))
    # Weights are in order of frequency, -2 to 3 along the second axis.
    matrices = torch.complex(even, -odd).roll(-2, 1)
    mixed = torch.einsum("bklc,klcd->bkld", spectrum, matrices)
    expected = torch.fft.irfftn(mixed, s=(6, 4), dim=(2, 1))
    torch.testing.assert_close(mixer(x, grid), expected, rtol=0, atol=1e-6)


def test_between_walls_spectral_mixing_is_that_of_the_evenly_extended_state():
    walls, ring = AnchorGrid((6,), (False,)), AnchorGrid((12,), (True,))
    mixer, x = mixer_of("spectral", [walls, ring]), noise(walls)
    even, odd = mixer.weight.chunk(2, -1)
    spectrum = torch.fft.rfft(torch.cat([x, x.flip(1)], 1), dim=1)[:, :6]
    # Half waves 0, 1, 2 ... of the walls are among 0, 2, 4 ... 12 of the ring and 1, 3, 5.
    mixed = torch.einsum("bkc,kcd->bkd", spectrum, torch.complex(even, -odd)[:6])
    expected = torch.fft.irfft(F.pad(mixed, (0, 0, 0, 1)), n=12, dim=1)[:, :6]
    torch.testing.assert_close(mixer(x, walls), expected, rtol=0, atol=1e-6)


def test_grids_of_any_size_and_boundary_share_the_weights_of_a_frequency():
    small, large, walls = (AnchorGrid((n,), (w,)) for n, w in ((4, True), (16, True), (8, False)))
    mixer = mixer_of("spectral", [small, large, walls])
    # Half waves: 0 2 4; 0 2 ... 16; 0 1 ... 7.
    assert len(mixer.weight) == len({0, 2, 4, 6, 8, 10, 12, 14, 16} | {1, 3, 5, 7})
    coarse, fine = (((torch.arange(n) + 0.5) / n).double() for n in (4, 16))
    x, y = (
        (2 * torch.pi * place).cos()[None, :, None].expand(1, -1, 8) for place in (coarse, fine)
    )
    # One whole wave with the channels' amplitude and phase, at the tokens of either grid.
    wave = torch.exp(2j * torch.pi * coarse), torch.exp(2j * torch.pi * fine)
    answers = [torch.einsum("btc,t->bc", mixer(v, grid).to(w.dtype), w.conj()) / len(w)
               for v, grid, w in ((x, small, wave[0]), (y, large, wave[1]))]  # fmt: skip
    torch.testing.assert_close(*answers, rtol=0, atol=1e-7)
    assert answers[0].abs().min() > 1e-3


def test_planes_of_any_size_share_the_weights_of_a_plane_wave():
    grids = [AnchorGrid((n, m), (True, True)) for n, m in ((4, 6), (8, 7))]
    mixer, answers = mixer_of("spectral", grids), []
    for grid in grids:
        x, y = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in grid.anchors), indexing="ij")
        angle = 2 * torch.pi * (x - y).double()
        found = mixer(angle.cos()[None, ..., None].expand(1, -1, -1, 8), grid)
        wave = torch.exp(-1j * angle) / angle.numel()
        answers.append(torch.einsum("bxyc,xy->bc", found.to(wave.dtype), wave))
    torch.testing.assert_close(*answers, rtol=0, atol=1e-7)
    assert answers[0].abs().min() > 1e-3


def test_convolution_reaches_as_far_as_its_kernel():
    grid = AnchorGrid((16,), (True,))
    config = BackboneConfig(mixer="conv", width=8, kernel_size=5)
    mixer, x = build_mixer(config, 8, [grid]).double(), noise(grid)
    changed = x.clone()
    changed[:, 0] += 1
    moved = (mixer(changed, grid) - mixer(x, grid)).abs().amax((0, 2)) > 1e-6
    assert torch.nonzero(moved).flatten().tolist() == [0, 1, 2, 14, 15]


def test_depthwise_convolution_is_torchs_with_circular_padding():
    torch.manual_seed(0)
    grid = AnchorGrid((6, 5), (True, True))
    mixer, x = DepthwiseConv(4, 3, 2).double(), noise(grid, 4)
    padded = F.pad(x.movedim(-1, 1), (1, 1, 1, 1), mode="circular")
    expected = F.conv2d(padded, mixer.conv.weight, mixer.conv.bias, groups=4).movedim(1, -1)
    torch.testing.assert_close(mixer(x, grid), expected)


@pytest.mark.parametrize("kind", ["spectral", "attention"])
def test_global_mixers_reach_everywhere(kind):
    grid = AnchorGrid((16,), (True,))
    mixer, x = mixer_of(kind, [grid]), noise(grid)
    changed = x.clone()
    changed[:, 0] += 1
    assert ((mixer(changed, grid) - mixer(x, grid)).abs().amax((0, 2)) > 1e-7).all()


def test_attention_tells_distances_apart():
    """Without positions, exchanging two other tokens would change nothing for the first."""
    mixer, x = mixer_of("attention", [RING]), noise(RING)
    order = [0, 1, 5, 3, 4, 2, 6, 7]
    assert (mixer(x[:, order], RING)[:, 0] - mixer(x, RING)[:, 0]).abs().max() > 1e-4


def test_attention_does_not_depend_on_the_size_of_queries_and_keys():
    mixer, x = mixer_of("attention", [RING]), noise(RING)
    before = mixer(x, RING)
    with torch.no_grad():
        mixer.hidden_qkv.weight[:16] *= 100
        mixer.hidden_qkv.bias[:16] *= 100
    torch.testing.assert_close(mixer(x, RING), before, rtol=1e-3, atol=1e-3)


def test_attention_without_a_rotated_pair_for_each_axis_is_refused():
    grid = AnchorGrid((4, 4, 4), (True,) * 3)
    with pytest.raises(ConfigError, match="2 rotated pairs of channels a head for 3 axes"):
        mixer_of("attention", [grid])


@pytest.mark.parametrize("shifted", [False, True])
@each_grid
def test_a_window_over_everything_is_full_attention(grid, shifted):
    torch.manual_seed(0)
    full = AttentionMixer(16, 2, [grid]).double()
    windowed = AttentionMixer(16, 2, [grid], window=8, shifted=shifted).double()
    windowed.load_state_dict(full.state_dict())
    x = noise(grid, 16)
    assert torch.equal(windowed(x, grid), full(x, grid))


def seen(grid, window, shifted, place):
    """Tokens from which the answer at `place` depends."""
    torch.manual_seed(0)
    mixer = AttentionMixer(16, 2, [grid], window=window, shifted=shifted).double()
    x = noise(grid, 16, batch=1).requires_grad_()
    mixer(x, grid)[(0, *place)].sum().backward()
    return {tuple(index) for index in torch.nonzero(x.grad[0].abs().sum(-1) > 1e-12).tolist()}


@pytest.mark.parametrize(
    ("size", "wraps", "shifted", "place", "expected"),
    [
        (8, True, False, 5, {4, 5, 6, 7}), (8, True, True, 5, {2, 3, 4, 5}),
        (8, True, True, 7, {6, 7, 0, 1}), (8, False, True, 7, {6, 7}), (8, False, True, 1, {0, 1}),
        (6, False, False, 5, {4, 5}), (6, True, True, 1, {0, 1}), (6, True, True, 4, {2, 3, 4, 5}),
        (7, False, True, 0, {0, 1}), (7, False, True, 6, {6}), (7, True, True, 6, {6, 0, 1}),
    ],
)  # fmt: skip
def test_windows_of_4_see_their_own_tokens_and_not_across_walls(
    size, wraps, shifted, place, expected
):
    grid = AnchorGrid((size,), (wraps,))
    assert seen(grid, 4, shifted, (place,)) == {(token,) for token in expected}


def test_shifted_windows_in_2d_wrap_along_the_periodic_axis_alone():
    found = seen(AnchorGrid((4, 6), (True, False)), 2, True, (0, 0))
    assert found == {(0, 0), (3, 0)}


def test_every_token_is_in_some_window_and_comes_back_to_its_place():
    grid = AnchorGrid((5, 7), (False, True))
    mixer = AttentionMixer(16, 2, [grid], window=3, shifted=True).double()
    places = mixer.places[grid.label]
    token = torch.arange(35.0)[None, :, None, None]
    windows = places._in_windows(token)
    assert torch.equal(windows.reshape(1, -1, 1, 1).index_select(1, places.back), token)


@pytest.mark.parametrize("kind", ["spectral", "conv", "attention"])
def test_gradients_are_right(kind):
    grid = AnchorGrid((4, 3), (True, False))
    options = {"window": 2} if kind == "attention" else {}
    mixer = mixer_of(kind, [grid], **options)
    x = noise(grid, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: mixer(value, grid), x, atol=1e-5)
