"""Generative stages on problems whose answer is known: a Gaussian residual, a linear solution."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ups.config.models import PriorConfig, ResidualConfig
from ups.config.stages import (
    ConsistencyStageConfig,
    DiffResidualStageConfig,
    SteadyPriorStageConfig,
)
from ups.errors import ConfigError
from ups.models.corrector import ResidualModel
from ups.models.flow_map import FlowMap
from ups.models.layout import Given, TokenLayout
from ups.models.normalisation import amplitudes, without_mean
from ups.models.steady import SteadyPrior
from ups.training.stages.consistency import ConsistencyStage, draw_jumps
from ups.training.stages.diff_residual import DiffResidualStage
from ups.training.stages.steady import SteadyPriorStage
from ups.training.tasks import LatentTask, TaskMixture

LAYOUT = TokenLayout(
    anchors=(8,), periodic=(True,), latent_dim=2, num_fields=1, separable=True, points_per_token=2,
    conserved=(True,), num_parameters=1, dt=0.1,
)  # fmt: skip
STEADY = TokenLayout(
    anchors=(8,), periodic=(True,), latent_dim=2, num_fields=1, separable=True, points_per_token=2,
    conserved=(False,), num_parameters=1, dt=None, context_dim=2,
)  # fmt: skip
NETWORK = {"width": 16, "depth": 1, "mixer": "conv", "kernel_size": 3, "mlp": "mlp"}
DRIFT, NOISE = 0.3, 0.2
TRAINING = {"batch_size": 64}


class ToyTask(LatentTask):
    """Tokens in memory; a decoded field is the tokens one after the other."""

    def __init__(self, tokens, layout, contexts=None, name="toy"):
        self.data = SimpleNamespace(name=name, stride=1, store=SimpleNamespace(
            num_frames=tokens["train"].shape[1], statistics={"mean": np.zeros(1)}),
            frames=range(tokens["train"].shape[1]))  # fmt: skip
        self.layout, self.device = layout, torch.device("cpu")
        self.frames, self.contexts = tokens, contexts

    def num_trajectories(self, split):
        return len(self.frames[split])

    def windows(self, split, rows, starts, length, stride=None):
        times = np.maximum(starts[:, None] + np.arange(length) * (stride or 1), 0)
        return self.frames[split][rows[:, None], times]

    def given(self, split, rows, stride=None):
        context = None if self.contexts is None else self.contexts[split][rows]
        return Given(torch.zeros(len(rows), 1), torch.full((len(rows),), 0.1), context)

    def decode(self, tokens, split, rows, frames):
        return list(tokens.flatten(-2)[..., None])

    def reference(self, split, rows, frames):
        return self.decode(self.frames[split][rows][:, frames], split, rows, frames)


class Shift(nn.Module):
    """The operator: the state moves on by one token and decays."""

    history = 1

    def forward(self, history, given, task):
        return 0.9 * history[:, -1].roll(1, 1)


def gaussian_task(name="toy", seed=0, drift=DRIFT):
    """What the operator leaves over: a drift that it missed, and noise alike in two neighbours.

    Both are relative to the amplitude of the state and have no mean, as the layout says.
    """
    generator = torch.Generator().manual_seed(seed)

    def rolled(trajectories, frames):
        states = [torch.randn(trajectories, 8, 2, generator=generator)]
        for _ in range(frames - 1):
            noise = torch.randn(trajectories, 8, 2, generator=generator)
            noise = (noise + noise.roll(1, 1)) / math.sqrt(2)
            amplitude = amplitudes(states[-1], LAYOUT).amplitude[:, None]
            residual = drift * states[-1].roll(-1, 1) + NOISE * amplitude * noise
            step = Shift()(states[-1][:, None], None, "")
            states.append(step + without_mean(residual, LAYOUT))
        return torch.stack(states, 1)

    return ToyTask({"train": rolled(256, 5), "valid": rolled(16, 5)}, LAYOUT, name=name)


def trained(stage, steps, lr=2e-2):
    """Optimizer steps with a learning rate that falls to zero; the losses."""
    optimizer = torch.optim.AdamW(stage.trainable.parameters(), lr=lr)
    stage.trainable.train()
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        loss = torch.stack(list(stage.losses(stage.batch(step, 0), step / steps).values())).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    stage.trainable.eval()
    return losses


def residual_stage(task, steps=150, **options):
    torch.manual_seed(0)
    config = DiffResidualStageConfig(steps=steps, early_bias=1.0, **(TRAINING | options))
    mixture = TaskMixture([task])
    layouts = {task.name: task.layout}
    network = ResidualConfig(**NETWORK, objective=config.objective, sampling_steps=8)
    return DiffResidualStage(
        config, mixture, Shift(), ResidualModel(network, layouts), torch.device("cpu"), 0, 1, dict
    )


def student_stage(teacher, task, steps=200, **options):
    config = ConsistencyStageConfig(
        steps=steps, early_bias=1.0, teacher_steps=8, **(TRAINING | options)
    )
    student = FlowMap.from_teacher(teacher, config.student_steps)
    return ConsistencyStage(
        config, TaskMixture([task]), Shift(), teacher, student, torch.device("cpu"), 0, 1, dict
    )


def linear_task(name="toy", seed=0):
    """The solution is a linear map of the context, across neighbours and channels."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.tensor([[1.0, 0.5], [-0.2, 0.1]])

    def solved(number):
        context = torch.randn(number, 8, 2, generator=generator)
        smooth = context + 0.5 * (context.roll(1, 1) + context.roll(-1, 1))
        return context, (3 + smooth @ mixing)[:, None]

    contexts, solutions = zip(solved(512), solved(64), strict=True)
    splits = ("train", "valid")
    return ToyTask(
        dict(zip(splits, solutions, strict=True)), STEADY,
        dict(zip(splits, contexts, strict=True)), name=name,
    )  # fmt: skip


