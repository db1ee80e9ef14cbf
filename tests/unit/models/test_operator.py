"""The latent operator with every mixer in one to three dimensions: what it may not break."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ups.config.models import FieldOperatorConfig, LatentOperatorConfig
from ups.errors import ConfigError
from ups.models.fields import FieldOperator
from ups.models.layout import Given, TokenLayout
from ups.models.normalisation import amplitudes
from ups.models.operator import LatentOperator, build_operator

MIXERS = ("spectral", "conv", "attention")
ANCHORS = {1: (8,), 2: (4, 2), 3: (4, 2, 2)}
CASES = [
    (mixer, dims, periodic)
    for mixer in MIXERS
    for dims in (1, 2, 3)
    for periodic in ((True,) * dims, (False,) * dims)
]
each_case = pytest.mark.parametrize(
    ("mixer", "dims", "periodic"), CASES, ids=[f"{m}-{d}d-{'np'[p[0]]}" for m, d, p in CASES]
)
each_mixer = pytest.mark.parametrize("mixer", MIXERS)
WEIGHTS = (0.05, 0.1, 0.2, 0.05, 0.2, 0.1, 0.2, 0.1)


def layout_of(dims=1, periodic=None, **changes):
    """Two fields, the first one conserved, four numbers each."""
    usual = TokenLayout(
        anchors=ANCHORS[dims], periodic=periodic or (True,) * dims, latent_dim=8, num_fields=2,
        separable=True, points_per_token=4, conserved=(True, False), num_parameters=2, dt=0.1,
    )  # fmt: skip
    return replace(usual, **changes)


def operator_of(layouts, *, random=True, **options):
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 2, "heads": 2, "kernel_size": 3}
    layouts = layouts if isinstance(layouts, dict) else {"a": layouts}
    operator = LatentOperator(LatentOperatorConfig(**(sizes | options)), layouts)
    if random:
        heads = [port.head for port in operator.ports.values()]
        for layer in (operator.backbone.modulation, *heads):
            torch.nn.init.normal_(layer.weight, std=0.2)
            torch.nn.init.normal_(layer.bias, std=0.2)
    return operator.double()


def states(layout, batch=3, frames=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, frames, layout.num_tokens, layout.latent_dim)
    fields = torch.tensor([1.0, 5.0]).repeat(layout.latent_dim // 2)
    size = torch.rand(batch, 1, 1, 1, generator=generator) + 0.1
    return (size * fields * torch.randn(shape, generator=generator) + 0.7).double()


def given(layout, batch=3, dt=0.1):
    generator = torch.Generator().manual_seed(3)
    parameters = torch.rand(batch, 2, generator=generator, dtype=torch.float64) * 2 - 1
    context = None
    if layout.context_dim:
        shape = (batch, layout.num_tokens, layout.context_dim)
        context = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Given(parameters, torch.full((batch,), dt, dtype=torch.float64), context)


@each_case
def test_an_untrained_operator_changes_nothing(mixer, dims, periodic):
    layout = layout_of(dims, periodic)
    operator = operator_of(layout, mixer=mixer, random=False)
    now = states(layout)
    assert torch.equal(operator(now, given(layout), "a"), now[:, -1])


@each_case
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_the_mean_of_a_conserved_field_is_kept_by_any_weights_and_no_other(
    mixer, dims, periodic, weights
):
    layout = layout_of(dims, periodic)
    if weights is not None:
        repeats = layout.num_tokens // len(weights)
        layout = replace(layout, weights=tuple(w / repeats for w in weights * repeats))
    operator = operator_of(layout, mixer=mixer)
    now = states(layout)
    after = operator(now, given(layout), "a")
    change = (amplitudes(after, layout).mean - amplitudes(now[:, -1], layout).mean).abs()
    assert (after - now[:, -1]).abs().max() > 0.1
    assert change[:, 0].max() < 1e-9
    assert change[:, 1].min() > 1e-3


@each_case
def test_a_sample_does_not_depend_on_the_others_of_its_batch(mixer, dims, periodic):
    layout = layout_of(dims, periodic)
    operator, now, told = operator_of(layout, mixer=mixer), states(layout), given(layout)
    together = operator(now, told, "a")
    alone = operator(now[1:2], Given(told.parameters[1:2], told.dt[1:2]), "a")
    torch.testing.assert_close(alone[0], together[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dims", [1, 2, 3])
@each_mixer
def test_moving_a_periodic_state_by_whole_tokens_moves_the_next_state(mixer, dims):
    layout = layout_of(dims)
    operator, told = operator_of(layout, mixer=mixer), given(layout)
    now = states(layout).unflatten(2, layout.anchors)
    moves, axes = [1, -1, 1][:dims], list(range(1, dims + 1))
    first = operator(now.roll(moves, [a + 1 for a in axes]).flatten(2, -2), told, "a")
    last = operator(now.flatten(2, -2), told, "a").unflatten(1, layout.anchors).roll(moves, axes)
    torch.testing.assert_close(first, last.flatten(1, -2), rtol=0, atol=1e-5)
    assert (last - now[:, -1]).abs().max() > 0.1


@each_mixer
def test_a_wall_is_felt(mixer):
    layout = layout_of(1, (False,))
    operator, now, told = operator_of(layout, mixer=mixer), states(layout), given(layout)
    moved_first = operator(now.roll(1, 2), told, "a")
    assert (moved_first - operator(now, told, "a").roll(1, 1)).abs().max() > 1e-2


def test_a_constant_state_has_finite_gradients():
    layout = layout_of()
    operator = operator_of(layout)
    now = torch.zeros(3, 1, 8, 8, dtype=torch.float64)
    now[..., :2] = 0.3
    now.requires_grad_()
    operator(now, given(layout), "a").square().sum().backward()
    assert now.grad.isfinite().all()
    assert all(w.grad.isfinite().all() for w in operator.parameters() if w.grad is not None)


@each_case
@pytest.mark.parametrize("architecture", ["pdet_stack", "pdet_unet"])
def test_every_weight_can_learn(mixer, dims, periodic, architecture):
    layout = layout_of(dims, periodic, context_dim=3)
    options = {"mixer": mixer, "architecture": architecture, "depths": (1, 1, 1), "history": 2}
    operator = operator_of(layout, random=False, positions=True, **options).float()
    now, told = states(layout, frames=2).float(), given(layout, dt=0.2)
    told = Given(told.parameters.float(), told.dt.float(), told.context.float())
    optimizer = torch.optim.Adam(operator.parameters(), lr=1e-2)
    for _ in range(4):
        optimizer.zero_grad()
        (operator(now, told, "a") - now[:, -1].roll(1, 1)).square().mean().backward()
        optimizer.step()
    silent = [name for name, weight in operator.named_parameters() if not weight.grad.any()]
    assert silent == []


@each_mixer
def test_one_batch_can_be_learned_by_heart(mixer):
    layout = layout_of(conserved=(True, True))
    operator = operator_of(layout, random=False, mixer=mixer).float()
    now, told = states(layout).float(), given(layout)
    told = Given(told.parameters.float(), told.dt.float())
    target = now[:, 0].roll(3, 1)
    optimizer = torch.optim.Adam(operator.parameters(), lr=1e-2)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = (operator(now, told, "a") - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10, losses[::30]


@each_mixer
def test_the_next_state_depends_on_the_parameters(mixer):
    layout = layout_of()
    operator, now, told = operator_of(layout, mixer=mixer), states(layout), given(layout)
    shuffled = replace(told, parameters=told.parameters.roll(1, 0))
    change = operator(now, shuffled, "a") - operator(now, told, "a")
    assert (change.flatten(1).norm(dim=1) > 1e-2).all()


def test_without_conditioning_it_does_not():
    layout = layout_of()
    operator, now = operator_of({"a": layout}, conditioning=False), states(layout)
    told = given(layout)
    shuffled = Given(told.parameters.flip(0) + 1, told.dt)
    assert torch.equal(operator(now, shuffled, "a"), operator(now, told, "a"))


def test_without_conserving_the_mean_may_move():
    layout = layout_of(conserved=(True, True))
    operator, now = operator_of({"a": layout}, conserve=False), states(layout)
    change = operator(now, given(layout), "a") - now[:, -1]
    assert change[..., : layout.num_fields].mean(1).abs().min() > 1e-4


def test_the_change_goes_to_zero_with_the_time_step_and_is_not_just_proportional():
    layout = layout_of()
    operator, now = operator_of(layout), states(layout)
    one, two, tiny = (
        operator(now, given(layout, dt=dt), "a") - now[:, -1] for dt in (0.1, 0.2, 1e-7)
    )
    assert tiny.abs().max() < 1e-4 * one.abs().max()
    assert 0.02 < (two - 2 * one).norm() / one.norm() < 3


def test_the_size_of_a_step_scales_the_change():
    layout = layout_of()
    operator, now, told = operator_of(layout, mixer="conv"), states(layout), given(layout)
    one = operator(now, told, "a") - now[:, -1]
    operator.ports["a"].step_size.fill_(0.1)
    torch.testing.assert_close(operator(now, told, "a") - now[:, -1], 0.1 * one)


@pytest.mark.parametrize("separable", [True, False])
def test_without_modulation_the_change_scales_with_the_amplitude(separable):
    """v / r does not change when the deviation grows: the update grows with r."""
    layout = layout_of(conserved=(True, True), separable=separable)
    operator, now, told = operator_of(layout), states(layout), given(layout)
    torch.nn.init.zeros_(operator.backbone.modulation.weight)
    state = amplitudes(now[:, 0], layout)
    larger = (now[:, 0] + 6 * state.deviation)[:, None]
    change = operator(now, told, "a") - now[:, 0]
    grown = operator(larger, told, "a") - larger[:, 0]
    torch.testing.assert_close(grown, 7 * change, rtol=1e-4, atol=1e-4)


def test_fields_are_normalised_one_by_one_where_their_channels_are_apart():
    layout = layout_of(conserved=(True, True))
    operator, now, told = operator_of(layout), states(layout), given(layout)
    torch.nn.init.zeros_(operator.backbone.modulation.weight)
    deviation = amplitudes(now[:, 0], layout).deviation
    grown = (now[:, 0] + deviation * torch.tensor([0.0, 6.0]).repeat(4))[:, None]
    change = operator(now, told, "a") - now[:, 0]
    expected = change * torch.tensor([1.0, 7.0]).repeat(4)
    torch.testing.assert_close(
        operator(grown, told, "a") - grown[:, 0], expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("normalise", [True, False])
def test_earlier_frames_are_used_and_the_latest_are_taken(normalise):
    layout = layout_of()
    operator = operator_of(layout, history=3, normalise=normalise)
    frames, told = states(layout, frames=5).requires_grad_(), given(layout)
    next_state = operator(frames, told, "a")
    next_state[:, :, 3].sum().backward()
    per_frame = frames.grad.abs().amax((0, 2, 3))
    assert per_frame[:2].tolist() == [0, 0]
    assert (per_frame[2:] > 1e-3).all()
    assert torch.equal(next_state, operator(frames[:, 2:], told, "a"))
    with pytest.raises(ValueError, match="2 frames of history, expected 3"):
        operator(frames[:, :2], told, "a")


def test_a_state_at_rest_is_seen_as_one_without_history():
    layout = layout_of()
    operator, now, told = operator_of(layout, history=2), states(layout), given(layout)
    still = operator(now.repeat(1, 2, 1, 1), told, "a")
    port = operator.ports["a"]
    with torch.no_grad():
        port.stem.weight[:, layout.latent_dim :] *= 5
    assert torch.equal(operator(now.repeat(1, 2, 1, 1), told, "a"), still)


def test_what_is_given_with_the_problem_is_used():
    layout = layout_of(context_dim=3)
    operator, now, told = operator_of(layout), states(layout), given(layout)
    other = replace(told, context=told.context.flip(0))
    change = operator(now, other, "a") - operator(now, told, "a")
    assert (change[[0, 2]].flatten(1).norm(dim=1) > 1e-2).all()
    assert change[1].abs().max() < 1e-9


@each_mixer
def test_a_steady_problem_is_solved_from_what_is_given_alone(mixer):
    layout = layout_of(dt=None, context_dim=3)
    operator, told = operator_of(layout, mixer=mixer), given(layout, dt=1.0)
    none = states(layout)[:, :0]
    solution = operator(none, told, "a")
    assert solution.shape == (3, 8, 8)
    for other in (
        replace(told, context=told.context.flip(0)),
        replace(told, parameters=told.parameters.flip(0)),
    ):
        assert (operator(none, other, "a") - solution)[0].abs().max() > 1e-2
    operator.ports["a"].step_size.mul_(3)
    torch.testing.assert_close(operator(none, told, "a"), 3 * solution)


def test_a_steady_problem_with_nothing_given_is_refused():
    with pytest.raises(ConfigError, match="task 'a': steady, and nothing is given"):
        operator_of(layout_of(dt=None))


def test_tasks_with_their_own_layouts_live_side_by_side():
    layouts = {
        "line": layout_of(1),
        "plane": layout_of(2, (False, True), num_parameters=0, conserved=(False, False)),
        "steady": layout_of(2, dt=None, context_dim=5, latent_dim=6, separable=False),
    }
    operator = operator_of(layouts)
    for task, layout in layouts.items():
        told = given(layout)
        told = replace(told, parameters=told.parameters[:, : layout.num_parameters])
        frames = states(layout)[:, : 0 if layout.is_steady else 1]
        assert operator(frames, told, task).shape == (3, layout.num_tokens, layout.latent_dim)


@pytest.mark.parametrize("mixer", ["conv", "attention"])
def test_a_second_task_leaves_the_first_as_it_was(mixer):
    a, b = layout_of(2), layout_of(2, (False, False), family="other", context_dim=2)
    alone, beside = (operator_of(tasks, mixer=mixer) for tasks in ({"a": a}, {"a": a, "b": b}))
    missing = beside.load_state_dict(alone.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert all(".b." in name or name == "conditioner.kind" for name in missing.missing_keys)
    now, told = states(a), given(a)
    assert torch.equal(beside(now, told, "a"), alone(now, told, "a"))


def windows(layout, frames=6, batch=40):
    """Random walks with steps of known size relative to the amplitude of each field."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, frames, layout.num_tokens, layout.latent_dim)
    steps = torch.randn(shape, generator=generator).double()
    start = states(layout, batch)
    channel = torch.linspace(0.2, 2.0, layout.latent_dim).double()
    amplitude = amplitudes(start[:, 0], layout).amplitude.repeat(1, layout.latent_dim // 2)
    return start + (1e-3 * channel * amplitude[:, None, None] * steps).cumsum(1), channel


@pytest.mark.parametrize("dt", [0.1, 0.3])
def test_scales_are_those_of_the_training_windows(dt):
    layout = layout_of()
    frames, channel = windows(layout)
    told = given(layout, len(frames), dt=dt)
    plain, scaled = (operator_of(layout, input_scaling=kind) for kind in ("none", "channel"))
    for operator in (plain, scaled):
        operator.fit_scales("a", frames, told)
    pace = dt / layout.dt
    expected = 1e-3 * channel / pace
    port = plain.ports["a"]
    typical = expected.square().mean().sqrt().expand(8)
    torch.testing.assert_close(port.step_size, typical, rtol=0.05, atol=0)
    assert torch.equal(port.input_scale, torch.ones_like(port.input_scale))
    torch.testing.assert_close(scaled.ports["a"].step_size, expected, rtol=0.1, atol=0)


def test_channel_scales_have_a_floor_and_touch_the_input_alone():
    layout = layout_of()
    frames, _ = windows(layout)
    frames[..., 6:] *= 1e-4
    operator = operator_of(layout, input_scaling="channel", scale_floor=0.1)
    operator.fit_scales("a", frames, given(layout, len(frames)))
    scale = operator.ports["a"].input_scale
    torch.testing.assert_close(scale[6:], (0.1 * scale.max()).expand(2))
    state = amplitudes(frames[:, 0], layout)
    seen = operator.ports["a"].present(frames[:, 0], state)
    torch.testing.assert_close(seen[..., :6].std((0, 1)), torch.ones(6).double(), rtol=0.2, atol=0)


def test_without_normalising_the_input_is_z_scored_and_the_change_does_not_scale():
    layout = layout_of()
    frames, _ = windows(layout)
    operator = operator_of(layout, normalise=False, input_scaling="channel")
    operator.fit_scales("a", frames, given(layout, len(frames)))
    port = operator.ports["a"]
    before = frames[:, :-1].flatten(0, 1)
    seen = port.present(before, amplitudes(before, layout))
    torch.testing.assert_close(seen.mean((0, 1)), torch.zeros(8).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen.std((0, 1)), torch.ones(8).double(), rtol=1e-3, atol=0)
    step = port.step(amplitudes(before, layout), given(layout, len(before)))
    assert torch.equal(step[0], step[1])
    after = operator(frames[:, :1], given(layout, len(frames)), "a")
    drift = amplitudes(after, layout).mean - amplitudes(frames[:, 0], layout).mean
    assert drift[:, 0].abs().max() < 1e-9


def test_scales_of_a_steady_problem_are_those_of_its_solutions_and_inputs():
    layout = layout_of(dt=None, context_dim=3)
    operator, told = operator_of(layout), given(layout, 40)
    told = replace(told, context=told.context * torch.tensor([1.0, 30.0, 0.0]) + 5)
    solutions = states(layout, 40)
    operator.fit_scales("a", solutions, told)
    port = operator.ports["a"]
    torch.testing.assert_close(port.step_size, solutions.std().expand(8))
    seen = port.context(told, layout.num_tokens)
    assert seen.mean((0, 1)).abs().max() < 1e-5
    assert seen.std((0, 1))[1].item() == pytest.approx(1, abs=0.01)
    assert seen.isfinite().all()


@each_mixer
def test_half_precision_keeps_amplitude_and_mean(mixer):
    layout = layout_of()
    operator, now = operator_of(layout, mixer=mixer).float(), states(layout).float()
    told = given(layout)
    told = Given(told.parameters.float(), told.dt.float())
    exact = operator(now, told, "a")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = operator(now, told, "a")
    assert rough.dtype == torch.float32
    change = exact - now[:, -1]
    assert 0 < (rough - exact).norm() < 0.03 * change.norm()
    drift = amplitudes(rough, layout).mean - amplitudes(now[:, -1], layout).mean
    assert drift[:, 0].abs().max() < 1e-6


def test_the_config_chooses_the_operator():
    layout = layout_of(latent_dim=2, points_per_token=1)
    latent = build_operator(LatentOperatorConfig(width=8, heads=2), {"a": layout})
    assert isinstance(latent, LatentOperator)
    field = build_operator(FieldOperatorConfig(kind="cosine_fno", modes=4), {"a": layout})
    assert isinstance(field, FieldOperator)
