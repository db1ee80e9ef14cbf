"""The residual that a frozen operator leaves over, as a distribution to draw from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ups.config.models import ResidualConfig
from ups.models.backbone import Backbone
from ups.models.conditioning import Conditioner
from ups.models.flow import Path, normal, trajectory
from ups.models.layout import Given, TokenLayout
from ups.models.normalisation import amplitudes, per_channel, without_mean
from ups.models.scales import ContextScale, floored

Tokens = Float[Tensor, "batch tokens dim"]
Times = Float[Tensor, " batch"]

_SMALLEST = 1e-8


@dataclass(frozen=True)
class Situation:
    """What a residual is conditioned on, computed once for all evaluations of a sampler.

    Attributes:
        seen: Prediction and change since the previous state, normalised, and the context.
        numbers: Log amplitude, amplitude and mean of the previous state's fields.
        unit: Size of the residual of each sample and channel, (batch, 1, dim).
    """

    seen: Float[Tensor, "batch tokens seen"]
    numbers: Float[Tensor, "batch number"]
    unit: Float[Tensor, "batch 1 dim"]
    given: Given
    task: str


class ResidualPort(nn.Module):
    """What one task has to itself: the way into the shared backbone, the way out, the scales.

    Attributes:
        residual: RMS residual of each channel, relative to the amplitude of the state.
        change: RMS change over one step, likewise.
        gain: Share of the mean residual that a point forecast adds, in [0, 1]; chosen on
            validation data, 0 before.
        spread: Factor on the deviation of samples from their mean, likewise; 1 before.
    """

    residual: Tensor
    change: Tensor
    gain: Tensor
    spread: Tensor

    def __init__(self, width: int, layout: TokenLayout) -> None:
        super().__init__()
        dim = layout.latent_dim
        self.embed = nn.Linear(3 * dim + layout.context_dim, width)
        self.head = nn.Linear(width, dim)
        self.gate = nn.Linear(width, dim)
        for layer in (self.head, self.gate):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.context = ContextScale(layout.context_dim)
        self.register_buffer("residual", torch.ones(dim))
        self.register_buffer("change", torch.ones(()))
        self.register_buffer("gain", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def widened(self, drawn: Tensor, centre: Callable[[], Tensor]) -> Tensor:
        """Samples with their deviation from the mean times `spread`."""
        if self.spread.item() == 1:
            return drawn
        mean = centre()
        return mean + self.spread * (drawn - mean)


class ResidualModel(nn.Module):
    """Generative model of r = (target - operator's prediction) / unit.

    The unit of a sample and channel is the amplitude of the previous state times the RMS of that
    channel's residual over the training split. The network predicts

        g(tau) x + gate(condition) x + head(backbone(x, prediction, change; condition)),

    less the spatial mean of conserved fields, where g x is the best guess for standard normal
    data and gate a number for each channel. Both ways past the backbone let x through undistorted
    where tokens have more channels than the backbone; with them alone any Gaussian residual with
    independent channels is exact. Before training, samples are white noise of the right size.

    Args:
        times: Numbers that `output` is told about the place on the path: 1 is tau alone.
    Shape:
        x, prediction, previous, noise: (batch, tokens, dim); tau: (batch,)
    Source:
        Lippe et al. 2023, arXiv:2308.05732 and Kohl et al. 2024, arXiv:2309.01745 generate the
        next state; this generates what a deterministic operator leaves over.
    """

    def __init__(
        self,
        config: ResidualConfig,
        layouts: Mapping[str, TokenLayout],
        *,
        times: int = 1,
    ) -> None:
        super().__init__()
        self.config, self.layouts = config, dict(layouts)
        self.path, self.times = Path(config.objective), times
        self.backbone = Backbone(config, layouts)
        self.conditioner = Conditioner(config.width, layouts, extra=times)
        self.ports = nn.ModuleDict(
            {task: ResidualPort(config.width, layout) for task, layout in layouts.items()}
        )

    def forward(
        self,
        x: Tokens,
        tau: Times,
        prediction: Tokens,
        previous: Tokens,
        given: Given,
        task: str,
    ) -> Tokens:
        """dx/dtau at the normalised residual x and time tau."""
        situation = self.situation(prediction, previous, given, task)
        return self.path.velocity(self.output(x, tau, situation))

    def situation(self, prediction: Tokens, previous: Tokens, given: Given, task: str) -> Situation:
        """Everything that does not change while a residual is being drawn."""
        layout, port = self.layouts[task], self.port(task)
        state = amplitudes(previous, layout)
        size = per_channel(state.amplitude, layout)
        shape = amplitudes(prediction, layout).deviation / size
        change = (prediction - previous) / (size * port.change)
        seen = torch.cat([shape, change, port.context(given, layout.num_tokens)], -1)
        numbers = torch.cat([state.amplitude.log(), state.amplitude, state.mean], -1)
        return Situation(seen, numbers, size * port.residual, given, task)

    def output(
        self, x: Tokens, tau: Times, situation: Situation, jump: Times | None = None
    ) -> Tokens:
        """What the network predicts: `Path.target`.

        Args:
            jump: The second time, where the model has been built with two; None is 0.
        """
        layout, port = self.layouts[situation.task], self.port(situation.task)
        second = torch.zeros_like(tau) if jump is None else jump
        times = torch.stack([tau, second][: self.times], -1)
        condition = self.conditioner(situation.numbers, situation.given, situation.task, times)
        h = port.embed(torch.cat([x, situation.seen], -1)).unflatten(1, layout.anchors)
        h = self.backbone(h, condition, situation.task).flatten(1, -2)
        with torch.autocast(x.device.type, enabled=False):
            past = self.path.gaussian(tau) + port.gate(F.silu(condition))[:, None]
            return without_mean(port.head(h) + past * x, layout)

    def normalised(self, target: Tokens, prediction: Tokens, situation: Situation) -> Tokens:
        """The residual in its own unit, without the spatial mean of conserved fields."""
        residual = (target - prediction) / situation.unit
        return without_mean(residual, self.layouts[situation.task])

    def sample(
        self,
        prediction: Tokens,
        previous: Tokens,
        given: Given,
        task: str,
        noise: Tokens,
        steps: int | None = None,
    ) -> Tokens:
        """Draw a residual in latent units, to be added to the prediction.

        Args:
            noise: Standard normal.
            steps: Evaluations of the network; None is the config's `sampling_steps`. One more is
                needed where `spread` is not 1.
        """
        situation = self.situation(prediction, previous, given, task)
        x = without_mean(noise, self.layouts[task])
        drawn = self.endpoint(x, situation, steps or self.config.sampling_steps)
        return self.port(task).widened(drawn, lambda: self.centre(situation)) * situation.unit

    def endpoint(self, x: Tokens, situation: Situation, steps: int) -> Tokens:
        """From noise x to a normalised residual, with `steps` evaluations."""
        return self.trajectory(x, situation, steps)[0][-1]

    def trajectory(
        self, x: Tokens, situation: Situation, steps: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """`flow.trajectory` of the probability-flow ODE, with `steps` evaluations.

        Heun's method in half as many intervals; one step of Euler's where `steps` is 1.
        """

        def field(x: Tensor, tau: Tensor) -> Tensor:
            return self.path.velocity(self.output(x, tau, situation))

        return trajectory(field, x, max(steps // 2, 1), method="heun" if steps > 1 else "euler")

    def mean(self, prediction: Tokens, previous: Tokens, given: Given, task: str) -> Tokens:
        """The expected residual in latent units, from one evaluation at tau = 0."""
        situation = self.situation(prediction, previous, given, task)
        return self.centre(situation) * situation.unit

    def centre(self, situation: Situation) -> Tokens:
        """The expected residual in its own unit.

        At tau = 0 the network has seen nothing of the data, so that the data it implies are their
        mean, whatever the noise: zero is used.
        """
        x = torch.zeros_like(situation.seen[..., : situation.unit.shape[-1]])
        tau = torch.zeros_like(situation.numbers[:, 0])
        return self.path.data(self.output(x, tau, situation), x, tau)

    def correction(
        self,
        prediction: Tokens,
        previous: Tokens,
        given: Given,
        task: str,
        generator: torch.Generator | None = None,
    ) -> Tokens:
        """What to add to a prediction.

        Args:
            generator: Draws a sample; without it `gain` times the mean is added, for a point
                forecast.
        """
        if generator is not None:
            noise = normal(tuple(prediction.shape), generator, prediction.device)
            return self.sample(prediction, previous, given, task, noise.to(prediction.dtype))
        gain = self.port(task).gain
        if gain.item() == 0:
            return torch.zeros_like(prediction)
        return gain * self.mean(prediction, previous, given, task)

    def port(self, task: str) -> ResidualPort:
        """What a task has to itself."""
        port = self.ports[task]
        assert isinstance(port, ResidualPort)
        return port

    @torch.no_grad()
    def fit_scales(
        self, task: str, target: Tokens, prediction: Tokens, previous: Tokens, given: Given
    ) -> None:
        """Set the sizes of residual, change and context from samples of the training split."""
        layout, port = self.layouts[task], self.port(task)
        size = per_channel(amplitudes(previous, layout).amplitude, layout)
        residual = without_mean(target - prediction, layout) / size
        port.residual.copy_(floored(residual.square().mean((0, 1)).sqrt()))
        change = (prediction - previous) / size
        port.change.copy_(change.square().mean().sqrt().clamp_min(_SMALLEST))
        port.context.fit(given)