def steady_stage(task, steps=300, **options):
    torch.manual_seed(0)
    config = SteadyPriorStageConfig(steps=steps, **(TRAINING | options))
    network = PriorConfig(
        **NETWORK, refinement_steps=config.refinement_steps, smallest_noise=config.smallest_noise
    )
    prior = SteadyPrior(network, {task.name: task.layout})
    return SteadyPriorStage(config, TaskMixture([task]), prior, torch.device("cpu"), 0, dict)


@pytest.mark.parametrize("objective", ["flow", "diffusion"])
def test_a_residual_of_known_law_is_learned_calibrated_and_distilled_into_one_step(objective):
    task = gaussian_task()
    stage = residual_stage(task, 100, objective=objective)
    before = stage.validate()
    trained(stage, 100)
    after = stage.validate()
    assert after["valid_mae_deterministic"] == before["valid_mae_deterministic"]
    assert after["valid_crps"] < 0.35 * after["valid_mae_deterministic"]
    assert after["valid_crps"] < 0.5 * before["valid_crps"]
    assert after["valid_spread_skill"] == pytest.approx(1, abs=0.1)
    assert after["valid_gain"] == 1
    assert after["valid_nrmse_point"] < 0.5 * after["valid_nrmse_deterministic"]
    assert after["valid_nrmse"] < 0.5 * after["valid_nrmse_deterministic"]

    student = student_stage(stage.residual, task, 80)
    untrained = student.validate()
    trained(student, 80)
    found = student.validate()
    assert found["valid_crps_teacher"] == pytest.approx(after["valid_crps"])
    assert untrained["valid_gain_kept"] < 0.95 < found["valid_gain_kept"] < 1.05
    assert found["valid_endpoint_error"] < 0.15 < 0.5 < untrained["valid_endpoint_error"]
    assert found["valid_spread_skill"] == pytest.approx(1, abs=0.1)


def test_where_the_operator_is_right_on_average_the_point_forecast_is_left_alone():
    """The residual is noise alone: any gain but zero would add the error of the mean."""
    task = gaussian_task(drift=0.0)
    stage = residual_stage(task)
    metrics = stage.validate()
    assert metrics["valid_gain"] == 0
    assert metrics["valid_nrmse_point"] == metrics["valid_nrmse_deterministic"]
    assert metrics["valid_crps"] < 0.75 * metrics["valid_mae_deterministic"]


def test_spread_is_corrected_where_samples_are_too_narrow():
    task = gaussian_task(drift=0.0)
    stage = residual_stage(task)
    stage.residual.port("toy").residual.mul_(0.4)
    narrow = stage._validation.scores(stage.residual, task, 1.0)
    metrics = stage.validate()
    assert narrow.spread_skill < 0.5
    assert metrics["valid_spread"] > 1.8
    assert metrics["valid_spread_skill"] == pytest.approx(1, abs=0.2)
    assert metrics["valid_crps"] < narrow.crps


def test_batches_depend_on_the_step_alone_and_add_up_over_micro_batches():
    task = gaussian_task()
    stage = residual_stage(task)
    one, two = stage.batch(3, 0), residual_stage(task).batch(3, 0)
    assert torch.equal(one.noise, two.noise)
    assert torch.equal(one.steps.target, two.steps.target)
    assert not torch.equal(one.noise, stage.batch(4, 0).noise)
    split = residual_stage(task, accumulate=2)
    parts = [split.batch(3, micro) for micro in (0, 1)]
    for name in ("noise", "tau"):
        joined = torch.cat([getattr(part, name) for part in parts]).flatten().sort().values
        assert torch.equal(joined, getattr(one, name).flatten().sort().values)


def test_a_teacher_trajectory_serves_several_updates_with_other_times_each():
    stage = student_stage(residual_stage(gaussian_task()).residual, gaussian_task())
    batches = [stage.batch(step, 0) for step in range(5)]
    assert batches[0].flights is batches[3].flights
    assert batches[0].flights is not batches[4].flights
    assert not torch.equal(batches[0].first, batches[1].first)
    again = student_stage(stage.teacher, gaussian_task()).batch(2, 0)
    assert torch.equal(again.flights.points, batches[2].flights.points)
    assert torch.equal(again.first, batches[2].first)


