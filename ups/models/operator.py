"""The latent operator: tokens now -> tokens one step later."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ups.codec.local import neighbours
from ups.config.models import LatentOperatorConfig
from ups.models.mixers import build_mixer

_EPS = 1e-8
_SMALLEST_AMPLITUDE = 1e-3


@dataclass(frozen=True)
class TokenLayout:
    """What the operator must know of the tokens.

    Attributes:
        anchors: Tokens along each space axis.
        periodic: Whether each axis wraps.
        num_coefficients: Coefficients per token and field; the first one is the patch mean times
            sqrt(points_per_token).
        points_per_token: Grid points of a patch.
        conserved: For each field, whether the PDE keeps its spatial mean.
        num_parameters: PDE parameters of a trajectory.
        dt: The time step that counts as one.
    """

    anchors: tuple[int, ...]
    periodic: tuple[bool, ...]
    num_coefficients: int
    points_per_token: int
    conserved: tuple[bool, ...]
    num_parameters: int
    dt: float

    @property
    def num_fields(self) -> int:
        return len(self.conserved)

    @property
    def latent_dim(self) -> int:
        return self.num_coefficients * self.num_fields


class LatentOperator(nn.Module):
    """One time step in the amplitude-normalised, mean-conserving residual form.

        z' = z + r * s * (f(v / r; cond) - mean f),    v = z - mean z,    r = rms v

    per sample and field, with cond = (log r, r, mean, PDE parameters, log dt) entering every block
    by adaptive normalisation, and s the typical size of a step. The mean of f is removed for the
    fields that the PDE conserves. Means and amplitudes are those of the decoded field, read off
    the tokens: their first coefficient is the patch mean, and the embedding is orthonormal.
    The norm inside is per sample, over all tokens and channels: per-token norms would remove
    amplitude and make small fields non-linear.

    Shape:
        tokens: (batch, num_tokens, latent_dim)
        parameters: (batch, parameter), each mapped to [-1, 1] over the card's range
        dt: (batch,)
        output: (batch, num_tokens, latent_dim)
    """

    step_size: Tensor
    conserved: Tensor

    def __init__(self, config: LatentOperatorConfig, layout: TokenLayout) -> None:
        super().__init__()
        self.config, self.layout = config, layout
        num_conditions = 3 * layout.num_fields + layout.num_parameters + 1
        self.embed = nn.Linear(layout.latent_dim, config.width)
        self.condition = nn.Linear(num_conditions, config.width)
        self.modulation = nn.Linear(config.width, config.depth * 4 * config.width)
        self.blocks = nn.ModuleList(Block(config, layout) for _ in range(config.depth))
        self.head = nn.Linear(config.width, layout.latent_dim)
        for layer in (self.modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer("step_size", torch.ones(()))
        self.register_buffer("conserved", torch.tensor(layout.conserved))

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        parameters: Float[Tensor, "batch parameter"],
        dt: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch tokens dim"]:
        layout = self.layout
        z = tokens.unflatten(-1, (layout.num_coefficients, layout.num_fields))
        mean, deviation, amplitude = self.normalised(z)
        pace = (dt / layout.dt).log()[:, None]
        condition = torch.cat([amplitude.log(), amplitude, mean, parameters, pace], -1)
        update = self._update((deviation / amplitude[:, None, None]).flatten(-2), condition)
        update = update.unflatten(-1, (layout.num_coefficients, layout.num_fields))
        update = self._without_mean(update) * self.step_size * amplitude[:, None, None]
        return (z + update).flatten(-2)

    def normalised(
        self, z: Float[Tensor, "batch tokens coefficient field"]
    ) -> tuple[
        Float[Tensor, "batch field"],
        Float[Tensor, "batch tokens coefficient field"],
        Float[Tensor, "batch field"],
    ]:
        """Mean, deviation from it, and the deviation's RMS, of each sample and field."""
        points = self.layout.points_per_token
        first = z[:, :, 0].mean(1)
        constant = F.pad(first[:, None, None], (0, 0, 0, z.shape[2] - 1))
        deviation = z - constant
        energy = deviation.square().sum(2).mean(1) / points
        return first / points**0.5, deviation, (energy + _EPS).sqrt().clamp_min(_SMALLEST_AMPLITUDE)

    def _update(
        self, x: Float[Tensor, "batch tokens dim"], condition: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch tokens dim"]:
        x = self.embed(x).unflatten(1, self.layout.anchors)
        modulation = self.modulation(F.silu(self.condition(condition)))
        per_block = modulation.unflatten(-1, (len(self.blocks), 4, -1)).unbind(1)
        for block, adapt in zip(self.blocks, per_block, strict=True):
            x = block(x, adapt)
        return self.head(sample_norm(x)).flatten(1, -2)

    def _without_mean(
        self, update: Float[Tensor, "batch tokens coefficient field"]
    ) -> Float[Tensor, "batch tokens coefficient field"]:
        mean = update[:, :, :1].mean(1, keepdim=True) * self.conserved
        return update - F.pad(mean, (0, 0, 0, update.shape[2] - 1))


class Block(nn.Module):
    """Mix across tokens, then a two-layer network over each token and its face neighbours.

    Shape:
        x: (batch, *anchors, width)
        adapt: (batch, 4, width): scale and shift of both halves
    """

    def __init__(self, config: LatentOperatorConfig, layout: TokenLayout) -> None:
        super().__init__()
        self.periodic = layout.periodic
        reach = 1 + 2 * len(layout.periodic)
        self.mixer = build_mixer(config, layout.anchors, layout.periodic)
        self.hidden_in = nn.Linear(reach * config.width, config.mlp_ratio * config.width)
        self.hidden_out = nn.Linear(config.mlp_ratio * config.width, config.width)
        with torch.no_grad():
            self.hidden_out.weight.mul_(0.5)

    def forward(
        self, x: Float[Tensor, "batch *anchors width"], adapt: Float[Tensor, "batch 4 width"]
    ) -> Float[Tensor, "batch *anchors width"]:
        ones = (1,) * len(self.periodic)
        parts = adapt.unflatten(-1, (*ones, -1)).unbind(1)
        x = x + self.mixer(sample_norm(x) * (1 + parts[0]) + parts[1])
        h = neighbours(sample_norm(x) * (1 + parts[2]) + parts[3], self.periodic)
        return x + self.hidden_out(F.gelu(self.hidden_in(h)))


def sample_norm(x: Float[Tensor, "batch *any"]) -> Float[Tensor, "batch *any"]:
    """Divide by the RMS over everything but the batch."""
    energy = x.square().mean(tuple(range(1, x.ndim)), keepdim=True)
    return x * torch.rsqrt(energy + 1e-6)
