"""Patches of a grid and their orthonormal cosine coefficients, in any number of dimensions."""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor


def patchify(
    fields: Float[Tensor, "batch *space channel"], patch_size: int
) -> Float[Tensor, "batch *anchors points channel"]:
    """Cut each space axis into runs of `patch_size` points."""
    batch, *space, channels = fields.shape
    dims = len(space)
    split = [n for size in space for n in (size // patch_size, patch_size)]
    anchors = [1 + 2 * axis for axis in range(dims)]
    inside = [2 + 2 * axis for axis in range(dims)]
    cut = fields.reshape(batch, *split, channels).permute(0, *anchors, *inside, 2 * dims + 1)
    return cut.reshape(batch, *(size // patch_size for size in space), -1, channels)


def unpatchify(
    patches: Float[Tensor, "batch *anchors points channel"], patch_size: int
) -> Float[Tensor, "batch *space channel"]:
    """Inverse of `patchify`."""
    batch, *anchors, _, channels = patches.shape
    dims = len(anchors)
    cut = patches.reshape(batch, *anchors, *(patch_size,) * dims, channels)
    order = [axis for pair in range(dims) for axis in (1 + pair, 1 + dims + pair)]
    space = [size * patch_size for size in anchors]
    return cut.permute(0, *order, 2 * dims + 1).reshape(batch, *space, channels)


def cosine_basis(patch_size: int, dims: int) -> Float[Tensor, "points coefficients"]:
    """The orthonormal DCT-II basis of a patch, columns in order of rising frequency.

    Column 0 is constant: its coefficient is the patch mean times sqrt(points).
    """
    order, point = torch.meshgrid(
        torch.arange(patch_size, dtype=torch.float64),
        torch.arange(patch_size, dtype=torch.float64),
        indexing="ij",
    )
    one = torch.cos(math.pi * order * (point + 0.5) / patch_size) * math.sqrt(2 / patch_size)
    one[0] /= math.sqrt(2)
    basis = one
    for _ in range(dims - 1):
        basis = torch.kron(basis, one)
    orders = itertools.product(range(patch_size), repeat=dims)
    frequency = [(sum(k * k for k in ks), position) for position, ks in enumerate(orders)]
    return basis[[position for _, position in sorted(frequency)]].T.contiguous()
