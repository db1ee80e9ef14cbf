"""Accuracy at equal CPU time: the tasks, the models, and one training in a process of its own.

As a script it is that process: it reads a `Job` as JSON from its argument, trains and judges with
one thread, and prints what came out as one line of JSON.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

VALIDATIONS = 5
PROBE_STEPS = (20, 60)


@dataclass(frozen=True)
class Task:
    """A dataset of the bars, how it is made, and how it is judged.

    Attributes:
        points, frames: Of the raw file along each axis and in time; None is the dataset's own.
        histories: Protocol -> frames given; the rollout goes on to the end.
        block_mean: Raw points along each axis that are averaged into one.
        config: Of `configs/`, what ups' own model is trained with.
        ours: Overrides of ups' own model.
        shared: Overrides of every model.
        baselines: Name -> overrides of the operator.
        bar: Largest ratio of ups' nRMSE to the best FNO's without the wrapper.
    """

    name: str
    dataset: str
    parameters: Mapping[str, float]
    trajectories: int
    bar: float
    points: int
    frames: int | None = None
    stride_x: int = 1
    stride_t: int = 1
    block_mean: int = 1
    histories: Mapping[str, int] = field(default_factory=lambda: {"ic": 1, "p10": 10})
    config: str = "base"
    ours: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


_LINE = {
    "fno": {"kind": "fno", "width": 32, "modes": 16},
    "own_fno": {"kind": "cosine_fno", "width": 32, "modes": 16},
    "own_fno+wrapper": {"kind": "cosine_fno", "width": 32, "modes": 16, "wrapper": True},
}
_COARSE = {"kind": "cosine_fno", "width": 24, "modes": 16, "coarsen": 2}
_NO_FLUX = {
    "fno": {"kind": "fno", "width": 24, "modes": 12, "padding": 0.125},
    "cosine_fno": {"kind": "cosine_fno", "width": 24, "modes": 16},
    "cosine_fno_coarse": _COARSE,
    "cosine_fno_coarse_xy": {**_COARSE, "coordinates": True},
}
_WALLS = {
    "fno": {"kind": "fno", "width": 24, "modes": 12, "padding": 0.125, "coordinates": True},
    "sine_fno": {"kind": "cosine_fno", "width": 24, "modes": 16},
    "sine_fno_xy": {"kind": "cosine_fno", "width": 24, "modes": 16, "coordinates": True},
}
_DIHEDRAL = "data.augment=[reflection,rotation]"
_MOVED = ("data.augment=[shift,reflection]",)
_SMALL_BATCHES = (
    "stages.codec.steps=50", "stages.operator.batch_size=32",
    "stages.operator.optimizer={kind: muon_hybrid, lr: 8.0e-3}",
)  # fmt: skip
_FEW = ("stages.codec.steps=50",)
_FINE = ("codec.patch_size=4", "operator.width=48", *_SMALL_BATCHES)
_FINER = ("codec.patch_size=8", "operator.width=64", *_SMALL_BATCHES)

TASKS = {
    task.name: task
    for task in (
        # On 128 points fronts at nu = 0.001 lie between points, which limits every model alike.
        Task("burgers_nu0.001_128", "burgers1d", {"nu": 0.001}, 1800, 0.5, points=256, frames=41,
             stride_x=2, config="burgers1d", ours=_FINE, shared=_MOVED, baselines=_LINE),
        Task("burgers_nu0.001_256", "burgers1d", {"nu": 0.001}, 1800, 0.5, points=256, frames=41,
             config="burgers1d", ours=_FINER, shared=_MOVED, baselines=_LINE),
        Task("burgers_nu0.01_256", "burgers1d", {"nu": 0.01}, 1800, 0.5, points=256, frames=41,
             config="burgers1d", ours=_FEW, baselines=_LINE),
        Task("advection_beta0.4", "advection1d", {"beta": 0.4}, 1800, 0.5, points=256, frames=41,
             stride_x=2, config="advection1d", ours=_FINE, shared=("data.augment=[shift]",),
             baselines=_LINE),
        # Frame 10 of the dataset is the given one: the noise before it is on no grid.
        Task("reaction_diffusion2d", "reaction_diffusion2d", {}, 64, 0.6, points=128,
             block_mean=2, stride_t=2, histories={"ic": 6}, config="reaction_diffusion2d",
             shared=("data.first_frame=5", _DIHEDRAL), baselines=_NO_FLUX),
        Task("darcy2d", "darcy2d", {"beta": 1.0}, 200, 0.5, points=64, histories={"steady": 1},
             config="darcy2d", shared=(_DIHEDRAL,), baselines=_WALLS),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """An optimizer of a baseline, with its learning rate."""

    optimizer: str
    lr: float

    @property
    def name(self) -> str:
        return f"{self.optimizer} {self.lr:g}"


CANDIDATES = (
    Candidate("adamw", 2e-3), Candidate("muon_hybrid", 4e-3), Candidate("muon_hybrid", 8e-3),
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One training: all that its process needs.

    Attributes:
        free_codec: Whether the codec is not counted: a baseline has none, its tokens are points.
    """

    config: str
    overrides: tuple[str, ...]
    stages: tuple[str, ...] | None
    histories: Mapping[str, int]
    free_codec: bool = False


