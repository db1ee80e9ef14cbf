"""Where the tokens of one task enter and leave a shared network."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ups.config.models import LatentOperatorConfig
from ups.errors import ConfigError
from ups.models.layout import Given, TokenLayout
from ups.models.normalisation import State, amplitudes, per_channel
from ups.models.scales import ContextScale

_SMALLEST_SCALE = 1e-6


class Port(nn.Module):
    """First and last layer of a task, and the scales of its tokens.

    The scales are fixed by `fit` and not learned: what the input is divided by (never the loss),
    and the typical size of a step, by which the output is multiplied. The last layer starts at
    zero, so that an untrained operator changes nothing.
    """

    step_size: Tensor
    input_shift: Tensor
    input_scale: Tensor

    def __init__(self, task: str, config: LatentOperatorConfig, layout: TokenLayout) -> None:
        super().__init__()
        self.config, self.layout = config, layout
        frames = 0 if layout.is_steady else config.history
        inputs = frames * layout.latent_dim + layout.context_dim
        if not inputs:
            raise ConfigError(f"task '{task}': steady, and nothing is given with the problem")
        self.stem = nn.Linear(inputs, config.width)
        self.head = nn.Linear(config.width, layout.latent_dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("step_size", torch.ones(layout.latent_dim))
        self.register_buffer("input_shift", torch.zeros(layout.latent_dim))
        self.register_buffer("input_scale", torch.ones(layout.latent_dim))
        self.context = ContextScale(layout.context_dim)

    def present(
        self, now: Float[Tensor, "batch tokens dim"], state: State
    ) -> Float[Tensor, "batch tokens dim"]:
        """The present state as the network sees it."""
        if self.config.normalise:
            return state.deviation / per_channel(state.amplitude, self.layout) / self.input_scale
        return (now - self.input_shift) / self.input_scale

    def step(self, state: State, given: Given) -> Float[Tensor, "batch 1 dim"]:
        """What the network's output is multiplied by: the typical change over this time step."""
        pace = given.dt.to(state.mean) / (self.layout.dt or 1.0)
        step = pace[:, None, None] * self.step_size
        return step * per_channel(state.amplitude, self.layout) if self.config.normalise else step

    def fit(self, windows: Float[Tensor, "batch frame tokens dim"], given: Given) -> None:
        """Set all scales from training windows of this task."""
        self.context.fit(given)
        if self.layout.is_steady:
            self.step_size.copy_(self._size(windows[:, -1]))
            return
        before = windows[:, :-1].flatten(0, 1)
        pace = (given.dt / (self.layout.dt or 1.0)).repeat_interleave(windows.shape[1] - 1)
        change = windows.diff(dim=1).flatten(0, 1) / pace.to(windows)[:, None, None]
        if self.config.normalise:
            state = amplitudes(before, self.layout)
            amplitude = per_channel(state.amplitude, self.layout)
            present, change = state.deviation / amplitude, change / amplitude
        else:
            self.input_shift.copy_(before.mean((0, 1)))
            present = before - self.input_shift
        if self.config.input_scaling == "channel" or not self.config.normalise:
            self.input_scale.copy_(self._size(present))
        self.step_size.copy_(self._size(change))

    def _size(self, values: Float[Tensor, "sample tokens dim"]) -> Tensor:
        """Standard deviation: of each channel with a floor, or of all together."""
        if self.config.input_scaling == "none":
            return values.std().clamp_min(_SMALLEST_SCALE)
        sizes = values.std((0, 1))
        floor = self.config.scale_floor * sizes.max()
        return sizes.maximum(floor).clamp_min(_SMALLEST_SCALE)
