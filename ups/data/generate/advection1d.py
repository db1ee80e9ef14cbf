"""Linear advection on a periodic interval: the exact solution is a shift."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ups.data.generate.base import Solution, Task
from ups.data.generate.initial_conditions import SineFamily, draw_initial_conditions


def solve(task: Task) -> Solution:
    """Solve a batch; on the CPU whatever the device, for there is nothing to step."""
    (axis,) = task.grid.axes
    frames = advect_family(
        draw_initial_conditions(task.seed, task.trajectories),
        axis.centres(),
        beta=task.parameters["beta"],
        times=task.grid.times,
        domain_length=axis.length,
        dtype=task.dtype,
    )
    return Solution(frames[..., None])


def advect_family(
    family: SineFamily,
    x: Float[Tensor, " x"],
    *,
    beta: float,
    times: Sequence[float],
    domain_length: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, "batch time x"]:
    """Solve u_t + beta u_x = 0 by evaluating the initial state at x - beta t.

    Exact everywhere, kinks included: computed in float64, rounded to `dtype`. `x` counts from the
    left end of the domain.
    """
    frames = torch.empty(len(family), len(times), len(x), dtype=dtype)
    for index, time in enumerate(times):
        frames[:, index] = family.evaluate((x - beta * time) / domain_length)
    return frames


def solve_advection1d(
    initial: Float[Tensor, "batch x"],
    *,
    beta: float,
    times: Sequence[float],
    domain_length: float = 1.0,
) -> Float[Tensor, "batch time x"]:
    """Solve u_t + beta u_x = 0 from a sampled state by turning every Fourier mode's phase.

        u_k(t) = u_k(0) exp(-i k beta t),    k = 2 pi n / length

    Periodic, uniform grid. Exact for states without energy in the highest (Nyquist) mode. The
    mean is kept; phases are computed in float64 whatever the precision of `initial`.

    Args:
        initial: The state at t = 0.
        beta: Speed, in units of `domain_length` per unit of `times`.
        times: When to store a frame.
    """
    num_points = initial.shape[-1]
    spectrum = torch.fft.rfft(initial)
    modes = torch.arange(spectrum.shape[-1], dtype=torch.float64, device=initial.device)
    frames = initial.new_empty(len(initial), len(times), num_points)
    for index, time in enumerate(times):
        turns = modes * (beta * time / domain_length)
        phase = torch.polar(torch.ones_like(turns), -2 * math.pi * turns.remainder(1.0))
        frames[:, index] = torch.fft.irfft(spectrum * phase.to(spectrum.dtype), n=num_points)
    return frames
