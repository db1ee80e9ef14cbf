"""Small mesh and particle datasets for the tests of the point store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial import Delaunay

from ups.data.layouts.base import PointTrajectory
from ups.data.layouts.points import PointsWriter
from ups.registry import DatasetCard

FRAMES = 6


def make_card(kind="mesh", **changes):
    boundary = "periodic" if kind == "particles" else "wall"
    content = {
        "key": f"tiny_{kind}",
        "title": "Tiny",
        "description": "for tests",
        "pde": {"family": "none", "equation": "u_t = 0"},
        "discretisation": {
            "kind": kind,
            "axes": [{"name": n, "bounds": (0.0, 1.0), "boundary": boundary} for n in ("x", "y")],
            "nodes": (8, 40),
            "neighbour_radius": 0.3 if kind == "particles" else None,
        },
        "time": {"frames": FRAMES, "step": 0.5},
        "fields": [
            {"name": "u", "description": "one"},
            {"name": "rho", "description": "two", "positive": True},
        ],
        "inputs": [{"name": "a", "description": "coefficient"}],
        "parameters": [
            {"name": "nu", "symbol": "v", "description": "viscosity", "range": (0.0, 1.0)}
        ],
        "source": {
            "name": "tests", "doi": "", "licence": "", "citation": "", "layout": "points",
            "pattern": "*.h5",
        },
        "splits": {"test": "last_tenth", "valid_fraction": 0.2, "kept_apart_by": "trajectory"},
        "known_issues": [{"id": "tiny", "summary": "It is tiny.", "consequence": "None."}],
        "config": "none",
    }  # fmt: skip
    return DatasetCard.model_validate({**content, **changes})


def sample(seed, kind="mesh", nodes=None, frames=FRAMES):
    """A trajectory with its own number of nodes; particles move, and leave the box's first image
    nowhere."""
    rng = np.random.default_rng(seed)
    nodes = nodes or int(rng.integers(10, 30))
    coords = rng.random((nodes, 2)).astype(np.float32)
    fields = np.stack(
        [rng.normal(size=(frames, nodes)), 1 + rng.random((frames, nodes))], axis=-1
    ).astype(np.float32)
    inputs = rng.normal(size=(nodes, 1)).astype(np.float32)
    if kind == "particles":
        drift = rng.normal(size=(nodes, 2)) * 0.1
        moved = np.stack([(coords + t * drift) % 1.0 for t in range(frames)]).astype(np.float32)
        return PointTrajectory(moved, fields, inputs)
    corners = coords[Delaunay(coords).simplices]
    sides = corners[:, 1:] - corners[:, :1]
    cells = Delaunay(coords).simplices.astype(np.int32)
    clockwise = sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0] < 0
    cells[clockwise] = cells[clockwise][:, ::-1]
    tags = np.zeros(nodes, np.uint8)
    tags[Delaunay(coords).convex_hull.reshape(-1)] = 1
    return PointTrajectory(coords, fields, inputs, cells, tags)


def write(path: Path, trajectories, card, nu=None, times=None):
    times = 0.5 * np.arange(len(trajectories[0].fields)) if times is None else times
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = PointsWriter(path, times, card)
    for index, each in enumerate(trajectories):
        writer.append(each, {"nu": 0.01 * (index + 1) if nu is None else nu})
    return path
