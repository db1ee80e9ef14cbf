"""The latent operator: tokens now -> tokens one step later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ups.config.models import (
    FieldOperatorConfig,
    LatentOperatorConfig,
    OperatorConfig,
    TrivialOperatorConfig,
)
from ups.models.backbone import Backbone
from ups.models.conditioning import Conditioner
from ups.models.fields import FieldOperator
from ups.models.layout import Given, TokenLayout
from ups.models.normalisation import amplitudes, at_least_float32, without_mean
from ups.models.port import Port
from ups.models.trivial import TrivialOperator


def build_operator(config: OperatorConfig, layouts: Mapping[str, TokenLayout]) -> nn.Module:
    """The operator of `config.kind`, for tasks with these tokens."""
    match config:
        case LatentOperatorConfig():
            return LatentOperator(config, layouts)
        case FieldOperatorConfig():
            return FieldOperator(config, layouts)
        case TrivialOperatorConfig():
            return TrivialOperator(config, layouts)


class LatentOperator(nn.Module):
    """One time step in the amplitude-normalised, mean-conserving residual form.

        z' = z + r s t (f(v / r, earlier, context; cond) - mean f),   v = z - mean z,   r = rms v

    per sample and field, with s the typical size of a step, t the time step over the usual one,
    and cond = (log r, r, mean, PDE parameters, log t, kind of problem). The mean of f is removed
    for the fields that the PDE conserves, if `conserve`; without `conditioning` only the time step
    and the kind of problem are left of cond. Earlier frames enter as (z_earlier - z) / (r s t).
    Without `normalise` v / r is the z-scored state and r is left out of the update. Steady
    problems have no state: z' = s f(context; cond).

    One backbone serves all tasks; each has its own first and last layer and its own scales.

    Shape:
        history: (batch, frame, tokens, dim), at least `config.history` frames, the last one the
            present; (batch, 0, tokens, dim) for a steady problem
        output: (batch, tokens, dim)
    Raises:
        ConfigError: A steady task without context.
    """

    def __init__(self, config: LatentOperatorConfig, layouts: Mapping[str, TokenLayout]) -> None:
        super().__init__()
        self.config, self.layouts, self.history = config, dict(layouts), config.history
        self.conditioner = Conditioner(config.width, layouts, told=config.conditioning)
        self.backbone = Backbone(config, layouts)
        self.ports = nn.ModuleDict(
            {task: Port(task, config, layout) for task, layout in layouts.items()}
        )

    def forward(
        self, history: Float[Tensor, "batch frame tokens dim"], given: Given, task: str
    ) -> Float[Tensor, "batch tokens dim"]:
        layout, port = self.layouts[task], self._port(task)
        context = port.context(given, layout.num_tokens)
        if layout.is_steady:
            numbers = context.new_zeros(len(given), 3 * layout.num_fields)
            return self._network(context, numbers, given, task) * port.step_size
        if history.shape[1] < self.history:
            raise ValueError(f"{history.shape[1]} frames of history, expected {self.history}")
        history = at_least_float32(history[:, -self.history :])
        now, state = history[:, -1], amplitudes(history[:, -1], layout)
        step = port.step(state, given)
        earlier = [(frame - now) / step for frame in history.unbind(1)[:-1]]
        x = torch.cat([port.present(now, state), *earlier, context], -1)
        numbers = torch.cat([state.amplitude.log(), state.amplitude, state.mean], -1)
        update = self._network(x, numbers, given, task)
        if self.config.conserve:
            update = without_mean(update, layout)
        return now + update * step

    def _network(
        self,
        x: Float[Tensor, "batch tokens channel"],
        numbers: Float[Tensor, "batch number"],
        given: Given,
        task: str,
    ) -> Float[Tensor, "batch tokens dim"]:
        port = self._port(task)
        x = port.stem(x).unflatten(1, self.layouts[task].anchors)
        x = self.backbone(x, self.conditioner(numbers, given, task), task).flatten(1, -2)
        with torch.autocast(x.device.type, enabled=False):
            return port.head(x)

    def _port(self, task: str) -> Port:
        return cast(Port, self.ports[task])

    @torch.no_grad()
    def fit_scales(
        self, task: str, windows: Float[Tensor, "batch frame tokens dim"], given: Given
    ) -> None:
        """Set the scales of a task from training windows of consecutive frames.

        Args:
            windows: At least two frames; one, the solution, of a steady problem.
            given: With the time between the frames of each window.
        """
        self._port(task).fit(at_least_float32(windows), given)