def baseline_job(task: Task, model: str, candidate: Candidate, seed: int, quick: bool) -> Job:
    """A neural operator on the grid, in the same loop on the same windows."""
    operator = json.dumps({**task.baselines[model]})
    batch = 32 if len(_axes(task)) == 1 else 16
    overrides = [
        f"operator={operator}", "codec={kind: grid, patch_size: 1}", "stages.codec.steps=1",
        f"stages.operator.batch_size={batch}",
        f"stages.operator.optimizer={{kind: {candidate.optimizer}, lr: {candidate.lr}}}",
    ]  # fmt: skip
    return Job("base", (*_common(task, seed, quick), *overrides), ("codec", "operator"),
               task.histories, free_codec=True)  # fmt: skip


def own_job(task: Task, seed: int, quick: bool) -> Job:
    """The model that `ups train` makes of this dataset."""
    return Job(task.config, (*_common(task, seed, quick), *task.ours), None, task.histories)


def _axes(task: Task) -> tuple[str, ...]:
    return ("x", "y") if task.dataset.endswith("2d") else ("x",)


def _common(task: Task, seed: int, quick: bool) -> tuple[str, ...]:
    given = next(iter(task.histories.values()))
    limits = ("stages.operator.validation_trajectories=4",) if quick else ()
    return (
        "device=cpu", "threads=1", f"seed={seed}",
        f"data={{dataset: {task.dataset}, version: {task.name}}}",
        f"evaluation.history={given}", *task.shared, *limits,
    )  # fmt: skip


def prepare(task: Task, home: Path, *, trajectories: int | None = None) -> None:
    """Generate and convert the task's data below `home`, unless that was done."""
    os.environ["UPS_HOME"] = str(home)
    from ups import Recipe, convert, generate, load_card
    from ups.data.versions import list_versions

    if task.name in list_versions(task.dataset):
        return
    card = load_card(task.dataset)
    folder = home / "raw" / task.name
    folder.mkdir(parents=True, exist_ok=True)
    raw = generate(
        card, parameters=task.parameters, num_trajectories=trajectories or task.trajectories,
        seed=0, out_dir=folder, points=task.points, frames=task.frames, workers=1,
    )  # fmt: skip
    if task.block_mean > 1:
        raw = _averaged(raw, folder / "coarse", task.block_mean)
    recipe = Recipe(stride_x=task.stride_x, stride_t=task.stride_t)
    convert(card, [raw], recipe=recipe, version=task.name, workers=1)


