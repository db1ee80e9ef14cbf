"""What a stage costs, measured on a few steps with random tokens: no cache has to exist."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ups.checkpoint import Checkpoint
from ups.codec.coded import Codec
from ups.config.stages import OperatorStageConfig, StageName
from ups.data.store import TrajectoryStore
from ups.models.corrector import ResidualModel
from ups.models.flops import activation_bytes, count_flops, num_parameters
from ups.models.layout import Given
from ups.models.operator import build_operator
from ups.training.building import coded_task, layout_of, new_codec
from ups.training.optim import build_optimizer
from ups.training.protocol import Stage
from ups.training.session import Session
from ups.training.stages.build import codec_stage, stage_on
from ups.training.tasks import LatentTask

Array = npt.NDArray[Any]
_STEPS, _WARM_UP = 10, 2


@dataclass(frozen=True)
class Cost:
    """What one stage needs.

    Attributes:
        parameters: Trained in this stage.
        steps: Optimizer steps.
        flops_per_step: Floating-point operations of one, forward and backward.
        memory_bytes: Weights, gradients, optimizer state and what is kept between the passes.
        seconds: Wall time of all steps on this machine, without validation.
    """

    stage: str
    parameters: int
    steps: int
    flops_per_step: int
    memory_bytes: int
    seconds: float


class RandomTask(LatentTask):
    """A task whose tokens are random numbers of the right shape and of nearly steady size."""

    def windows(
        self, split: str, rows: Array, starts: Array, length: int, stride: int | None = None
    ) -> Tensor:
        generator = torch.Generator().manual_seed(length)
        shape = (len(rows), self.layout.num_tokens, self.layout.latent_dim)
        first = torch.randn(shape, generator=generator)
        changes = 0.1 * torch.randn((len(rows), length, *shape[1:]), generator=generator)
        return (first[:, None] + changes).to(self.device)

    def given(self, split: str, rows: Array, stride: int | None = None) -> Given:
        layout, count = self.layout, len(rows)
        context = None
        if layout.context_dim:
            context = torch.randn(count, layout.num_tokens, layout.context_dim).to(self.device)
        return Given(
            torch.zeros(count, layout.num_parameters, device=self.device),
            torch.full((count,), layout.dt or 1.0, device=self.device),
            context,
        )


def cost_of(session: Session, stage: StageName) -> Cost:
    """Build a stage on random tokens, take some steps, and reckon what all of them take.

    Unrolled steps are counted by their mean over the run.
    """
    torch.manual_seed(session.experiment.seed)
    codecs = {task.name: new_codec(session, task) for task in session.tasks}
    if stage == "codec":
        built: Stage = codec_stage(session, codecs)
        return _measure(session, built, 1.0)
    tasks = [random_task(session, name, codec) for name, codec in codecs.items()]
    built = stage_on(session, stage, tasks, _earlier(session, tasks, stage), _no_checkpoint)
    return _measure(session, built, _mean_unroll(session, built))


def random_task(session: Session, name: str, codec: Codec) -> RandomTask:
    data = session.task(name)
    coded: Any = coded_task(data, codec)
    return RandomTask(data, layout_of(data, codec), coded, None, session.device)


def _earlier(
    session: Session, tasks: Sequence[LatentTask], stage: StageName
) -> Mapping[str, nn.Module]:
    """Untrained modules in place of those that earlier stages would have made."""
    if stage not in ("diff_residual", "consistency_distill"):
        return {}
    experiment = session.experiment
    layouts = {task.name: task.layout for task in tasks}
    modules = {"operator": build_operator(experiment.operator, layouts).to(session.device)}
    if stage == "consistency_distill":
        built = stage_on(session, "diff_residual", tasks, modules, _no_checkpoint)
        assert isinstance(built.trainable, ResidualModel)
        modules["residual"] = built.trainable
    return modules


def _no_checkpoint(*args: Any, **modules: nn.Module) -> Checkpoint:
    raise AssertionError("a probe saves nothing")


def _mean_unroll(session: Session, stage: Stage) -> float:
    """Operator steps of the mean optimizer step, over those of the first."""
    config = stage.config
    if not isinstance(config, OperatorStageConfig) or session.is_steady:
        return 1.0
    marks = np.linspace(0, config.steps - 1, 100).astype(int)
    unrolled = [stage.unroll_at(int(mark)) for mark in marks]  # type: ignore[attr-defined]
    return float(np.mean(unrolled)) / unrolled[0]


def _measure(session: Session, stage: Stage, factor: float) -> Cost:
    module, config = stage.trainable, stage.config
    if not any(weight.requires_grad for weight in module.parameters()):
        return Cost(stage.name, 0, 0, 0, 0, 0.0)
    module.train()
    batches = [stage.batch(step, 0) for step in range(_STEPS + _WARM_UP)]
    optimizer = build_optimizer(module, config.optimizer)

    def loss(batch: Any) -> Tensor:
        return torch.stack(list(stage.losses(batch, 0.0).values())).sum()

    times = []
    for batch in batches:
        began = time.perf_counter()
        for _ in range(config.accumulate):
            (loss(batch) / config.accumulate).backward()
        optimizer.step()
        optimizer.zero_grad()
        if session.device.type == "cuda":
            torch.cuda.synchronize(session.device)
        times.append(time.perf_counter() - began)
    parameters = num_parameters(module)
    # Batches of several tasks differ in cost; those of one do not, but for the machine's hiccups.
    several = len(session.tasks) > 1
    counted, average = (batches, statistics.mean) if several else (batches[:1], statistics.median)
    flops = round(3 * config.accumulate * average([count_flops(loss, one) for one in counted]))
    kept = max(activation_bytes(_Losses(module, stage), one) for one in counted)
    seconds = factor * config.steps * average(times[_WARM_UP:])
    memory = 4 * parameters * (4 + bool(config.ema_decay)) + round(factor * kept)
    return Cost(stage.name, parameters, config.steps, round(factor * flops), memory, seconds)


class _Losses(nn.Module):
    """A stage's losses as a module, whose weights are not counted as activations."""

    def __init__(self, module: nn.Module, stage: Stage) -> None:
        super().__init__()
        self.module, self._stage = module, stage

    def forward(self, batch: Any) -> Tensor:
        return torch.stack(list(self._stage.losses(batch, 0.0).values())).sum()


def describe_data(session: Session) -> list[str]:
    """One line for each task: what there is to train on."""
    lines = []
    for task in session.tasks:
        store = task.store
        time_step = "steady" if task.dt is None else f"dt {task.dt:g}"
        what = (
            store.extent if isinstance(store, TrajectoryStore) else f"{store.kind}, {store.extent}"
        )
        lines.append(
            f"{store.name}: {len(store.split('train'))} training trajectories, "
            f"{store.num_frames} frames, {what}, {time_step}"
        )
    return lines
