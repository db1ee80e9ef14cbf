"""The grid baselines: waves that fit the boundaries, the library's operators, the common form."""

from __future__ import annotations

import copy
import math
import sys
import warnings
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import fft
from torch import nn

from ups.config.models import FieldOperatorConfig
from ups.config.stages import MuonConfig
from ups.data.reading.batches import BOUNDARIES
from ups.errors import ConfigError, MissingExtraError
from ups.models import library_fno
from ups.models.cosine_fno import CosineFNO, WaveLinear
from ups.models.fields import FieldOperator
from ups.models.layout import Given, TokenLayout
from ups.models.waves import Axis, axes_of, real_waves, resampling, standing_waves
from ups.training.optim import build_optimizer

PERIODIC, DIRICHLET, NEUMANN = (BOUNDARIES.index(n) for n in ("periodic", "dirichlet", "neumann"))
LINE = TokenLayout(
    anchors=(32,), periodic=(True,), latent_dim=1, num_fields=1, separable=True,
    points_per_token=1, conserved=(True,), num_parameters=1, dt=0.1,
    boundaries=((PERIODIC, PERIODIC),),
)  # fmt: skip
SQUARE = replace(
    LINE, anchors=(12, 10), periodic=(False, False), latent_dim=2, num_fields=2,
    conserved=(True, False), boundaries=((NEUMANN, NEUMANN), (DIRICHLET, DIRICHLET)),
)  # fmt: skip
STEADY = replace(SQUARE, latent_dim=1, num_fields=1, conserved=(False,), dt=None, context_dim=3)
SMALL = {"width": 8, "depth": 2, "modes": 5}
KINDS = [{"kind": kind, **SMALL} for kind in ("fno", "tfno", "uno", "cosine_fno")] + [
    {"kind": "unet", "width": 4, "depth": 1, "levels": 2, "modes": 16},
    {"kind": "dit", "width": 16, "depth": 1, "patch": 4, "heads": 2, "modes": 16},
]


def operator(layout=LINE, *, trained=True, **options):
    torch.manual_seed(0)
    found = FieldOperator(FieldOperatorConfig(**{"kind": "cosine_fno", **SMALL, **options}),
                          {"task": layout})  # fmt: skip
    if trained:  # the last layer starts at zero
        for weight in found.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.5)
    return found


def given(layout=LINE, batch=3):
    context = torch.randn(batch, layout.num_tokens, layout.context_dim)
    return Given(
        torch.linspace(-1, 1, batch)[:, None],
        torch.full((batch,), layout.dt or 1.0),
        context if layout.context_dim else None,
    )


def states(layout=LINE, batch=3, frames=1):
    return torch.randn(batch, frames, layout.num_tokens, layout.latent_dim)


@pytest.mark.parametrize(
    ("low", "high", "transform"),
    [(False, False, (fft.dct, 2)), (True, True, (fft.dst, 2)),
     (False, True, (fft.dct, 4)), (True, False, (fft.dst, 4))],
)  # fmt: skip
def test_standing_waves_are_the_transform_of_their_boundaries(low, high, transform):
    function, kind = transform
    expected = function(np.eye(9), type=kind, norm="ortho", axis=0)
    np.testing.assert_allclose(standing_waves(Axis(9, False, low, high), 9), expected, atol=1e-12)


def test_ends_come_from_the_layout_and_are_no_flux_where_unknown():
    assert axes_of(SQUARE) == (Axis(12), Axis(10, False, True, True))
    assert axes_of(replace(SQUARE, boundaries=())) == (Axis(12), Axis(10))
    assert axes_of(LINE) == (Axis(32, True),)


@pytest.mark.parametrize("axis", [Axis(24, True), Axis(24), Axis(24, False, True, True)], ids=str)
def test_resampling_is_exact_on_band_limited_values_and_back(axis):
    smooth = torch.randn(7, dtype=torch.float64) @ real_waves(axis, 7)
    down = resampling(axis, 12)
    there = down @ smooth
    torch.testing.assert_close(down.T @ there * 2, smooth, rtol=0, atol=1e-12)
    # The same waves at the coarse grid's own points.
    coarse = axis.with_points(12)
    waves = real_waves(axis, 7), real_waves(coarse, 7)
    torch.testing.assert_close(waves[1] @ there * math.sqrt(2), waves[0] @ smooth)


def test_wave_layer_of_a_ring_is_the_spectral_convolution():
    layer, x = WaveLinear([Axis(16, True), Axis(12, True)], 3, modes=4), torch.randn(2, 16, 12, 3)
    spectrum = torch.fft.rfft2(x, dim=(1, 2))
    kept, weight = torch.zeros_like(spectrum), torch.view_as_complex(layer.weight.detach())
    for place, row in enumerate([0, 1, 2, 3, -1, -2, -3]):
        for column in range(4):
            mixed = spectrum[:, row, column] @ weight[place * 4 + column]
            kept[:, row, column] = mixed
    expected = torch.fft.irfft2(kept, s=(16, 12), dim=(1, 2))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)


