"""The residual model and its flow map: units, conservation, and where they start from."""

from __future__ import annotations

import pytest
import torch

from ups.config.models import ResidualConfig
from ups.models.corrector import ResidualModel
from ups.models.flow import normal, seeded
from ups.models.flow_map import FlowMap
from ups.models.layout import Given, TokenLayout
from ups.models.normalisation import amplitudes, per_channel

LAYOUTS = {
    "line": TokenLayout(
        anchors=(6,), periodic=(True,), latent_dim=4, num_fields=2, separable=True,
        points_per_token=2, conserved=(True, False), num_parameters=1, dt=0.1,
    ),
    "plane": TokenLayout(
        anchors=(4, 3), periodic=(False, False), latent_dim=3, num_fields=1, separable=False,
        points_per_token=4, conserved=(False,), num_parameters=2, dt=1.0, context_dim=2,
    ),
}  # fmt: skip
NETWORK = {"width": 8, "depth": 1, "mixer": "conv", "kernel_size": 3, "mlp": "mlp"}
each_task = pytest.mark.parametrize("task", LAYOUTS)
each_objective = pytest.mark.parametrize("objective", ["flow", "diffusion"])


def drawn(task, batch=5, seed=0):
    layout = LAYOUTS[task]
    return normal((batch, layout.num_tokens, layout.latent_dim), seeded(seed), "cpu")


def given(task, batch=5):
    layout = LAYOUTS[task]
    context = None
    if layout.context_dim:
        context = normal((batch, layout.num_tokens, layout.context_dim), seeded(9), "cpu")
    return Given(
        torch.zeros(batch, layout.num_parameters), torch.full((batch,), layout.dt), context
    )


def built(kind=ResidualModel, objective="flow", *, random=True, **options):
    torch.manual_seed(0)
    model = kind(ResidualConfig(**NETWORK, objective=objective, **options), LAYOUTS)
    if random:
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return model.eval()


def arguments(task, batch=5):
    previous = drawn(task, batch)
    return previous + 0.1 * drawn(task, batch, 1), previous, given(task, batch), task


def mean_of_conserved(tokens, task):
    layout = LAYOUTS[task]
    means = tokens[..., : layout.num_fields].mean(1)
    return means[:, torch.tensor(layout.conserved)].abs().max() if any(layout.conserved) else 0


@each_task
@each_objective
def test_before_training_samples_are_white_noise_of_the_fitted_size(task, objective):
    model = built(objective=objective, random=False, sampling_steps=32)
    prediction, previous, told, _ = arguments(task, 400)
    size = torch.tensor([0.5, 1.0, 0.1, 0.2])[: LAYOUTS[task].latent_dim]
    unit = per_channel(amplitudes(previous, LAYOUTS[task]).amplitude, LAYOUTS[task])
    target = prediction + size * unit * drawn(task, 400, 2)
    model.fit_scales(task, target, prediction, previous, told)
    sample = model.sample(prediction, previous, told, task, drawn(task, 400, 3))
    found = (sample / unit).std((0, 1))
    if task == "line":  # of six tokens the first channel's mean is taken out, twice
        size[0] *= 5 / 6
    torch.testing.assert_close(found, size, rtol=0.05, atol=0)
    torch.testing.assert_close(
        model.mean(prediction, previous, told, task), torch.zeros_like(sample)
    )


@each_objective
@pytest.mark.parametrize("kind", [ResidualModel, FlowMap])
def test_conserved_means_are_kept_by_any_weights_and_others_are_not(kind, objective):
    model = built(kind, objective)
    sample = model.sample(*arguments("line"), drawn("line", seed=3))
    mean = model.mean(*arguments("line"))
    for found in (sample, mean):
        assert mean_of_conserved(found, "line") < 1e-5
        assert found[..., 1].mean(1).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [ResidualModel, FlowMap])
def test_residuals_scale_with_the_amplitude_of_the_state(kind):
    """As long as what the network is told stays the same: here it is told nothing."""
    model = built(kind)
    torch.nn.init.zeros_(model.conditioner.numbers["plane"].weight)
    prediction, previous, told, task = arguments("plane")
    noise = drawn("plane", seed=3)
    once = model.sample(prediction, previous, told, task, noise)
    doubled = model.sample(2 * prediction, 2 * previous, told, task, noise)
    torch.testing.assert_close(doubled, 2 * once, rtol=1e-4, atol=1e-5)


@each_task
def test_a_sample_depends_on_its_own_row_alone_and_on_its_noise(task):
    model = built()
    prediction, previous, told, _ = arguments(task)
    noise = drawn(task, seed=3)
    together = model.sample(prediction, previous, told, task, noise)
    context = None if told.context is None else told.context[1:2]
    alone = Given(told.parameters[1:2], told.dt[1:2], context)
    found = model.sample(prediction[1:2], previous[1:2], alone, task, noise[1:2])
    torch.testing.assert_close(found, together[1:2], rtol=1e-4, atol=1e-5)
    assert not torch.equal(model.sample(prediction, previous, told, task, -noise), together)


