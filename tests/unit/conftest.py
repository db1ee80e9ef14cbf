"""Small datasets with known answers, made in the test's own UPS_HOME."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from ups import paths
from ups.data.convert import convert
from ups.data.generate import generate
from ups.data.store import TrajectoryStore
from ups.registry import load_card

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _advected(trajectories: int, frames: int, points: int, beta: float, seed: int) -> Array:
    """Sums of four sine waves moving at speed beta, dt 0.05: (trajectory, time, x)."""
    random = np.random.default_rng(seed)
    waves = np.arange(1, 5)
    size, phase = random.normal(size=(2, trajectories, 1, 1, 4))
    x = (np.arange(points) + 0.5) / points
    place = x[:, None] - beta * 0.05 * np.arange(frames)[:, None, None]
    return (size * np.sin(2 * np.pi * waves * place + 6 * phase)).sum(-1).astype(np.float32)


def _write_raw(
    path: Path,
    tensor: Array,
    attributes: Mapping[str, float],
    *,
    dt: float = 0.05,
    extra_times: int = 1,
    **more: Array,
) -> Path:
    """One file in PDEBench's layout `tensor`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames, points = tensor.shape[-2:]
    with h5py.File(path, "w") as file:
        file["tensor"] = tensor
        file["t-coordinate"] = np.arange(frames + extra_times, dtype=np.float32) * np.float32(dt)
        file["x-coordinate"] = ((np.arange(points) + 0.5) / points).astype(np.float32)
        for key, values in more.items():
            file[key] = values
        file.attrs.update(attributes)
    return path


@pytest.fixture
def advected() -> Callable[..., Array]:
    """advected(trajectories, frames, points, beta, seed) -> exact shifts of random sines."""
    return _advected


@pytest.fixture
def write_raw() -> Callable[..., Path]:
    """write_raw(path, tensor, attributes) -> a file in PDEBench's layout."""
    return _write_raw


@pytest.fixture
def store(tmp_path: Path) -> TrajectoryStore:
    """advection1d: 20 trajectories (16 train, 2 valid, 2 test), 11 frames, 32 points."""
    tensor = _advected(20, 11, 32, beta=1.0, seed=0)
    raw = _write_raw(tmp_path / "1D_Advection_Sols_beta1.0.hdf5", tensor, {"beta": 1.0})
    return convert(load_card("advection1d"), [raw], version="tiny").store


SMALL = {
    "burgers1d": (20, 32, 9), "advection1d": (20, 32, 9), "reaction_diffusion2d": (12, 16, 7),
    "darcy2d": (20, 16, None), "darcy2d_mesh": (12, 200, None), "particles_advect": (12, 40, 7),
}  # fmt: skip
"""Trajectories, points per axis (or nodes) and frames."""


@pytest.fixture(scope="session")
def _small_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("small")


@pytest.fixture
def small(home: Path, _small_home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """small(*keys): small generated datasets are there, made once for all tests of a session."""

    def give(*keys: str) -> None:
        for key in keys:
            with monkeypatch.context() as other:
                other.setenv("UPS_HOME", str(_small_home))
                if not (made := paths.data_dir(key)).exists():
                    _generate_small(key)
            link = paths.data_dir(key)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(made, target_is_directory=True)

    return give


def _generate_small(key: str) -> None:
    card = load_card(key)
    assert card.generator is not None
    count, points, frames = SMALL[key]
    raw = generate(
        card, parameters=card.generator.parameters, num_trajectories=count, seed=0,
        out_dir=paths.raw_dir(key), points=points, frames=frames, workers=1,
    )  # fmt: skip
    convert(card, [raw])
