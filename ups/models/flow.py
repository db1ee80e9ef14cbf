"""Paths between noise and data, the times at which they are trained, and the way along them.

Time tau runs from 0, where a sample is standard normal noise, to 1, where it is data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ups.config.stages import TauConfig

Objective = Literal["flow", "diffusion"]
Tokens = Float[Tensor, "batch tokens dim"]
Times = Float[Tensor, " batch"]
Field = Callable[[Tensor, Tensor], Tensor]
"""(x, tau) -> dx/dtau, with tau (batch,)."""


@dataclass(frozen=True)
class Path:
    """x_tau = alpha(tau) data + sigma(tau) noise, and what a network learns about it.

    'flow': alpha = tau, sigma = 1 - tau, and the network predicts data - noise.
    'diffusion': alpha = sin(pi tau / 2), sigma = cos(pi tau / 2), the cosine schedule, and the
    network predicts sigma data - alpha noise, the negative of the usual v. Both predictions are
    dx/dtau up to the constant `speed`, so that one sampler of the probability-flow ODE serves both.

    Shape:
        data, noise, x, output: (batch, tokens, dim)
        tau: (batch,)
    Source:
        Lipman et al. 2023, arXiv:2210.02747 (flow matching); Salimans and Ho 2022,
        arXiv:2202.00512 (v-prediction); Nichol and Dhariwal 2021, arXiv:2102.09672 (cosine
        schedule, here without offset).
    """

    objective: Objective

    @property
    def speed(self) -> float:
        """|dx/dtau| in units of what the network predicts."""
        return 1.0 if self.objective == "flow" else math.pi / 2

    def coefficients(self, tau: Times) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha, sigma and their derivatives in tau over `speed`, (batch, 1, 1) each."""
        t = tau[:, None, None]
        if self.objective == "flow":
            return t, 1 - t, torch.ones_like(t), -torch.ones_like(t)
        angle = t * (math.pi / 2)
        return angle.sin(), angle.cos(), angle.cos(), -angle.sin()

    def corrupt(self, data: Tokens, noise: Tokens, tau: Times) -> Tokens:
        """The point of the path at time tau."""
        alpha, sigma, _, _ = self.coefficients(tau)
        return alpha * data + sigma * noise

    def target(self, data: Tokens, noise: Tokens, tau: Times) -> Tokens:
        """What the network is to predict at that point."""
        _, _, alpha_rate, sigma_rate = self.coefficients(tau)
        return alpha_rate * data + sigma_rate * noise

    def velocity(self, output: Tokens) -> Tokens:
        """dx/dtau of the probability-flow ODE."""
        return self.speed * output

    def data(self, output: Tokens, x: Tokens, tau: Times) -> Tokens:
        """The data that point and prediction imply: E[data | x] for a perfect network."""
        _, sigma, _, sigma_rate = self.coefficients(tau)
        return sigma * output - sigma_rate * x  # over sigma alpha' - sigma' alpha, which is 1

    def gaussian(self, tau: Times) -> Tensor:
        """g with target = g x + rest, where data is standard normal: the best linear guess."""
        alpha, sigma, alpha_rate, sigma_rate = self.coefficients(tau)
        return (alpha * alpha_rate + sigma * sigma_rate) / (alpha.square() + sigma.square())


def draw_tau(config: TauConfig, number: int, generator: torch.Generator) -> Times:
    """`number` times in [0, 1], uniform or Beta distributed, on the generator's device.

    Uniform times are stratified: one in each of `number` equal parts, in random order, which
    lowers the variance of the loss.
    """
    device = generator.device
    if config.kind == "uniform":
        place = torch.randperm(number, generator=generator, device=device)
        return (place + torch.rand(number, generator=generator, device=device)) / number
    # torch's Beta distribution takes no generator; numpy's is seeded from ours.
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    drawn = np.random.default_rng(seed).beta(config.alpha, config.beta, size=number)
    return torch.from_numpy(drawn).float().to(device)


def trajectory(
    field: Field, noise: Tensor, steps: int, *, method: Literal["euler", "heun"] = "heun"
) -> tuple[list[Tensor], list[Tensor]]:
    """Integrate dx/dtau = field(x, tau) from noise at 0 to a sample at 1, in equal steps.

    `steps` counts evaluations of the field for Euler's method; Heun's takes two in each step.

    Returns:
        The `steps + 1` points passed, and the field at the beginning of each of the `steps` steps.
    Raises:
        ValueError: `steps` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, found {steps}")
    width = 1 / steps
    points, slopes = [noise], []
    for index in range(steps):
        x = points[-1]
        slope = field(x, torch.full((len(x),), index * width, device=x.device, dtype=x.dtype))
        slopes.append(slope)
        if method == "heun":
            ahead = torch.full((len(x),), (index + 1) * width, device=x.device, dtype=x.dtype)
            slope = (slope + field(x + width * slope, ahead)) / 2
        points.append(x + width * slope)
    return points, slopes


def integrate(
    field: Field, noise: Tensor, steps: int, *, method: Literal["euler", "heun"] = "heun"
) -> Tensor:
    """The last point of `trajectory`."""
    return trajectory(field, noise, steps, method=method)[0][-1]


def normal(
    shape: tuple[int, ...], generator: torch.Generator, device: torch.device | str
) -> Float[Tensor, "..."]:
    """Standard normal numbers, drawn on the generator's device and moved to `device`.

    With a generator on the CPU they are the same on every device.
    """
    return torch.randn(shape, generator=generator, device=generator.device).to(device)


def seeded(*numbers: int) -> torch.Generator:
    """A generator on the CPU whose stream depends on these whole numbers alone."""
    mixed = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(mixed[0]) << 31 ^ int(mixed[1]))
