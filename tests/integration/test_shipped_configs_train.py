"""Every shipped config trains: each stage of its order, a few steps, on little data.

Numbers are made smaller; kinds, mixers, architectures, losses, phases and stages are the config's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ups import checkpoint as checkpoints
from ups import paths, runs
from ups.config.loading import load_experiment
from ups.config.schema import Experiment
from ups.config.stages import STAGES
from ups.data.convert import convert
from ups.data.generate import generate
from ups.registry import DatasetCard, load_card
from ups.training.run import train
from ups.training.session import open_session

CONFIGS = [path for path in sorted(paths.config_dirs()[0].glob("*.yaml"))
           if not path.stem.startswith("base_") and path.stem != "base"]  # fmt: skip
POINTS = {1: 48, 2: 16, 3: 8}
"""By dimension: so that 16 and 24 anchors, and patches of 4 points, all have room."""
NODES = {"mesh": 150, "particles": 30}
FRAMES = 5
SMALL = [
    "steps=2", "epochs=null", "batch_size=4", "log_every=1", "validate_every=2",
    "checkpoint_every=2", "schedule.warmup_steps=1",
]  # fmt: skip
SMALL_CODEC = {"gate", "width", "anchors", "supernodes", "coefficients", "patch_size"}
SMALL_ENSEMBLES = ["ensemble=2", "validation_trajectories=2"]


@pytest.fixture(scope="module")
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets are made once, when a config first asks for them."""
    return tmp_path_factory.mktemp("shipped")


