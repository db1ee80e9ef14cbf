"""Stores for the tests of windows, made through raw files and conversion as any other."""

from __future__ import annotations

import numpy as np
from point_samples import make_card as point_card
from point_samples import sample, write

from ups.data.conversion.plan import Recipe
from ups.data.conversion.points import convert_points
from ups.data.convert import convert
from ups.registry import load_card


def burgers(tmp_path, write_raw, *, count=20, frames=12, points=32, nus=(0.1,), recipe=None):
    """Random values under the Burgers card."""
    card = load_card("burgers1d")
    raw = []
    for number, nu in enumerate(nus):
        tensor = np.random.default_rng(number).normal(size=(count, frames, points))
        path = tmp_path / "raw" / f"1D_Burgers_Sols_Nu{nu}.hdf5"
        raw.append(write_raw(path, tensor.astype(np.float32), {"Nu": nu}))
    return convert(card, raw, recipe=recipe or Recipe()).store, card


def points(tmp_path, kind, count=10, **changes):
    """(trajectories, store, card): velocities u, v and a density, on the unit square."""
    fields = [
        {"name": "velocity_x", "description": "one", "component": "x"},
        {"name": "velocity_y", "description": "two", "component": "y"},
    ]
    card = point_card(kind, fields=fields, **changes)
    trajectories = [sample(seed, kind) for seed in range(count)]
    raw = write(tmp_path / "raw" / f"{kind}.h5", trajectories, card)
    return trajectories, convert_points(card, [raw], recipe=Recipe()).store, card
