"""Predictors that learn nothing, with the interface of an operator."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ups.config.models import TrivialOperatorConfig
from ups.errors import ConfigError
from ups.models.layout import Given, TokenLayout
from ups.models.normalisation import amplitudes, at_least_float32


class TrivialOperator(nn.Module):
    """The present state again ('persistence'), or each field's mean over space ('mean').

    Means are those of the fields as the codec sees them: of a logarithm, the geometric mean. Of a
    steady problem the mean is the one over the training split.

    Shape:
        history: (batch, frame, tokens, dim), the last one the present; (batch, 0, tokens, dim) for
            a steady problem
        output: (batch, tokens, dim)
    Raises:
        ConfigError: Persistence of a steady problem.
    """

    def __init__(self, config: TrivialOperatorConfig, layouts: Mapping[str, TokenLayout]) -> None:
        super().__init__()
        self.config, self.layouts, self.history = config, dict(layouts), 1
        for task, layout in layouts.items():
            if layout.is_steady and config.kind == "persistence":
                raise ConfigError(
                    f"operator.kind 'persistence': task '{task}' is steady, no state persists",
                    hint="--model mean",
                )
            self.register_buffer(f"mean_{task}", torch.zeros(layout.num_fields))

    def forward(
        self, history: Float[Tensor, "batch frame tokens dim"], given: Given, task: str
    ) -> Float[Tensor, "batch tokens dim"]:
        layout = self.layouts[task]
        if layout.is_steady:
            return self._constant(
                self.get_buffer(f"mean_{task}").expand(given.dt.shape[0], -1), layout
            )
        now = at_least_float32(history[:, -1])
        if self.config.kind == "persistence":
            return now
        return self._constant(amplitudes(now, layout).mean, layout)

    @staticmethod
    def _constant(
        mean: Float[Tensor, "batch field"], layout: TokenLayout
    ) -> Float[Tensor, "batch tokens dim"]:
        """The tokens of a field that is one number."""
        token = F.pad(mean * layout.points_per_token**0.5, (0, layout.latent_dim - mean.shape[1]))
        return token[:, None].expand(-1, layout.num_tokens, -1)

    @torch.no_grad()
    def fit_scales(
        self, task: str, windows: Float[Tensor, "batch frame tokens dim"], given: Given
    ) -> None:
        """Of a steady problem: the mean of the solutions."""
        layout = self.layouts[task]
        if layout.is_steady:
            found = amplitudes(windows[:, -1], layout).mean.mean(0)
            self.get_buffer(f"mean_{task}").copy_(found)