@pytest.mark.parametrize("name", ["prediction", "previous", "context"])
def test_everything_told_changes_the_residual(name):
    model = built()
    prediction, previous, told, task = arguments("plane")
    first = model.mean(prediction, previous, told, task)
    if name == "context":
        told = Given(told.parameters, told.dt, told.context + 1)
    elif name == "prediction":
        prediction = prediction + drawn("plane", seed=4)
    else:
        previous = previous + drawn("plane", seed=4)
    assert (model.mean(prediction, previous, told, task) - first).abs().max() > 1e-3


def test_correction_is_a_sample_with_a_generator_and_a_share_of_the_mean_without():
    model = built()
    stated = arguments("line")
    noise = normal(tuple(stated[0].shape), seeded(5), "cpu")
    assert torch.equal(model.correction(*stated, seeded(5)), model.sample(*stated, noise))
    assert torch.equal(model.correction(*stated), torch.zeros_like(noise))
    model.port("line").gain.fill_(0.5)
    torch.testing.assert_close(model.correction(*stated), 0.5 * model.mean(*stated))


@pytest.mark.parametrize("kind", [ResidualModel, FlowMap])
def test_spread_moves_samples_about_their_mean(kind):
    model = built(kind)
    stated, noise = arguments("line"), drawn("line", seed=3)
    mean, once = model.mean(*stated), model.sample(*stated, noise)
    model.port("line").spread.fill_(3.0)
    torch.testing.assert_close(
        model.sample(*stated, noise) - mean, 3 * (once - mean), rtol=1e-3, atol=1e-4
    )
    model.port("line").spread.fill_(0.0)
    torch.testing.assert_close(model.sample(*stated, noise), mean)


def test_steps_count_evaluations():
    model = built(sampling_steps=6)
    calls = []
    model.backbone.register_forward_hook(lambda *rest: calls.append(1))
    for steps, expected in ((None, 6), (1, 1), (2, 2), (8, 8)):
        calls.clear()
        model.sample(*arguments("line"), drawn("line"), steps)
        assert len(calls) == expected


def test_forward_is_the_velocity_that_is_sampled_with():
    """One Euler step from noise adds the velocity at tau = 0."""
    model = built(objective="diffusion")
    stated = arguments("plane")
    noise = drawn("plane", seed=3)
    situation = model.situation(*stated)
    velocity = model(noise, torch.zeros(5), *stated)
    torch.testing.assert_close(model.sample(*stated, noise, 1), (noise + velocity) * situation.unit)


@each_objective
def test_a_student_starts_as_its_teacher_whatever_the_jump(objective):
    teacher = built(objective=objective)
    teacher.port("line").spread.fill_(1.5)
    student = FlowMap.from_teacher(teacher, steps=2).eval()
    stated, x, tau = arguments("line"), drawn("line", seed=3), torch.linspace(0, 0.9, 5)
    expected = teacher(x, tau, *stated)
    for end in (None, tau, torch.ones(5)):
        assert torch.equal(student(x, tau, *stated, end=end), expected)
    assert student.config.sampling_steps == 2
    assert student.port("line").spread == 1.5
    jump = [w for name, w in student.named_parameters() if name.startswith("conditioner.extra.1.")]
    assert jump
    assert all(weight.requires_grad for weight in jump)


def test_a_map_is_the_identity_for_equal_times_and_adds_its_slope_for_others():
    student = built(FlowMap)
    stated, x, tau = arguments("line"), drawn("line", seed=3), torch.linspace(0, 0.5, 5)
    situation = student.situation(*stated)
    assert torch.equal(student.jumped(x, tau, tau, situation), x)
    slope = student(x, tau, *stated, end=tau + 0.25)
    torch.testing.assert_close(student.jumped(x, tau, tau + 0.25, situation), x + 0.25 * slope)
    assert not torch.equal(slope, student(x, tau, *stated, end=tau))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_student_jumps_in_as_many_steps_as_it_is_told(steps):
    student = built(FlowMap, sampling_steps=steps)
    calls = []
    student.backbone.register_forward_hook(lambda *rest: calls.append(1))
    student.sample(*arguments("line"), drawn("line"))
    assert len(calls) == steps


def test_weights_come_back_from_a_state():
    model = built(FlowMap)
    model.port("line").gain.fill_(0.25)
    other = built(FlowMap, random=False)
    other.load_state_dict(model.state_dict())
    stated, noise = arguments("line"), drawn("line", seed=3)
    assert torch.equal(other.sample(*stated, noise), model.sample(*stated, noise))
    assert other.port("line").gain == 0.25
