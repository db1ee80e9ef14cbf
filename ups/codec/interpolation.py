"""Between the points of a grid: local polynomials, and the band-limited interpolant."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

ORDER = 6


def interpolate(
    values: Float[Tensor, "batch *space channel"],
    positions: Float[Tensor, "query axis"],
    periodic: Sequence[bool],
) -> Float[Tensor, "batch query channel"]:
    """Evaluate the local Lagrange polynomial through the 6 nearest points along each axis.

    Exact at grid points, sixth order for smooth fields, differentiable in `positions`. Along an
    axis that does not wrap, the stencil stays inside.

    Args:
        positions: In units of grid points: 0 is the first point of an axis, 1 the next.
    """
    batch, *space, channels = values.shape
    stencils = [
        _stencil(positions[:, axis], size, wraps)
        for axis, (size, wraps) in enumerate(zip(space, periodic, strict=True))
    ]
    flat = values.reshape(batch, -1, channels)
    result = torch.zeros(
        batch, positions.shape[0], channels, dtype=values.dtype, device=values.device
    )
    for taps in itertools.product(*(range(weights.shape[1]) for _, weights in stencils)):
        index = torch.zeros(positions.shape[0], dtype=torch.long, device=values.device)
        weight = torch.ones(positions.shape[0], dtype=positions.dtype, device=values.device)
        for size, (indices, weights), tap in zip(space, stencils, taps, strict=True):
            index = index * size + indices[:, tap]
            weight = weight * weights[:, tap]
        result = result + flat.index_select(1, index) * weight[:, None].to(values.dtype)
    return result


def resample(
    values: Float[Tensor, "batch *space channel"],
    positions: Sequence[Float[Tensor, " _"]],
    periodic: Sequence[bool],
) -> Float[Tensor, "batch *places channel"]:
    """`interpolate` at all combinations of places along each axis, one axis after the other.

    Args:
        positions: For each axis, in units of grid points.
    """
    for axis, (place, wraps) in enumerate(zip(positions, periodic, strict=True), start=1):
        size = values.shape[axis]
        indices, weights = _stencil(place, size, wraps)
        matrix = torch.zeros(size, len(place), dtype=values.dtype, device=values.device)
        matrix = matrix.scatter_add(0, indices.T, weights.T.to(values.dtype))
        with torch.autocast(values.device.type, enabled=False):
            values = torch.tensordot(values, matrix, ([axis], [0])).movedim(-1, axis)
    return values


def _stencil(
    position: Float[Tensor, " query"], size: int, wraps: bool
) -> tuple[Tensor, Float[Tensor, "query tap"]]:
    """Indices and Lagrange weights of the points around each position along one axis."""
    taps = min(ORDER, size)
    start = position.detach().floor().long() - (taps // 2 - 1)
    if not wraps:
        start = start.clamp(0, size - taps)
    nodes = torch.arange(taps, device=position.device)
    local = position - start
    weights = []
    for j in range(taps):
        others = [k for k in range(taps) if k != j]
        terms = [(local - k) / (j - k) for k in others]
        weights.append(torch.stack([torch.ones_like(local), *terms]).prod(0))
    indices = start[:, None] + nodes
    return (indices % size if wraps else indices), torch.stack(weights, -1)


def shifted(
    fields: Float[Tensor, "batch *space channel"],
    offset: Sequence[float],
    periodic: Sequence[bool],
) -> Float[Tensor, "batch *space channel"]:
    """Values of the band-limited interpolant at every grid point plus `offset` grid spacings.

    The interpolant is what the samples determine: trigonometric along periodic axes, the cosine
    series of the even extension about the outer cell faces along the others.
    """
    dims = len(periodic)
    for axis, (move, wraps) in enumerate(zip(offset, periodic, strict=True), start=1):
        if move == 0:
            continue
        size = fields.shape[axis]
        extended = fields if wraps else torch.cat([fields, fields.flip(axis)], axis)
        length = extended.shape[axis]
        waves = torch.fft.rfftfreq(length, device=fields.device)
        phase = torch.exp(2j * torch.pi * waves * move).to(torch.complex64)
        if length % 2 == 0:
            # The Nyquist wave has no known phase: only its cosine part is kept.
            phase = torch.cat([phase[:-1], phase[-1:].real.to(phase.dtype)])
        shape = [1] * (dims + 2)
        shape[axis] = -1
        spectrum = torch.fft.rfft(extended, dim=axis) * phase.view(shape)
        fields = torch.fft.irfft(spectrum, n=length, dim=axis).narrow(axis, 0, size)
    return fields