def test_a_student_with_the_teachers_weights_has_no_loss_on_jumps_of_length_zero():
    stage = student_stage(residual_stage(gaussian_task()).residual, gaussian_task())
    batch = stage.batch(0, 0)
    still = replace(batch, last=batch.first)
    assert stage.losses(still, 0.0)["jump"].item() < 1e-10
    assert stage.losses(batch, 0.0)["jump"].item() > 1e-4


def test_the_student_follows_a_known_straight_flow_exactly():
    """Along straight lines with constant velocity every mean velocity is that velocity."""
    stage = student_stage(residual_stage(gaussian_task()).residual, gaussian_task())
    batch = stage.batch(0, 0)
    slopes = torch.ones_like(batch.flights.slopes)
    steps = torch.arange(5.0)[:, None, None, None] / 4
    points = torch.zeros_like(batch.flights.points) + steps
    flights = replace(batch.flights, points=points, slopes=slopes)
    stage.student.forward = lambda *rest: torch.ones(64, 8, 2)
    assert stage.losses(replace(batch, flights=flights), 0.0)["jump"].item() == pytest.approx(0)


def test_jumps_grow_from_short_to_those_of_the_student():
    def lengths(progress, schedule="from_short", steps=1):
        random = np.random.default_rng(0)
        first, last = draw_jumps(random, 4000, 8, steps, progress, schedule)
        assert first.min() >= 0
        assert first.max() <= 7
        assert last.max() <= 8
        return last - first

    assert set(lengths(0.0)) == {0, 1}
    assert set(lengths(0.25)) == {0, 1, 2, 3, 4, 5}
    assert set(lengths(0.5)) == set(range(9))
    assert (lengths(1.0) == 8).mean() > 0.9
    assert (lengths(1.0, steps=2) == 4).mean() > 0.9
    assert set(lengths(0.0, "uniform")) == set(range(9))


def test_distillation_ends_at_the_target_loss_once_jumps_are_long():
    stage = student_stage(residual_stage(gaussian_task()).residual, gaussian_task(),
                          target_loss=0.1)  # fmt: skip
    stage.losses(stage.batch(0, 0), 0.0)
    assert not stage.is_reached(0.05)
    stage.losses(stage.batch(0, 0), 0.9)
    assert stage.is_reached(0.05)
    assert not stage.is_reached(0.2)
    never = student_stage(stage.teacher, gaussian_task())
    assert not never.is_reached(0.0)


def test_operator_and_teacher_stay_as_they_are():
    stage = student_stage(residual_stage(gaussian_task()).residual, gaussian_task())
    before = {name: value.clone() for name, value in stage.teacher.state_dict().items()}
    trained(stage, 2)
    assert all(torch.equal(value, before[name])
               for name, value in stage.teacher.state_dict().items())  # fmt: skip
    assert not any(weight.requires_grad for weight in stage.teacher.parameters())
    assert all(weight.requires_grad for weight in stage.student.parameters())


def test_several_tasks_are_reported_each_and_on_average():
    tasks = [gaussian_task("one"), gaussian_task("two", seed=1)]
    config = DiffResidualStageConfig(steps=2, **TRAINING)
    layouts = {task.name: task.layout for task in tasks}
    residual = ResidualModel(ResidualConfig(**NETWORK, sampling_steps=2), layouts)
    stage = DiffResidualStage(
        config, TaskMixture(tasks), Shift(), residual, torch.device("cpu"), 0, 1, dict
    )
    found = stage.validate()
    mean = (found["one/crps"] + found["two/crps"]) / 2
    assert found["valid_crps"] == pytest.approx(mean)
    assert {stage.batch(step, 0).steps.task.name for step in range(4)} == {"one", "two"}


def test_a_linear_steady_problem_is_solved():
    stage = steady_stage(linear_task(), 100)
    before = stage.validate()
    assert before["valid_nrmse"] > 0.3
    trained(stage, 100)
    after = stage.validate()
    assert after["valid_nrmse"] < 0.03
    used = int(after["valid_evaluations"])
    assert after["valid_nrmse"] == after[f"valid_nrmse_after_{used}"]
    assert after["valid_nrmse"] == min(after[f"valid_nrmse_after_{n}"] for n in range(1, 5))
    assert after["valid_nrmse_after_4"] < 0.06


def test_each_sample_of_a_steady_batch_trains_one_evaluation():
    stage = steady_stage(linear_task(), first_share=0.25)
    level = stage.batch(0, 0).level
    assert (level == 0).sum() == 16
    assert set(level.tolist()) == {0, 1, 2, 3}
    assert torch.equal(level, stage.batch(0, 0).level)
    alone = steady_stage(linear_task(), refinement_steps=1)
    assert set(alone.losses(alone.batch(0, 0), 0.0)) == {"prediction"}


def test_a_task_of_the_wrong_kind_is_refused():
    with pytest.raises(ConfigError, match="toy: a steady problem has no residual of a step"):
        residual_stage(linear_task())
    with pytest.raises(ConfigError, match="toy: steps in time"):
        steady_stage(gaussian_task())
