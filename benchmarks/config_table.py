"""What every shipped config costs: the table of docs/configs.md.

Models are built for data of the published size, of which none has to be there. Time is that of
`ups train --dry-run`'s probe on one thread; where one step would take minutes, of a smaller batch,
times how much smaller it is; presets for GPUs are counted and not timed.

    python benchmarks/config_table.py [CONFIG ...]
"""

from __future__ import annotations

import math
import statistics
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from _imagined import imagined
from torch._subclasses.fake_tensor import FakeTensorMode

from ups import paths, registry
from ups.config.loading import load_experiment
from ups.config.schema import Experiment
from ups.config.stages import StageName
from ups.models.flops import count_flops, num_parameters
from ups.models.layout import Given
from ups.models.operator import build_operator
from ups.training.building import layout_of, new_codec
from ups.training.curriculum import spans, steps_of
from ups.training.probe import Cost, cost_of
from ups.training.session import Session, TaskData

A100_FLOPS = 0.35 * 312e12
"""35 % of an A100's bfloat16 peak."""
LAUNCHING = 0.015
"""Seconds that the kernels of a step take to be launched, which is what small models wait for."""
LARGEST_STEP = 2e10
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def session_of(experiment: Experiment) -> Session:
    """The experiment on stores without data."""
    tasks = []
    for config in experiment.data.tasks:
        card = registry.load_card(config.dataset)
        tasks.append(TaskData(config, card, imagined(card, config.version)))
    return Session(experiment, tuple(tasks), torch.device("cpu"))


def cost(path: Path, stage: StageName) -> Cost:
    """The probe's answer, of a batch that this machine can do."""

    def with_batch(size: int) -> Cost:
        changes = [f"stages.{stage}.batch_size={size}", f"stages.{stage}.accumulate=1"]
        return cost_of(session_of(load_experiment(path, changes)), stage)

    config = getattr(load_experiment(path).stages, stage)
    one = with_batch(1)
    fits = int(LARGEST_STEP // max(one.flops_per_step, 1))
    size = max(1, min(config.batch_size, fits))
    found = with_batch(size) if size > 1 else one
    more = config.batch_size / size
    steps = cost_steps(path, stage)
    seconds = found.seconds / max(found.steps, 1) * steps * more
    return replace(
        found, steps=steps, flops_per_step=round(found.flops_per_step * more), seconds=seconds
    )


def cost_steps(path: Path, stage: StageName) -> int:
    """Optimizer steps on 512 trajectories; the batch size decides where epochs are given."""
    experiment = load_experiment(path)
    session, config = session_of(experiment), getattr(experiment.stages, stage)
    frames = sum(len(task.store.split("train")) * len(task.frames) for task in session.tasks)
    return steps_of(config, frames)


def on_paper(session: Session) -> Cost:
    """The operator stage of a model that a CPU is too slow for: counted, nothing computed."""
    experiment, config = session.experiment, session.experiment.stages.operator
    layouts = {task.name: layout_of(task, new_codec(session, task)) for task in session.tasks}
    with FakeTensorMode(allow_non_fake_inputs=True):
        operator = build_operator(experiment.operator, layouts)
        once = statistics.mean(
            count_flops(
                operator,
                torch.zeros(1, 1, layout.num_tokens, layout.latent_dim),
                Given(torch.zeros(1, layout.num_parameters), torch.ones(1)),
                name,
            )
            for name, layout in layouts.items()
        )
    phases = spans(config, 1)
    steps = phases[-1].end
    unrolled = sum((one.end - one.start) * (one.phase.unroll or 1) for one in phases) / steps
    again = getattr(experiment.operator, "activation_checkpointing", False)
    flops = round((3 + again) * once * config.batch_size * unrolled)
    return Cost("operator", num_parameters(operator), steps, flops, 0, math.nan)


def row(path: Path) -> str:
    experiment = load_experiment(path)
    session = session_of(experiment)
    tokens = []
    for task in session.tasks:
        codec = new_codec(session, task)
        size = f"{' x '.join(map(str, codec.anchors))} x {codec.latent_dim}"
        tokens.append(size if size not in tokens else "")
    large = experiment.stages.operator.amp != "none"
    found = [
        on_paper(session) if large and stage == "operator" else cost(path, stage)
        for stage in session.stages
    ]
    last = found[1]  # of the stages, the one whose model everything else is judged by
    seconds = sum(one.seconds for one in found)
    on_gpu = sum(max(one.flops_per_step / A100_FLOPS, LAUNCHING) * one.steps for one in found)
    cells = [
        f"`{path.name}`", ", ".join(filter(None, tokens)), f"{last.parameters / 1e3:,.0f} k",
        number_text(last.flops_per_step / 1e9), f"{last.steps:,}", time_text(seconds),
        time_text(on_gpu),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def number_text(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def time_text(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    size, unit = next((one for one in UNITS if seconds >= one[0]), UNITS[-1])
    return (
        f"{seconds / size:.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    )


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    shipped = sorted(paths.config_dirs()[0].glob("*.yaml"))
    print("| file | tokens x dim | parameters | GFLOP per step | steps | CPU | GPU |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for path in shipped:
        if (path.stem in names) if names else not path.stem.startswith("base_"):
            print(row(path), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