def _averaged(raw: Path, folder: Path, block: int) -> Path:
    """The raw file of two-dimensional reaction-diffusion with blocks of cells averaged."""
    import h5py

    folder.mkdir(exist_ok=True)
    with h5py.File(raw) as fine, h5py.File(folder / raw.name, "w") as coarse:
        for name, group in fine.items():
            data = group["data"][...]
            frames, x, y, fields = data.shape
            blocks = data.reshape(frames, x // block, block, y // block, block, fields)
            coarse[f"{name}/data"] = blocks.mean((2, 4))
            coarse[f"{name}/grid/t"] = group["grid/t"][...]
            for axis in ("x", "y"):
                points = group[f"grid/{axis}"][...]
                coarse[f"{name}/grid/{axis}"] = points.reshape(-1, block).mean(1)
    return folder / raw.name


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a run of n steps: fixed + n * step; codec, cache, validation included."""

    fixed: float
    step: float

    def steps_in(self, budget: float) -> int:
        """Steps that fill a budget; the fixed part must leave half of it."""
        if self.fixed > budget / 2:
            raise SystemExit(
                f"{self.fixed:.0f} CPU s go before the first step: raise --budget above "
                f"{2 * self.fixed:.0f}"
            )
        return max(int((budget - self.fixed) / self.step), 1)


def probe(job: Job, home: Path) -> Cost:
    """The cost of a job, from two short runs."""
    few, more = PROBE_STEPS
    first, second = (run(job, home, steps, judge=False)["cpu_s"] for steps in PROBE_STEPS)
    step = max(second - first, 1e-3) / (more - few)
    return Cost(max(first - few * step, 0.0), step)


def run(job: Job, home: Path, steps: int, *, judge: bool = True) -> dict[str, Any]:
    """Train a job for `steps` in a process with one thread, in a home of its own.

    Its data are those of `home`; cache, runs and checkpoints are made anew and thrown away.
    """
    with tempfile.TemporaryDirectory(prefix="run-", dir=home) as folder:
        (Path(folder) / "data").symlink_to(home / "data", target_is_directory=True)
        environment = {**os.environ, "UPS_HOME": folder, "OMP_NUM_THREADS": "1"}
        content = json.dumps({**asdict(job), "steps": steps, "judge": judge})
        done = subprocess.run(
            [sys.executable, __file__, content], env=environment, capture_output=True, text=True
        )
    if done.returncode:
        raise SystemExit(f"{job.config} {' '.join(job.overrides)}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def cpu_seconds() -> Iterator[list[float]]:
    """CPU seconds of this process and its finished children, appended at the end."""
    found: list[float] = []
    start = os.times()
    yield found
    end = os.times()
    found.append(sum(end[:4]) - sum(start[:4]))


def _work(content: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    import neuralop.models  # noqa: F401  (its import is not training)

    from ups import load_experiment
    from ups.config.schema import EvaluationConfig
    from ups.evaluation.context import open_context
    from ups.evaluation.evaluate import evaluate
    from ups.runs import checkpoint_path
    from ups.training.latents import build_caches
    from ups.training.run import train
    from ups.training.session import open_session

    steps = content["steps"]
    every = math.ceil(steps / VALIDATIONS)
    experiment = load_experiment(content["config"], content["overrides"])
    last = (content["stages"] or open_session(experiment).stages)[-1]
    warm_up = min(getattr(experiment.stages, last).schedule.warmup_steps, steps // 20)
    experiment = load_experiment(content["config"], [
        *content["overrides"], f"stages.{last}.steps={steps}",
        f"stages.{last}.schedule.warmup_steps={warm_up}",
        f"stages.{last}.validate_every={every}", f"stages.{last}.checkpoint_every={steps}",
    ])  # fmt: skip
    stages = content["stages"]
    if content["free_codec"]:
        stages = ("operator",)
        codec = train(experiment, ("codec",))
        build_caches(open_session(experiment), checkpoint_path(codec, "codec"))
    with cpu_seconds() as seconds:
        folder = train(experiment, stages)
    found: dict[str, Any] = {"cpu_s": round(seconds[0], 2), "steps": steps}
    for protocol, history in content["histories"].items() if content["judge"] else ():
        context = open_context(folder, settings=EvaluationConfig(history=history))
        report = evaluate(context).report
        row, trivial = report.row("model"), report.rows[1]
        assert row is not None
        found[protocol] = [row.value("nrmse", "mean"), row.value("nrmse", "median")]
        found[f"{protocol}_trivial"] = trivial.value("nrmse")
        found["valid"] = report.run["valid_nrmse"]
        found["parameters"] = report.run["num_parameters"]
        found["best_step"] = report.run["step"]
    return found


if __name__ == "__main__":
    print(json.dumps(_work(json.loads(sys.argv[1]))))
