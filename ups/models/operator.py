"""The latent operator: tokens now -> tokens one step later."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ups.config.models import FieldOperatorConfig, LatentOperatorConfig
from ups.models.backbone import Backbone
from ups.models.conditioning import Conditioner
from ups.models.fields import FieldOperator
from ups.models.layout import Given, TokenLayout
from ups.models.normalisation import amplitudes, at_least_float32, without_mean
from ups.models.port import Port


def build_operator(
    config: LatentOperatorConfig | FieldOperatorConfig, layouts: Mapping[str, TokenLayout]
) -> nn.Module:
    """The operator of `config.kind`, for tasks with these tokens."""
    match config:
        case LatentOperatorConfig():
            return LatentOperator(config, layouts)
        case FieldOperatorConfig():
            return FieldOperator(config, layouts)


class LatentOperator(nn.Module):
    """One time step in the amplitude-normalised, mean-conserving residual form.

        z' = z + r s t (f(v / r, earlier, context; cond) - mean f),   v = z - mean z,   r = rms v

    per sample and field, with s the typical size of a step, t the time step over the usual one,
    and cond = (log r, r, mean, PDE parameters, log t, kind of problem). The mean of f is removed
    for the fields that the PDE conserves. Earlier frames enter as (z_earlier - z) / (r s t).
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
        self.conditioner = Conditioner(config.width, layouts)
        self.backbone = Backbone(config, layouts)
        self.ports = nn.ModuleDict(
            {task: Port(task, config, layout) for task, layout in layouts.items()}
        )

    def forward(
        self, history: Float[Tensor, "batch frame tokens dim"], given: Given, task: str
    ) -> Float[Tensor, "batch tokens dim"]:
        layout, port = self.layouts[task], self.ports[task]
        if layout.is_steady:
            numbers = torch.zeros(len(given), 3 * layout.num_fields, device=given.dt.device)
            return self._network(port.context(given), numbers, given, task) * port.step_size
        _check_frames(history, self.history)
        history = at_least_float32(history[:, -self.history :])
        now, state = history[:, -1], amplitudes(history[:, -1], layout)
        step = port.step(state, given)
        inputs = [port.present(now, state)]
        inputs += [(earlier - now) / step for earlier in history[:, :-1].unbind(1)]
        if layout.context_dim:
            inputs.append(port.context(given))
        statistics = [state.amplitude.log(), state.amplitude, state.mean]
        update = self._network(torch.cat(inputs, -1), torch.cat(statistics, -1), given, task)
        return now + without_mean(update, layout) * step

    def _network(
        self,
        x: Float[Tensor, "batch tokens channel"],
        numbers: Float[Tensor, "batch number"],
        given: Given,
        task: str,
    ) -> Float[Tensor, "batch tokens dim"]:
        port = self.ports[task]
        condition = self.conditioner(numbers.to(x.dtype), given, task)
        x = port.stem(x).unflatten(1, self.layouts[task].anchors)
        x = self.backbone(x, condition, task).flatten(1, -2)
        with torch.autocast(x.device.type, enabled=False):
            return port.head(x)

    @torch.no_grad()
    def fit_scales(
        self, task: str, windows: Float[Tensor, "batch frame tokens dim"], given: Given
    ) -> None:
        """Set the scales of a task from training windows of consecutive frames.

        Args:
            windows: At least two frames; one, the solution, of a steady problem.
            given: With the time between the frames of each window.
        """
        self.ports[task].fit(at_least_float32(windows), given)


def _check_frames(history: Tensor, needed: int) -> None:
    if history.shape[1] < needed:
        raise ValueError(f"{history.shape[1]} frames of history, and the operator needs {needed}")
