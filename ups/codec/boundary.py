"""What is known around anchors about the boundary of a mesh."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ups.codec.anchors import AnchorGrid
from ups.codec.cloud import Cloud
from ups.codec.local_fit import LocalPlan
from ups.errors import DataError


def boundary_moments(
    cloud: Cloud, plan: LocalPlan, grid: AnchorGrid, num_tags: int
) -> Float[Tensor, "sample anchor moment"]:
    """Boundary around every anchor: how much, of which kinds, facing where, and which side.

    Lengths (areas) are in units of a side of an anchor's cell. They are the geometry's own: a finer
    triangulation of the same domain has the same ones.

    Returns:
        Columns: boundary in all; of each tag from 1 to `num_tags`; outward normal times boundary,
        one for each axis; whether the anchor is inside the domain.
    Raises:
        DataError: The cloud was made without cells.
    """
    if cloud.normals is None:
        raise DataError("a mesh without cells has no boundary")
    unit = math.prod(grid.spacing) ** ((grid.num_dims - 1) / grid.num_dims)
    normals = cloud.normals / unit
    length = normals.norm(dim=-1, keepdim=True)
    tags = torch.zeros_like(cloud.sample) if cloud.tags is None else cloud.tags
    kinds = torch.arange(1, num_tags + 1, device=tags.device)
    columns = torch.cat([length, length * (tags[:, None] == kinds), normals], -1)
    around = plan.sums(columns)
    return torch.cat([around, inside(cloud, grid)[..., None]], -1)


def inside(cloud: Cloud, grid: AnchorGrid) -> Float[Tensor, "sample anchor"]:
    """`inside_at` the anchors: 1 inside, 0 outside."""
    return inside_at(cloud, grid.centres().to(cloud.coords))


def inside_at(cloud: Cloud, points: Float[Tensor, "point dim"]) -> Float[Tensor, "sample point"]:
    """Winding number of the boundary around every point, within [0, 1]: 1 inside, 0 outside.

    By Gauss' theorem the flux of a point source through the boundary is all of it or none.

    Source:
        Barill et al., Fast winding numbers for soups and clouds, ACM Trans. Graph. 37 (2018).
    """
    assert cloud.normals is not None
    dims = points.shape[1]
    full = {1: 2.0, 2: 2 * math.pi, 3: 4 * math.pi}[dims]
    length = cloud.normals.norm(dim=-1)
    found = cloud.coords.new_zeros(cloud.num_samples, len(points))
    for sample in range(cloud.num_samples):
        own = (cloud.sample == sample) & (length > 0)
        away = cloud.coords[own] - points[:, None]
        # A node stands for its piece of boundary: nearer than half of that there is no point.
        nearest = length[own] ** (1 / (dims - 1)) / 2 if dims > 1 else torch.zeros_like(length[own])
        distance = torch.maximum(away.norm(dim=-1), nearest).clamp(min=1e-12)
        flux = (away * cloud.normals[own]).sum(-1) / distance**dims
        found[sample] = flux.sum(-1) / full
    return found.clamp(0, 1)