@pytest.fixture
def made(data_home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """made(key): a few trajectories of a dataset are there."""
    monkeypatch.setenv("UPS_HOME", str(data_home))

    def make(key: str) -> None:
        if not paths.data_dir(key).exists():
            card = load_card(key)
            if card.generator is None:
                _convert_waves(card)
            else:
                _generate(card)

    return make


def _generate(card: DatasetCard) -> None:
    assert card.generator is not None
    kind = card.discretisation.kind
    count = 10 if kind == "grid" else 4
    raw = generate(
        card, parameters=card.generator.parameters, num_trajectories=count, seed=0,
        out_dir=paths.raw_dir(card.key), points=NODES.get(kind, POINTS[card.num_dims]),
        frames=None if card.time.step is None else FRAMES,
    )  # fmt: skip
    convert(card, [raw])


def _convert_waves(card: DatasetCard) -> None:
    """Positive standing waves under a card without a generator, by way of its converter.

    The publishers' layouts have tests of their own: here every field is an array under its name.
    """
    space = (POINTS[card.num_dims],) * card.num_dims
    random = np.random.default_rng(0)
    axes = np.meshgrid(*(np.linspace(0, np.pi, n) for n in space), indexing="ij")

    def waves(*leading: int) -> np.ndarray:
        shape = (*leading, *(1,) * len(space))
        parts = [np.cos(random.integers(1, 4, shape) * axis) for axis in axes]
        return (2 + random.uniform(0.5, 1, shape) * np.prod(parts, 0)).astype(np.float32)

    path = paths.raw_dir(card.key) / "waves.hdf5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for field in card.fields:
            file[field.name] = waves(20, FRAMES)
        for given in card.inputs:
            file[given.name] = waves(20)
        file["t-coordinate"] = np.arange(FRAMES) * card.time.step
        for axis, n in zip(card.discretisation.axes, space, strict=True):
            low, high = axis.bounds
            file[f"{axis.name}-coordinate"] = low + (np.arange(n) + 0.5) * (high - low) / n
        for parameter in card.parameters:
            file.attrs[parameter.attribute or parameter.name] = parameter.range[0]
    convert(_in_plain_layout(card), [path])


def _in_plain_layout(card: DatasetCard) -> DatasetCard:
    content = card.model_dump(mode="json")
    content["source"] |= {"layout": "pdebench_fields", "files": [], "pattern": None}
    content["splits"] |= {"test": "last_tenth", "valid": "drawn", "kept_apart_by": "trajectory"}
    for spec in [*content["fields"], *content["inputs"], *content["discretisation"]["axes"]]:
        spec["raw"] = None
    return DatasetCard.model_validate(content)


def reduced(path: Path) -> Experiment:
    """The config with everything small that says how much, and nothing else changed."""
    found = load_experiment(path)
    changes = [f"stages.{stage}.{change}" for stage in STAGES for change in SMALL]
    changes += [
        f"stages.{stage}.{change}"
        for stage in ("diff_residual", "consistency_distill") for change in SMALL_ENSEMBLES
    ]  # fmt: skip
    changes += [
        "stages.diff_residual.sampling_steps=2", "stages.consistency_distill.teacher_steps=2",
        "stages.operator.validation_trajectories=2", "operator.width=16", "operator.depth=2",
        "data.version=latest", "data.first_frame=0", "data.last_frame=null",
        "evaluation.history=1",
    ]  # fmt: skip
    if found.operator.kind == "latent":
        changes += ["operator.heads=2"]
    if found.stages.operator.losses.query_points:
        changes += ["stages.operator.losses.query_points=64"]
    phases = [f"{{steps: 1, unroll: {p.unroll}, mixing: {p.mixing or 'null'}}}"
              for p in found.stages.operator.curriculum]  # fmt: skip
    changes += [f"stages.operator.curriculum=[{', '.join(phases)}]"] if phases else []
    changes += _small_codecs(found)
    return load_experiment(path, changes)


def _small_codecs(experiment: Experiment) -> list[str]:
    changes = []
    named = {f"codecs.{family}": codec for family, codec in experiment.codecs.items()}
    for where, codec in {"codec": experiment.codec, **named}.items():
        changes += [f"{where}.gate=10", f"{where}.width=8"]
        if codec.kind == "points":
            changes += [f"{where}.anchors={[4] * len(codec.anchors)}", f"{where}.supernodes=16"]
        elif codec.coefficients:
            changes += [f"{where}.coefficients=2"]
        elif codec.anchors and len(codec.anchors) > 1:
            changes += [f"{where}.anchors={[4] * len(codec.anchors)}"]
        elif codec.patch_size > 1 and not codec.anchors:
            changes += [f"{where}.patch_size=4"]
    return changes


def structure(experiment: Experiment) -> Any:
    """What a smaller run must have in common with the config."""
    content = experiment.model_dump(
        mode="json",
        exclude={
            "data": {"version", "first_frame", "last_frame"},
            "evaluation": {"history"},
            "codec": SMALL_CODEC,
            "codecs": {family: SMALL_CODEC for family in experiment.codecs},
            "operator": {"width", "depth", "heads"},
            "stages": {stage: {"steps", "epochs", "batch_size", "log_every", "validate_every",
                               "checkpoint_every", "schedule", "ensemble", "sampling_steps",
                               "validation_trajectories", "teacher_steps"}
                       for stage in STAGES},
        },
    )  # fmt: skip
    operator = content["stages"]["operator"]
    operator["losses"].pop("query_points")
    for phase in operator["curriculum"]:
        phase.pop("steps")
    return content


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_stage_of_a_shipped_config_trains(path: Path, made: Callable[[str], None]) -> None:
    experiment = reduced(path)
    assert structure(experiment) == structure(load_experiment(path))
    if experiment.operator.kind in ("fno", "tfno", "uno"):
        pytest.importorskip("neuralop")
    for task in experiment.data.tasks:
        made(task.dataset)

    session = open_session(experiment)
    run = train(session)

    metrics = runs.read_metrics(run / runs.METRICS)
    values = itertools.chain.from_iterable(entry.items() for entry in metrics)
    wrong = {name: value for name, value in values
             if isinstance(value, float) and not math.isfinite(value)}  # fmt: skip
    assert not wrong
    assert {entry["stage"] for entry in metrics} == set(session.stages)
    for stage in session.stages:
        found = checkpoints.load(runs.checkpoint_path(run, stage))
        assert found.stage == stage
        assert set(found.codecs) == {task.name for task in session.tasks}
