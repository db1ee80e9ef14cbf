"""A neural operator whose waves fit the boundary conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ups.models.waves import Axis, standing_waves, travelling_waves


class CosineFNO(nn.Module):
    """Layers of a matrix per wave plus a matrix per point, between a lift and a projection.

    The waves of an axis are cosines where no flux leaves the domain, sines where fields vanish at
    its ends, and those of the Fourier transform where it wraps; on a fully periodic grid this is
    the Fourier neural operator. The last layer starts at zero.

    Args:
        modes: Lowest waves kept along each axis; where it wraps, frequencies 0 to modes - 1.
    Shape:
        x: (batch, *space, inputs) -> (batch, *space, outputs)
    Source:
        Li et al. 2021, arXiv:2010.08895; differs in the transform, taken as a product with the
        matrix of the kept waves, which on grids of a few hundred points is the faster way.
    """

    def __init__(
        self, axes: Sequence[Axis], inputs: int, outputs: int, width: int, depth: int, modes: int
    ) -> None:
        super().__init__()
        self.lift = nn.Linear(inputs, width)
        self.waves = nn.ModuleList(WaveLinear(axes, width, modes) for _ in range(depth))
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.hidden_project = nn.Linear(width, 2 * width)
        self.head = nn.Linear(2 * width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Float[Tensor, "batch *space inputs"]) -> Float[Tensor, "batch *space _"]:
        x = self.lift(x)
        for index, (waves, local) in enumerate(zip(self.waves, self.hidden, strict=True)):
            x = waves(x) + local(x)
            if index < len(self.waves) - 1:
                x = F.gelu(x)
        return self.head(F.gelu(self.hidden_project(x)))


class WaveLinear(nn.Module):
    """A learned matrix over channels for each wave: complex if any axis wraps, real otherwise.

    Shape:
        x: (batch, *space, width) -> the same
    """

    def __init__(self, axes: Sequence[Axis], width: int, modes: int) -> None:
        super().__init__()
        wrapping = [index for index, axis in enumerate(axes) if axis.periodic]
        self.half_axis = wrapping[-1] if wrapping else None
        sizes = []
        for index, axis in enumerate(axes):
            analysis, synthesis = _transform(axis, modes, index == self.half_axis)
            sizes.append(len(analysis))
            self.register_buffer(f"analysis{index}", analysis, persistent=False)
            self.register_buffer(f"synthesis{index}", synthesis, persistent=False)
        parts = () if self.half_axis is None else (2,)
        shape = (math.prod(sizes), width, width, *parts)
        self.weight = nn.Parameter(torch.randn(shape) / width)

    def forward(
        self, x: Float[Tensor, "batch *space width"]
    ) -> Float[Tensor, "batch *space width"]:
        kind = x.dtype
        # Autocast has no complex half-precision products.
        with torch.autocast(x.device.type, enabled=False):
            return self._mix(x.to(self.weight.dtype)).to(kind)

    def _mix(self, x: Tensor) -> Tensor:
        order = self._order(x.ndim - 2)
        for index in order:
            x = along(index + 1, x, self.get_buffer(f"analysis{index}"))
        weight = self.weight if self.half_axis is None else torch.view_as_complex(self.weight)
        mixed = torch.bmm(x.flatten(1, -2).transpose(0, 1), weight).transpose(0, 1)
        x = mixed.reshape(x.shape)
        for index in reversed(order):
            matrix = self.get_buffer(f"synthesis{index}")
            x = (
                _real_part(index + 1, x, matrix)
                if index == self.half_axis
                else along(index + 1, x, matrix)
            )
        return x

    def _order(self, num_axes: int) -> list[int]:
        """Real transforms, then the one from real to complex, then complex ones."""
        names = list(range(num_axes))[::-1]
        real = [i for i in names if not self.get_buffer(f"analysis{i}").is_complex()]
        return real + [i for i in names if i == self.half_axis] + [
            i for i in names if i not in real and i != self.half_axis
        ]  # fmt: skip


def _transform(axis: Axis, modes: int, half: bool) -> tuple[Tensor, Tensor]:
    """Analysis (wave, points) and synthesis (points, wave) of one axis.

    With `half` only frequencies from zero on are kept, of a real signal; the others are their
    complex conjugates, and the synthesis counts them by doubling.
    """
    if not axis.periodic:
        rows = standing_waves(axis, min(modes, axis.points)).float()
        return rows, rows.T.contiguous()
    count = min(modes, (axis.points + 1) // 2)
    cosines, sines = travelling_waves(axis, count)
    rows = torch.complex(cosines, -sines)
    if half:
        double = torch.full((count,), 2.0)
        double[0] = 1.0
        return rows.to(torch.complex64), (double[:, None] * rows.conj()).T.resolve_conj().to(
            torch.complex64
        ).contiguous()
    rows = torch.cat([rows, rows[1:].conj()])
    return rows.to(torch.complex64), rows.mH.resolve_conj().to(torch.complex64).contiguous()


def along(axis: int, x: Tensor, matrix: Tensor) -> Tensor:
    """Apply a matrix along one axis; a real x and a complex matrix give complex values."""
    shape = x.shape
    columns = x.reshape(math.prod(shape[:axis]), shape[axis], -1)
    if matrix.is_complex() and not x.is_complex():
        both = torch.cat([matrix.real, matrix.imag]) @ columns
        columns = torch.complex(*both.chunk(2, 1))
    else:
        columns = matrix @ columns
    return columns.reshape(*shape[:axis], len(matrix), *shape[axis + 1 :])


def _real_part(axis: int, x: Tensor, matrix: Tensor) -> Tensor:
    """The real part of a complex matrix along one axis of complex values."""
    both = torch.cat([x.real, x.imag], axis)
    return along(axis, both, torch.cat([matrix.real, -matrix.imag], 1))
