"""Codec, cache, operator and evaluation in two and three dimensions.

From a raw file of waves that travel and keep their mean, with and without periodic axes.
"""

from __future__ import annotations

import copy
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from ups import TrajectoryStore, judge, load_experiment, load_run, registry, train
from ups.data.convert import convert

CASES = {
    "2d periodic": ((16, 8), (True, True)),
    "2d mixed": ((8, 16), (True, False)),
    "3d mixed": ((8, 8, 4), (True, True, False)),
}


def waves(space: tuple[int, ...], periodic: tuple[bool, ...], seed: int) -> np.ndarray:
    """(time, *space, 2): cosines that travel along the periodic axes, half waves on the others."""
    random = np.random.default_rng(seed)
    time = np.arange(9).reshape(-1, *(1,) * len(space)) * 0.1
    axes = np.meshgrid(*((np.arange(n) + 0.5) / n for n in space), indexing="ij")
    fields = []
    for _ in range(2):
        phase = random.random(len(space))
        parts = [
            np.cos(2 * np.pi * (x - 0.5 * time + p)) if wraps else 1 + 0.5 * np.cos(np.pi * x) * p
            for x, p, wraps in zip(axes, phase, periodic, strict=True)
        ]
        fields.append(random.uniform(0.5, 2) * np.prod(np.broadcast_arrays(*parts), axis=0))
    return np.stack(fields, -1).astype(np.float32)


def write_card(home: Path, space: tuple[int, ...], periodic: tuple[bool, ...]) -> None:
    """A card for the waves, in the user's own registry."""
    card = registry.load_card("advection1d").model_dump(mode="json")
    card |= {"key": "waves", "generator": None, "parameters": [], "pde": {
        "family": "waves", "equation": "u_t + u_x = 0", "conserved": ["u", "v"]}}  # fmt: skip
    card["source"] |= {"files": [], "layout": "pdebench_fields"}
    field = card["fields"][0]
    card["fields"] = [field | {"name": "u"}, copy.deepcopy(field) | {"name": "v"}]
    card["discretisation"]["axes"] = [
        {"name": name, "bounds": [0, 1], "points": n, "boundary": "periodic" if p else "neumann"}
        for name, n, p in zip("xyz", space, periodic, strict=False)
    ]
    folder = home / "registry"
    folder.mkdir(parents=True)
    (folder / "waves.yaml").write_text(yaml.safe_dump(card))


def write_store(home: Path, space: tuple[int, ...], periodic: tuple[bool, ...]) -> TrajectoryStore:
    """48 trajectories in PDEBench's layout of one array a field, converted."""
    fields = np.stack([waves(space, periodic, seed) for seed in range(48)])
    raw = home / "waves.hdf5"
    with h5py.File(raw, "w") as file:
        file["u"], file["v"] = fields[..., 0], fields[..., 1]
        file["t-coordinate"] = np.arange(9) * 0.1
        for name, n in zip("xyz", space, strict=False):
            file[f"{name}-coordinate"] = (np.arange(n) + 0.5) / n
    return convert(registry.load_card("waves"), [raw], version="made").store


@pytest.mark.parametrize(
    ("case", "mixer"),
    [
        ("2d periodic", "spectral"),
        ("2d mixed", "conv"),
        pytest.param("2d mixed", "spectral", marks=pytest.mark.slow),
        ("3d mixed", "attention"),
    ],
)
def test_the_path_works_in_more_dimensions(home: Path, case: str, mixer: str) -> None:
    space, periodic = CASES[case]
    write_card(home, space, periodic)
    store = write_store(home, space, periodic)
    experiment = load_experiment(
        "base",
        ["data.dataset=waves", "codec.patch_size=2", f"operator.mixer={mixer}",
         "operator.width=48", "operator.depth=2", "operator.kernel_size=3",
         "stages.codec.steps=4", "stages.codec.batch_size=8", "stages.operator.steps=60",
         "stages.operator.batch_size=16", "stages.operator.schedule.warmup_steps=10"],
    )  # fmt: skip
    run = train(experiment)
    judged = judge(run)[0]
    result = judged.evaluation
    model, persistence = result.report.row("model"), result.report.row("persistence")
    assert model is not None
    assert persistence is not None
    assert (model.value("nrmse") or 9) < 0.7 * (persistence.value("nrmse") or 0)
    assert judged.page is not None
    planes = 3 if len(space) == 3 else 1
    assert "Median trajectory" in judged.page.read_text()
    assert len(list((run / "report" / "waves" / "own").glob("fields_u_median*.png"))) == planes

    future = load_run(run).predict(store.fields[0, 0], steps=3)
    assert future.shape == (3, *space, 2)
    axes = tuple(range(1, 1 + len(space)))
    drift = future.mean(axes) - store.fields[0, 0].mean(tuple(range(len(space))))
    assert np.abs(drift).max() < 1e-4, "the mean of every field is conserved"
