"""Semilinear equations on a periodic rectangle: Fourier in space, ETDRK4 in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ups.data.generate.base import Grid

Reaction = Callable[[Tensor], Tensor]

_CIRCLE_POINTS = 32


@dataclass(frozen=True)
class Semilinear:
    """u_t = L u + B r(u), where L and B are diagonal in Fourier space and r acts point by point.

    r(u) is taken on the grid, its aliases stay. For a gradient flow this is harmless: the scheme
    is then the gradient flow of the energy summed over grid points, which cannot grow.

    Attributes:
        linear: Symbol of L, (x, mode) float64, in the order of `torch.fft.rfft2`.
        outer: Symbol of B, likewise.
        reaction: r.
    """

    linear: Tensor
    outer: Tensor
    reaction: Reaction


def laplacian(points: Sequence[int], lengths: Sequence[float]) -> Float[Tensor, "x mode"]:
    """Symbol -|k|^2 of the Laplacian, float64, in the order of `torch.fft.rfft2`."""
    kx = 2 * math.pi / lengths[0] * torch.fft.fftfreq(points[0], 1 / points[0]).double()
    ky = 2 * math.pi / lengths[1] * torch.fft.rfftfreq(points[1], 1 / points[1]).double()
    return -(kx[:, None] ** 2 + ky**2)


def refinement_for(grid: Grid, cell: float) -> int:
    """How many times finer than `grid` a grid is whose cells are no longer than `cell`."""
    return max(1, *(math.ceil(axis.spacing / cell - 1e-9) for axis in grid.axes))


def solve_semilinear(
    equation: Semilinear,
    initial: Float[Tensor, "batch x y"],
    *,
    times: Sequence[float],
    time_step: float,
    stride: int = 1,
) -> Float[Tensor, "batch time x_out y_out"]:
    """March from t = 0 and keep a frame at each of `times`.

    L is exact, r fourth order in time; modes that B and L leave alone (the mean, where mass is
    conserved) do not change at all. The step depends on nothing but `times` and `time_step`, so
    a trajectory does not depend on its batch.

    Args:
        initial: The state at t = 0, in the precision and on the device to solve in.
        times: Not negative, rising. A frame at 0 is `initial` itself.
        time_step: Upper bound of the step.
        stride: Store every so many grid points along each axis, beginning with the first.
    Source:
        Cox and Matthews 2002, J. Comput. Phys. 176, 430; coefficients by contour means after
        Kassam and Trefethen 2005, SIAM J. Sci. Comput. 26(4), 1214.
    """
    spectrum = torch.fft.rfft2(initial)
    stepper = _Stepper(equation, initial)
    frames = []
    now = 0.0
    for time in times:
        if time > now:
            spectrum = stepper.advance(spectrum, time - now, time_step)
            frames.append(stepper.to_values(spectrum)[:, ::stride, ::stride])
        else:
            frames.append(initial[:, ::stride, ::stride])
        now = time
    return torch.stack(frames, dim=1)


@dataclass(frozen=True)
class _Coefficients:
    """ETDRK4's factors for one step length; those of r hold the symbol of B."""

    half_decay: Tensor
    half_reaction: Tensor
    decay: Tensor
    first: Tensor
    middle: Tensor
    last: Tensor


class _Stepper:
    """ETDRK4 for one equation on the grid of `like`."""

    def __init__(self, equation: Semilinear, like: Tensor) -> None:
        self.equation = equation
        self.shape, self.dtype, self.device = like.shape[-2:], like.dtype, like.device
        points_x, points_y = self.shape
        self._mirror = -torch.arange(points_x, device=self.device) % points_x
        self._own_mirrors = (0, points_y // 2) if points_y % 2 == 0 else (0,)
        self._coefficients: dict[float, _Coefficients] = {}

    def to_values(self, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft2(spectrum, s=self.shape)

    def advance(self, spectrum: Tensor, interval: float, time_step: float) -> Tensor:
        num_steps = max(1, math.ceil(interval / time_step - 1e-9))
        c = self._coefficients_for(interval / num_steps)
        for _ in range(num_steps):
            spectrum = self._hermitian(self._step(spectrum, c))
        return spectrum

    def _hermitian(self, spectrum: Tensor) -> Tensor:
        """Drop what no real field has and rounding puts in.

        The inverse transform ignores it, so the reaction never holds it back: where L grows, it
        would grow without bound (in float32, Allen-Cahn is lost at t = 38 without this).
        """
        for column in self._own_mirrors:
            modes = spectrum[..., column]
            spectrum[..., column] = (modes + modes[:, self._mirror].conj()) / 2
        return spectrum

    def _step(self, now: Tensor, c: _Coefficients) -> Tensor:
        r_now = self._react(now)
        half = c.half_decay * now
        a = half + c.half_reaction * r_now
        r_a = self._react(a)
        r_b = self._react(half.addcmul_(c.half_reaction, r_a))
        d = torch.addcmul(c.half_decay * a, c.half_reaction, 2 * r_b - r_now)
        after = torch.addcmul(c.decay * now, c.first, r_now)
        after.addcmul_(c.middle, r_a.add_(r_b))
        return after.addcmul_(c.last, self._react(d))

    def _react(self, spectrum: Tensor) -> Tensor:
        return torch.fft.rfft2(self.equation.reaction(self.to_values(spectrum)))

    def _coefficients_for(self, step: float) -> _Coefficients:
        key = round(step, 12)
        if key not in self._coefficients:
            self._coefficients[key] = self._build_coefficients(step)
        return self._coefficients[key]

    def _build_coefficients(self, step: float) -> _Coefficients:
        """Means over a circle around each exponent, which avoids dividing small by small."""
        exponent = step * self.equation.linear
        outer = step * self.equation.outer
        half = first = middle = last = torch.zeros_like(exponent)
        for index in range(_CIRCLE_POINTS):
            angle = math.pi * (index + 0.5) / _CIRCLE_POINTS
            z = exponent + complex(math.cos(angle), math.sin(angle))
            e = z.exp()
            half = half + (((z / 2).exp() - 1) / z).real
            first = first + ((-4 - z + e * (4 - 3 * z + z**2)) / z**3).real
            middle = middle + (2 * (2 + z + e * (z - 2)) / z**3).real
            last = last + ((-4 - 3 * z - z**2 + e * (4 - z)) / z**3).real
        outer = outer / _CIRCLE_POINTS
        return _Coefficients(
            half_decay=self._cast((exponent / 2).exp()), half_reaction=self._cast(outer * half),
            decay=self._cast(exponent.exp()), first=self._cast(outer * first),
            middle=self._cast(outer * middle), last=self._cast(outer * last),
        )  # fmt: skip

    def _cast(self, factor: Tensor) -> Tensor:
        return factor.to(self.device, self.dtype)
