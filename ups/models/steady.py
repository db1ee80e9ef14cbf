"""Solutions of steady problems from what is given with them: a prediction, then refinements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ups.config.models import PriorConfig
from ups.models.backbone import Backbone
from ups.models.conditioning import Conditioner
from ups.models.flow import normal, seeded
from ups.models.layout import Given, TokenLayout
from ups.models.scales import ContextScale, floored

Tokens = Float[Tensor, "batch tokens dim"]

_SMALLEST = 1e-8
_SEED = 0


class SolutionPort(nn.Module):
    """What one steady task has to itself: ways in and out of the backbone, and scales.

    Attributes:
        average: Mean solution over the training split, (tokens, dim).
        size: RMS deviation from it of each channel, (dim,).
        whole: RMS over channels of the deviations, (): the unit of the noise.
        evaluations: How many are in use, at most `refinement_steps`; chosen on validation.
    """

    average: Tensor
    size: Tensor
    whole: Tensor
    evaluations: Tensor

    def __init__(self, config: PriorConfig, layout: TokenLayout) -> None:
        super().__init__()
        dim, context, width = layout.latent_dim, layout.context_dim, config.width
        self.embed = nn.Linear(dim + context, width)
        self.head = nn.Linear(width, dim)
        self.gate = nn.Linear(width, dim)
        for layer in (self.head, self.gate):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer("average", torch.zeros(layout.num_tokens, dim))
        self.register_buffer("size", torch.ones(dim))
        self.register_buffer("whole", torch.ones(()))
        self.context = ContextScale(context)
        self.register_buffer("evaluations", torch.tensor(config.refinement_steps))


class SteadyPrior(nn.Module):
    """Tokens u of the solution given tokens of coefficient and geometry, boundary and parameters.

    With w the deviation of the solution from its average over the training split:

        evaluation 0:  w = size * f(0, 0)
        evaluation k:  x = w + sigma_k e,  w = x - sigma_k e',
                       e' = p x / sigma_k + sqrt(1 - p) f(x, k),  p = sigma_k^2 / (sigma_k^2 + s^2)

    with white noise e in the isometric units of the tokens, sigma_k falling geometrically from the
    size of w to `smallest_noise` of it, and s the size of each channel. What is predicted is the
    noise: its unit is that of the error which evaluation k can correct, however small sigma_k.
    p x / sigma_k is the best linear guess of it; f has to find the rest, of variance 1 - p.
    Noise of level sigma_k hides every part of the solution that is weaker than it, so each
    evaluation predicts another band of amplitudes anew.

    Shape:
        x, output: (batch, tokens, dim)
        level: (batch,), 0 for the prediction, k for refinement k
    Source:
        Lippe et al. 2023, arXiv:2308.05732 (PDE-Refiner), here for steady problems and with the
        linear guess taken out, as Karras et al. 2022, arXiv:2206.00364 scale networks.
    """

    def __init__(self, config: PriorConfig, layouts: Mapping[str, TokenLayout]) -> None:
        super().__init__()
        self.config, self.layouts = config, dict(layouts)
        self.backbone = Backbone(config, layouts)
        self.conditioner = Conditioner(config.width, layouts, extra=1)
        self.ports = nn.ModuleDict(
            {task: SolutionPort(config, layout) for task, layout in layouts.items()}
        )

    def forward(self, x: Tokens, level: Int[Tensor, " batch"], given: Given, task: str) -> Tokens:
        """At level 0 the normalised deviation w / size, at others the noise in x.

        Args:
            x: Noised deviation in latent units; ignored at level 0.
        """
        port, layout = self.port(task), self.layouts[task]
        is_first = (level == 0)[:, None, None]
        sigma = self.noise_level(level, task)[:, None, None]
        total = (port.size.square() + sigma.square()).sqrt()
        x = torch.where(is_first, torch.zeros_like(x), x) / total
        condition = self._condition(level, given, task)
        seen = torch.cat([x, port.context(given, layout.num_tokens)], -1)
        h = self.backbone(port.embed(seen).unflatten(1, layout.anchors), condition, task)
        with torch.autocast(x.device.type, enabled=False):
            h = port.head(h.flatten(1, -2)) + port.gate(F.silu(condition))[:, None] * x
        known = torch.where(is_first, torch.zeros_like(total), sigma / total)
        return known * x + (1 - known.square()).sqrt() * h

    def _condition(self, level: Tensor, given: Given, task: str) -> Float[Tensor, "batch width"]:
        place = level.to(given.parameters) / max(self.config.refinement_steps - 1, 1)
        numbers = place.new_zeros(place.shape[0], 3 * self.layouts[task].num_fields)
        return self.conditioner(numbers, given, task, place[:, None])

    def noise_level(self, level: Int[Tensor, " batch"], task: str) -> Float[Tensor, " batch"]:
        """sigma_k in latent units: `whole` * smallest_noise^(k / (refinement_steps - 1))."""
        place = level / max(self.config.refinement_steps - 1, 1)
        return self.port(task).whole * self.config.smallest_noise**place

    def solve(
        self,
        given: Given,
        task: str,
        generator: torch.Generator | None = None,
        samples: int | None = None,
        evaluations: int | None = None,
    ) -> Tokens:
        """The solution.

        Args:
            generator: Of the refinements' noise; None is one with a fixed seed.
            samples: Draw so many for each problem, one after the other as `Given.repeated`.
            evaluations: Of the network; None is what validation has chosen.
        """
        return self.stages(given, task, generator, samples, evaluations)[-1]

    def stages(
        self,
        given: Given,
        task: str,
        generator: torch.Generator | None = None,
        samples: int | None = None,
        evaluations: int | None = None,
    ) -> list[Tensor]:
        """As `solve`, after each evaluation."""
        port, layout = self.port(task), self.layouts[task]
        given = given if samples is None else given.repeated(samples)
        generator = seeded(_SEED) if generator is None else generator
        shape, device = (len(given), layout.num_tokens, layout.latent_dim), given.dt.device
        number = evaluations or int(port.evaluations)
        noise = (normal(shape, generator, device) for _ in range(1, number))
        return self.refined(given, task, noise)

    def refined(self, given: Given, task: str, noise: Iterable[Tokens]) -> list[Tensor]:
        """The solution after each evaluation: the prediction, then a refinement for each noise.

        Args:
            noise: Standard normal.
        """
        port, layout = self.port(task), self.layouts[task]
        batch, device = given.dt.shape[0], given.dt.device
        level = torch.zeros(batch, dtype=torch.long, device=device)
        start = torch.zeros(batch, layout.num_tokens, layout.latent_dim, device=device)
        w = port.size * self(start, level, given, task)
        found = [port.average + w]
        for index, drawn in enumerate(noise, start=1):
            level = torch.full_like(level, index)
            sigma = self.noise_level(level, task)[:, None, None]
            x = w + sigma * drawn
            w = x - sigma * self(x, level, given, task)
            found.append(port.average + w)
        return found

    def port(self, task: str) -> SolutionPort:
        """What a task has to itself."""
        port = self.ports[task]
        assert isinstance(port, SolutionPort)
        return port

    @torch.no_grad()
    def fit_scales(self, task: str, targets: Tokens, given: Given) -> None:
        """Set averages and sizes from solutions of the training split."""
        port = self.port(task)
        port.average.copy_(targets.mean(0))
        deviation = targets - port.average
        sizes = deviation.square().mean((0, 1)).sqrt()
        port.size.copy_(floored(sizes))
        port.whole.copy_(deviation.square().mean().sqrt().clamp_min(_SMALLEST))
        port.context.fit(given)
