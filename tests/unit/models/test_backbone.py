"""The backbones with every mixer, on one grid and on several."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace

import pytest
import torch

from ups.config.models import BackboneConfig
from ups.errors import ConfigError
from ups.models.backbone import Backbone, Merge, Split
from ups.models.blocks import TokenNetwork, drop_path
from ups.models.layout import TokenLayout
from ups.models.normalisation import sample_norm

MIXERS = ("spectral", "conv", "attention")
ARCHITECTURES = ("pdet_stack", "pdet_unet")
each_mixer = pytest.mark.parametrize("mixer", MIXERS)
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def layout(anchors, periodic=None):
    return TokenLayout(
        anchors=anchors, periodic=periodic or (True,) * len(anchors), latent_dim=4, num_fields=1,
        separable=True, points_per_token=4, conserved=(True,), num_parameters=0, dt=0.1,
    )  # fmt: skip


def backbone(layouts, *, random=True, **options):
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 2, "heads": 2, "kernel_size": 3, "depths": (1, 2, 1)}
    config = BackboneConfig(**(sizes | options))
    module = Backbone(config, layouts if isinstance(layouts, dict) else {"a": layouts})
    if random:
        torch.nn.init.normal_(module.modulation.weight, std=0.2)
        torch.nn.init.normal_(module.modulation.bias, std=0.2)
    return module.double()


def inputs(anchors, batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *anchors, 16, generator=generator, dtype=torch.float64)
    return x, torch.randn(batch, 16, generator=generator, dtype=torch.float64)


@each_mixer
@each_architecture
@pytest.mark.parametrize("mlp", ["neighbours", "mlp", "swiglu"])
@pytest.mark.parametrize("anchors", [(9,), (5, 7), (3, 2, 5)])
def test_shape_is_kept_at_odd_sizes_too(architecture, mixer, mlp, anchors):
    module = backbone(
        layout(anchors, (False,) * len(anchors)), architecture=architecture, mixer=mixer, mlp=mlp
    )
    x, condition = inputs(anchors)
    assert module(x, condition, "a").shape == x.shape


@each_mixer
@each_architecture
def test_the_output_has_unit_rms_and_depends_on_the_condition(architecture, mixer):
    module = backbone(layout((8,)), architecture=architecture, mixer=mixer)
    x, condition = inputs((8,))
    y = module(x, condition, "a")
    rms = y.square().mean((1, 2)).sqrt()
    torch.testing.assert_close(rms, torch.ones_like(rms), rtol=0, atol=1e-5)
    assert (module(x, condition.flip(0), "a") - y)[0].abs().max() > 1e-2


@each_mixer
@each_architecture
def test_before_training_the_condition_has_no_effect(architecture, mixer):
    module = backbone(layout((8,)), random=False, architecture=architecture, mixer=mixer)
    x, condition = inputs((8,))
    assert torch.equal(module(x, condition, "a"), module(x, 5 * condition, "a"))


@pytest.mark.parametrize(
    ("mixer", "options"),
    [*((mixer, {}) for mixer in MIXERS), ("spectral", {"local": True}),
     ("attention", {"local": True})],
)  # fmt: skip
def test_a_stack_on_a_ring_has_no_place_of_its_own(mixer, options):
    module = backbone(layout((8, 4)), mixer=mixer, positions=True, **options)
    x, condition = inputs((8, 4))
    moved = module(x.roll((1, 3), (1, 2)), condition, "a").roll((-1, -3), (1, 2))
    torch.testing.assert_close(moved, module(x, condition, "a"), rtol=0, atol=1e-6)


def test_a_u_on_a_ring_moves_by_whole_coarse_tokens():
    module = backbone(layout((8,)), architecture="pdet_unet")
    x, condition = inputs((8,))
    y = module(x, condition, "a")
    by_two, by_one = (module(x.roll(n, 1), condition, "a").roll(-n, 1) for n in (2, 1))
    torch.testing.assert_close(by_two, y, rtol=0, atol=1e-6)
    assert (by_one - y).abs().max() > 1e-2


def test_positions_are_learned_along_walls_alone():
    layouts = {"ring": layout((8,)), "walls": layout((6, 4), (False, True))}
    module = backbone(layouts, positions=True)
    assert {task: tuple(p.shape) for task, p in module.positions.items()} == {"walls": (6, 1, 16)}
    x, condition = inputs((6, 4))
    before = module(x, condition, "walls")
    torch.nn.init.normal_(module.positions["walls"])
    assert (module(x, condition, "walls") - before).abs().max() > 1e-2


@each_mixer
@each_architecture
def test_tasks_of_one_two_and_three_dimensions_share_the_weights(architecture, mixer):
    layouts = {"a": layout((8,)), "b": layout((5, 4), (False, True)), "c": layout((4, 2, 2))}
    options = {"heads": 2, "architecture": architecture, "mixer": mixer, "depths": (1, 1, 1)}
    module = backbone(layouts, **options)
    used = []
    for task, item in layouts.items():
        x, condition = inputs(item.anchors)
        y = module(x, condition, task)
        assert y.shape == x.shape
        module.zero_grad()
        # Not a sum of squares: the norm keeps that.
        (y * inputs(item.anchors, seed=5)[0]).sum().backward()
        used.append({name for name, w in module.named_parameters() if w.grad.any()})
    assert used[0] == used[1] == used[2] == {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize("mixer", ["conv", "attention"])
def test_a_second_task_changes_nothing_for_the_first_with_the_same_weights(mixer):
    a, b = layout((8, 4)), layout((6,), (False,))
    alone, beside = (backbone(tasks, mixer=mixer) for tasks in ({"a": a}, {"a": a, "b": b}))
    beside.load_state_dict(alone.state_dict())
    x, condition = inputs((8, 4))
    assert torch.equal(alone(x, condition, "a"), beside(x, condition, "a"))


def test_with_spectral_weights_of_its_frequencies_too():
    a, b = layout((8,)), layout((6,), (False,))
    alone, beside = (backbone(tasks) for tasks in ({"a": a}, {"a": a, "b": b}))
    state = beside.state_dict()
    for name, value in alone.state_dict().items():
        if name.endswith("mixer.weight"):
            # Half waves 0 to 8 of which the ring has the even ones; walls have 0 to 5.
            state[name][[0, 2, 4, 6, 7]] = value
        else:
            state[name] = value
    beside.load_state_dict(state)
    x, condition = inputs((8,))
    torch.testing.assert_close(alone(x, condition, "a"), beside(x, condition, "a"))


def test_more_levels_than_anchors_are_refused():
    with pytest.raises(ConfigError, match=r"3 halvings .* task 'small' with 4x3 anchors has 2"):
        backbone(
            {"large": layout((16,)), "small": layout((4, 3))},
            architecture="pdet_unet", depths=(1,) * 7,
        )  # fmt: skip


@pytest.mark.parametrize(("size", "num_axes"), [(8, 1), (7, 1), (5, 2), (3, 3)])
def test_merging_keeps_the_norm_at_first_and_splitting_has_the_shape_back(size, num_axes):
    torch.manual_seed(0)
    module = backbone(layout((size,) * num_axes))
    grid = module.grids["a"]
    x, _ = inputs(grid.anchors)
    merged = Merge(16, num_axes).double()(x)
    assert merged.shape == (3, *((size + 1) // 2,) * num_axes, 32)
    if (size, num_axes) == (8, 1):
        torch.testing.assert_close(merged.norm(), x.norm(), rtol=0.05, atol=0)
    assert Split(16, num_axes).double()(merged, grid).shape == x.shape


@pytest.mark.parametrize("anchors", [(8,), (4, 6), (5, 3)])
def test_splitting_with_the_transposed_map_undoes_merging(anchors):
    """With 4 channels kept for 4 of 2D: the token order of both is the same."""
    num_axes = len(anchors)
    merge, split = Merge(4, num_axes).double(), Split(4, num_axes).double()
    size = 4 * 2**num_axes
    merge.hidden = torch.nn.Linear(size, size, bias=False).double()
    split.hidden = torch.nn.Linear(size, size, bias=False).double()
    torch.nn.init.orthogonal_(merge.hidden.weight)
    split.hidden.weight.data.copy_(merge.hidden.weight.T)
    grid = backbone(layout(anchors)).grids["a"]
    x = torch.randn(2, *anchors, 4, dtype=torch.float64)
    torch.testing.assert_close(split(merge(x), grid), x)


@each_architecture
@each_mixer
def test_computing_blocks_again_gives_the_same_gradients(architecture, mixer):
    options = {"architecture": architecture, "mixer": mixer, "drop_path": 0.4}
    x, condition = inputs((8,))
    gradients = []
    for again in (False, True):
        module = backbone(layout((8,)), activation_checkpointing=again, offload=again, **options)
        torch.manual_seed(1)
        module(x, condition, "a").mul(torch.linspace(-1, 1, 16)).sum().backward()
        gradients.append([weight.grad for weight in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_drop_path_keeps_the_expectation():
    torch.manual_seed(0)
    kept = drop_path(torch.ones(20000, 2), 0.3)
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert torch.equal(kept[:, 0], kept[:, 1])
    assert abs(kept.mean() - 1) < 0.02


def test_drop_path_rises_with_depth_and_is_off_in_use():
    module = backbone(layout((8,)), drop_path=0.6, architecture="pdet_unet")
    rates = [block.drop_path for stage in module.stages for block in stage]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.6])
    x, condition = inputs((8,))
    assert not torch.equal(module(x, condition, "a"), module(x, condition, "a"))
    module.eval()
    assert torch.equal(module(x, condition, "a"), module(x, condition, "a"))


def test_swiglu_has_as_many_weights_as_a_plain_network():
    sizes = [
        sum(w.numel() for name, w in TokenNetwork(kind, 96, 4, 1).named_parameters() if "w" in name)
        for kind in ("mlp", "swiglu")
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("mixer", MIXERS)
def test_hidden_matrices_are_named_so(mixer):
    """Muon takes them: everything of two axes but modulation and positions."""
    module = backbone(layout((8,)), mixer=mixer, architecture="pdet_unet")
    flat = {name for name, w in module.named_parameters() if w.ndim == 2 and min(w.shape) > 2}
    assert {name for name in flat if "hidden" not in name} == {"modulation.weight"}


@each_mixer
def test_half_precision_regions_keep_the_stream_in_float32(mixer):
    module = backbone(layout((8,)), mixer=mixer).float()
    x, condition = (value.float() for value in inputs((8,)))
    exact = module(x, condition, "a")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x, condition, "a")
    assert y.dtype == torch.float32
    assert 0 < (y - exact).abs().max() < 0.1


def test_windows_and_shifts_alternate():
    module = backbone(layout((8, 8)), mixer="attention", window=4, depth=2)
    x, condition = inputs((8, 8), batch=1)
    x.requires_grad_()
    one = module.stages[0][0](x, torch.zeros(1, 4, 16).double(), module.grids["a"])
    (reach,) = torch.autograd.grad(one[0, 0, 0].sum(), x)
    two = module(x, condition, "a")
    (whole,) = torch.autograd.grad(two[0, 0, 0].sum(), x)
    # The norm sees everything, weakly; windows reach further with the second block.
    assert (reach.abs().sum(-1) > 0.05).sum() < (whole.abs().sum(-1) > 1e-6).sum() == 64


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"local": True, "mixer": "conv"}, "local: the mixer 'conv'"),
        ({"window": 4}, "window: only attention"), ({"depths": (1, 2)}, "odd in number"),
    ],
)  # fmt: skip
def test_options_that_would_do_nothing_are_refused(options, match):
    if "depths" in options:
        options = {**options, "architecture": "pdet_unet"}
    with pytest.raises(ValueError, match=match):
        BackboneConfig(**options)


@pytest.mark.parametrize("size", ["L", "XL"])
def test_large_presets_are_transformers_that_flash_attention_takes(size):
    config = BackboneConfig(size=size)
    assert (config.mixer, config.mlp, config.width // config.heads) == ("attention", "swiglu", 64)
    assert BackboneConfig(size=size, mixer="conv", width=96).width == 96


def _can_compile():
    return shutil.which("c++") is not None and importlib.util.find_spec("torch._inductor")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, in its own code
@pytest.mark.skipif(not _can_compile(), reason="torch.compile needs a C++ compiler")
@each_mixer
def test_compiled_is_eager(mixer):
    module = backbone(layout((8,)), mixer=mixer, depth=1).float()
    x, condition = (value.float() for value in inputs((8,)))
    compiled = torch.compile(module)
    torch.testing.assert_close(
        compiled(x, condition, "a"), module(x, condition, "a"), rtol=1e-3, atol=1e-4
    )
    compiled(x, condition, "a").square().mean().backward()


def test_unnormalised_inputs_of_any_size_are_fine():
    module = backbone(layout((8,)))
    x, condition = inputs((8,))
    assert module(1e4 * x, condition, "a").isfinite().all()
    assert module(0 * x, condition, "a").isfinite().all()
    assert torch.equal(sample_norm(0 * x), 0 * x)


def test_layouts_differ_only_where_they_differ():
    """The name of a task has no effect."""
    item = layout((8,))
    module = backbone({"a": item, "b": replace(item, dt=3.0)})
    x, condition = inputs((8,))
    assert torch.equal(module(x, condition, "a"), module(x, condition, "b"))
