"""The random initial states that PDEBench's 1D advection and Burgers datasets share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

NUM_WAVENUMBERS = 4
NUM_WAVES = 2
RECTIFIED_SHARE = 0.1
WINDOWED_SHARE = 0.1
WINDOW_LEFT = (0.1, 0.45)
WINDOW_RIGHT = (0.55, 0.9)
WINDOW_EDGE = 0.01
_NUM_DRAWS = NUM_WAVES + 2 * NUM_WAVENUMBERS + 5


@dataclass(frozen=True)
class SineFamily:
    """A batch of initial states, kept as numbers so that they can be evaluated at any x.

        u(x) = w(x) r(c + sum_j a_j sin(2 pi k_j x + phi_j)),    j = 1, 2

    r is the identity, or (one state in ten) |.| with a random sign; w is 1, or (one state in ten)
    a plateau on [left, right] with tanh edges of width 0.01. Two of the wavenumbers 1..4 are
    picked with replacement: two different ones give two waves, the same one twice gives one wave
    of twice that wavenumber (2, 4, 6, 8). Every wavenumber that was not picked leaves its
    a sin(phi) behind as a constant, so the mean c is not zero. a ~ U(0, 1), phi ~ U(0, 2 pi).

    The period is exactly 1. PDEBench's waves have period 1023/1024 (first cell to last cell),
    which puts a small kink at the seam of its files; ours have none.

    Shape:
        offset, left, right: (batch,)
        amplitude, wavenumber, phase: (batch, wave)
        sign: (batch,), 0 where the state is not rectified, else the sign of |.|
        windowed: (batch,), bool
    Source:
        Takamoto et al. 2022, arXiv:2210.07182, appendix on the 1D datasets; the constant, the
        doubled wavenumbers and the range of values agree with frame 0 of files made by PDEBench.
        Their random numbers are not reproduced: equal seeds give other states than theirs.
    """

    offset: Tensor
    amplitude: Tensor
    wavenumber: Tensor
    phase: Tensor
    sign: Tensor
    windowed: Tensor
    left: Tensor
    right: Tensor

    def __len__(self) -> int:
        return len(self.offset)

    def evaluate(self, x: Float[Tensor, " x"]) -> Float[Tensor, "batch x"]:
        """Values at `x` (in periods), float64, on the CPU."""
        x = x.to("cpu", torch.float64).remainder(1.0)
        values = self.offset[:, None].repeat(1, len(x))
        for a, k, phi in zip(self.amplitude.T, self.wavenumber.T, self.phase.T, strict=True):
            values += a[:, None] * torch.sin(2 * math.pi * k[:, None] * x + phi[:, None])
        rectified = self.sign != 0
        values[rectified] = self.sign[rectified, None] * values[rectified].abs()
        values[self.windowed] *= _plateau(x, self.left[self.windowed], self.right[self.windowed])
        return values


def draw_initial_conditions(seed: int, indices: Iterable[int]) -> SineFamily:
    """States number `indices` of `seed`; number i depends on nothing but (seed, i)."""
    uniform = torch.stack([_uniforms(seed, index) for index in indices])
    picks, amplitudes, phases, rest = uniform.split(
        [NUM_WAVES, NUM_WAVENUMBERS, NUM_WAVENUMBERS, 5], dim=1
    )
    rectify, sign, window, left, right = rest.unbind(1)
    offset, amplitude, wavenumber, phase = _waves(picks, amplitudes, 2 * math.pi * phases)
    return SineFamily(
        offset=offset,
        amplitude=amplitude,
        wavenumber=wavenumber,
        phase=phase,
        sign=torch.where(rectify < RECTIFIED_SHARE, torch.where(sign < 0.5, -1.0, 1.0), 0.0),
        windowed=window < WINDOWED_SHARE,
        left=_between(WINDOW_LEFT, left),
        right=_between(WINDOW_RIGHT, right),
    )


def _uniforms(seed: int, index: int) -> Tensor:
    """The random numbers of one trajectory, in [0, 1); SeedSequence keeps the streams apart."""
    mixed = int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(mixed % 2**63)
    return torch.rand(_NUM_DRAWS, generator=generator, dtype=torch.float64)


def _waves(picks: Tensor, amplitude: Tensor, phase: Tensor) -> tuple[Tensor, ...]:
    """Offset, amplitude, wavenumber and phase of the picked waves."""
    picked = (picks * NUM_WAVENUMBERS).long().clamp(max=NUM_WAVENUMBERS - 1)  # 0 is wavenumber 1
    first, second = picked.unbind(1)
    twice = first == second
    idle = torch.ones_like(amplitude).scatter(1, picked, 0.0)
    wavenumber = (picked + 1).to(amplitude) * torch.where(twice, 2.0, 1.0)[:, None]
    chosen = amplitude.gather(1, picked)
    chosen[:, 1] = torch.where(twice, 0.0, chosen[:, 1])
    return (idle * amplitude * phase.sin()).sum(1), chosen, wavenumber, phase.gather(1, picked)


def _plateau(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """1 between `left` and `right`, 0 outside, with smooth edges. Shape: (batch, x)."""
    rise = torch.tanh((x - left[:, None]) / WINDOW_EDGE)
    fall = torch.tanh((x - right[:, None]) / WINDOW_EDGE)
    return (rise - fall) / 2


def _between(bounds: tuple[float, float], uniform: Tensor) -> Tensor:
    low, high = bounds
    return low + (high - low) * uniform
