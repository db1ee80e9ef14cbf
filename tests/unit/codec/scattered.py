"""Small triangulations and clouds of particles for the tests of the point codec."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from scipy.spatial import Delaunay

from ups.codec.cloud import make_cloud


def mesh(seed=0, per_axis=16, dims=2, low=0.0, high=1.0):
    """Simplices that fill a box exactly: a jittered grid of `per_axis` ** `dims` nodes."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(low, high, per_axis)
    points = np.array(list(itertools.product(axis, repeat=dims)))
    inner = (points > low) & (points < high)
    points = points + inner * rng.uniform(-0.3, 0.3, points.shape) * (axis[1] - axis[0])
    tags = (~inner.all(1)).astype(np.int64)
    return make_cloud(points, cells=_full(points), tags=tags)


def particles(seed=0, number=300, dims=2, periods=(1.0, 1.0), radius=0.15):
    points = np.random.default_rng(seed).random((number, dims))
    return make_cloud(points, radius=radius, periods=periods)


def smooth(coords):
    """Two smooth fields at (node, dim)."""
    x = coords.double()
    first = torch.sin(3 * x[:, 0]) * torch.cos(2 * x[:, -1] + 0.5)
    return torch.stack([first, torch.exp(-(x - 0.4).square().sum(-1))], -1).to(coords)


def waves(coords):
    """A field with period 1 along each axis."""
    angle = 2 * torch.pi * coords.double()
    return (angle[:, :1].sin() + (angle[:, -1:] + angle[:, :1]).cos()).to(coords)


def relative_error(found, truth):
    return float((found.detach() - truth).norm() / truth.norm())


def _full(points):
    if points.shape[1] == 1:
        order = np.argsort(points[:, 0])
        return np.stack([order[:-1], order[1:]], 1)
    cells = Delaunay(points).simplices
    sides = points[cells[:, 1:]] - points[cells[:, :1]]
    return cells[np.abs(np.linalg.det(sides)) > 1e-9]