def test_wave_layer_mixes_wrapping_and_bounded_axes():
    axes = [Axis(8), Axis(10, True)]
    layer, x = WaveLinear(axes, 2, modes=3), torch.randn(1, 8, 10, 2)
    turned = layer(x.roll(4, 2))
    torch.testing.assert_close(turned, layer(x).roll(4, 2), rtol=0, atol=1e-5)
    values = layer(x)[0, ..., 0].detach().double()
    outside = values - standing_waves(axes[0], 3).T @ (standing_waves(axes[0], 3) @ values)
    assert outside.abs().max() < 1e-6


def test_gradients_of_the_network_are_right():
    torch.manual_seed(0)
    network = CosineFNO([Axis(6), Axis(5, True)], 2, 1, 2, 1, 2).double()
    for module in network.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            wide = torch.complex128 if buffer.is_complex() else torch.float64
            setattr(module, name, buffer.to(wide))
    nn.init.normal_(network.head.weight)
    x = torch.randn(1, 6, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, (x,), atol=1e-4)


@pytest.mark.parametrize("options", KINDS, ids=lambda options: options["kind"])
@pytest.mark.parametrize("layout", [LINE, SQUARE, STEADY], ids=["line", "square", "steady"])
def test_every_kind_trains_and_its_state_goes_round(options, layout):
    found, other = operator(layout, **options), operator(layout, trained=False, **options)
    history = states(layout)[:, :0] if layout.is_steady else states(layout)
    told = given(layout)
    predicted = found(history, told, "task")
    assert predicted.shape == (3, layout.num_tokens, layout.latent_dim)
    predicted.square().mean().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in found.parameters())
    state = found.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other.load_state_dict(state)
    copied = copy.deepcopy(other)
    torch.testing.assert_close(copied(history, told, "task"), predicted.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("wrapper", [False, True])
@pytest.mark.parametrize("options", KINDS, ids=lambda options: options["kind"])
def test_an_untrained_operator_is_persistence(options, wrapper):
    now = states(SQUARE)
    found = operator(SQUARE, trained=False, wrapper=wrapper, **options)
    torch.testing.assert_close(found(now, given(SQUARE), "task"), now[:, -1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["fno", "cosine_fno"])
def test_wrapper_keeps_the_mean_of_conserved_fields_and_follows_the_amplitude(kind):
    found = operator(SQUARE, kind=kind, wrapper=True)
    now = states(SQUARE) + 1
    after = found(now, given(SQUARE), "task")
    change = (after - now[:, -1]).mean(1)
    assert change[:, 0].abs().max() < 1e-5
    assert change[:, 1].abs().min() > 1e-4
    # The network sees v / r; blind to amplitude and mean, its update grows with r.
    first = found.network.lift if kind == "cosine_fno" else found.network.lifting.fcs[0]
    with torch.no_grad():
        first.weight[:, 2:] = 0
    mean = now[:, -1:].mean(2, keepdim=True)
    update = found(now, given(SQUARE), "task") - now[:, -1]
    larger = mean + 7 * (now - mean)
    grown = found(larger, given(SQUARE), "task") - larger[:, -1]
    torch.testing.assert_close(grown, 7 * update, rtol=1e-3, atol=1e-4)


def test_parameters_context_and_earlier_frames_are_heard():
    told = given()
    found, now = operator(), states()
    other = replace(told, parameters=told.parameters + 0.5)
    assert not torch.allclose(found(now, told, "task"), found(now, other, "task"))
    slower = replace(told, dt=told.dt / 2)
    assert not torch.allclose(found(now, told, "task"), found(now, slower, "task"))
    two, frames = operator(history=2), states(frames=2)
    earlier = torch.cat([frames[:, :1] + 1, frames[:, 1:]], 1)
    assert not torch.allclose(two(frames, told, "task"), two(earlier, told, "task"))
    with pytest.raises(ValueError, match="1 frames of history, expected 2"):
        two(now, told, "task")
    steady, told = operator(STEADY), given(STEADY)
    other = replace(told, context=told.context.flip(0))
    history = states(STEADY)[:, :0]
    assert not torch.allclose(steady(history, told, "task"), steady(history, other, "task"))


def test_a_ring_has_no_place_of_its_own_and_a_bounded_axis_may():
    now, told = states(), given()
    for kind in ("fno", "cosine_fno"):
        found = operator(kind=kind, coordinates=True)
        moved = found(now.roll(5, 2), told, "task")
        torch.testing.assert_close(moved, found(now, told, "task").roll(5, 1), rtol=0, atol=1e-5)
    inputs = [operator(SQUARE, coordinates=told).network.lift.in_features for told in (False, True)]
    assert inputs[1] - inputs[0] == 2


def test_scales_are_the_size_of_a_step_per_field():
    windows = states(SQUARE, batch=64, frames=1).expand(-1, 3, -1, -1).clone()
    windows[:, 1:, :, 0] += 2.0 * torch.tensor([1.0, 2.0])[:, None]
    windows[:, 1:, :, 1] += 0.1 * torch.tensor([1.0, 2.0])[:, None]
    found = operator(SQUARE)
    found.fit_scales("task", windows, given(SQUARE, 64))
    torch.testing.assert_close(found.step_size, torch.tensor([2.0, 0.1]))
    wrapped = operator(SQUARE, wrapper=True)
    wrapped.fit_scales("task", 5 * windows, given(SQUARE, 64))
    torch.testing.assert_close(wrapped.step_size, torch.tensor([2.0, 0.1]), rtol=0.05, atol=0)
    steady = operator(STEADY)
    steady.fit_scales("task", 3 * torch.ones(4, 1, STEADY.num_tokens, 1), given(STEADY, 4))
    assert steady.step_size.item() == pytest.approx(3)


def test_a_coarser_grid_carries_what_its_waves_can():
    layout = replace(LINE, anchors=(24,), periodic=(False,), boundaries=((NEUMANN, NEUMANN),))
    found = operator(layout, trained=False, coarsen=2)
    waves = standing_waves(Axis(24), 24).float()
    now = torch.stack([waves[3], waves[20]])[:, None, :, None]
    after = found(now, given(layout, 2), "task")[..., 0]
    torch.testing.assert_close(after[0], waves[3], rtol=0, atol=1e-5)
    assert after[1].abs().max() < 1e-5


@pytest.mark.parametrize("options", KINDS, ids=lambda options: options["kind"])
def test_muon_gets_the_matrices_of_hidden_layers_only(options):
    found = operator(SQUARE, **options)
    optimizers = build_optimizer(found, MuonConfig())
    muon = [w for one in optimizers.members if isinstance(one, torch.optim.Muon)
            for group in one.param_groups for w in group["params"]]  # fmt: skip
    names = {name for name, weight in found.named_parameters() if any(weight is w for w in muon)}
    # uno: of each block one skip, two layers and theirs, and the skip across; both ends. unet: of
    # each of 3 blocks two convolutions, one down, one up, one skip, what is told.
    expected = {"cosine_fno": 3, "fno": 8, "tfno": 8, "uno": 3 * 4 + 1 + 2, "unet": 10, "dit": 5}
    assert len(names) == expected[options["kind"]]
    assert all("hidden" in name for name in names)


def test_library_operator_is_the_librarys():
    from neuralop.models import FNO

    torch.manual_seed(0)
    theirs = FNO(n_modes=(10, 8), in_channels=3, out_channels=2, hidden_channels=8, n_layers=2,
                 positional_embedding=None, domain_padding=[0.25, 0.0])  # fmt: skip
    torch.manual_seed(0)
    ours = library_fno.LibraryFNO([Axis(12), Axis(10, True)], 3, 2, 8, 2, 5, padding=0.25)
    last = theirs.projection.fcs[-1]
    ours.projection.fcs[-1].load_state_dict(last.state_dict())
    x = torch.randn(2, 12, 10, 3)
    expected = theirs(x.movedim(-1, 1)).movedim(1, -1)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-6)


class Meddler(ModuleType):
    """A package that changes the process' warning filters while it is imported."""

    def __getattr__(self, name):
        warnings.simplefilter("once")
        return SimpleNamespace()


def test_the_library_leaves_the_warning_filters_alone(monkeypatch):
    package = Meddler("neuralop")
    package.__spec__ = ModuleSpec("neuralop", None)
    monkeypatch.setitem(sys.modules, "neuralop", package)
    before = list(warnings.filters)
    library_fno._library()
    assert list(warnings.filters) == before


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(library_fno.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="'fno', 'tfno' and 'uno'") as caught:
        operator(kind="tfno")
    assert caught.value.hint == "pip install 'universal-physics-stack[baselines]'"
    operator(kind="cosine_fno")


@pytest.mark.parametrize(
    ("layouts", "options", "message"),
    [
        ({"a": LINE, "b": SQUARE}, {}, "one task, found a, b"),
        ({"a": replace(LINE, points_per_token=4, latent_dim=4)}, {}, "not grid points"),
        ({"a": replace(LINE, kind="mesh")}, {}, "not grid points"),
        ({"a": STEADY}, {"wrapper": True}, "task 'a' is steady"),
        ({"a": STEADY}, {"history": 2}, "task 'a' is steady"),
        ({"a": replace(STEADY, context_dim=0)}, {}, "nothing is given"),
    ],
)
def test_what_does_not_fit_is_refused(layouts, options, message):
    with pytest.raises(ConfigError, match=message):
        FieldOperator(FieldOperatorConfig(kind="cosine_fno", **options), layouts)


def test_padding_is_for_the_fourier_transform():
    with pytest.raises(ValidationError, match="fits the boundary conditions without"):
        FieldOperatorConfig(kind="cosine_fno", padding=0.1)
