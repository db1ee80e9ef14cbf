"""The residual model's many steps in one to four: a map between two times of its flow."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ups.config.models import ResidualConfig
from ups.models.corrector import ResidualModel, Situation
from ups.models.layout import Given, TokenLayout

Tokens = Float[Tensor, "batch tokens dim"]
Times = Float[Tensor, " batch"]

_JUMP = "conditioner.extra.1."


class FlowMap(ResidualModel):
    """G(x_tau, tau, s) = x_tau + (s - tau) F(x_tau, tau, s; condition).

    F is the mean velocity between tau and s >= tau, so that G(x, tau, tau) = x for any weights and
    F(x, tau, tau) is the velocity. The network is that of the residual model, which is told the
    jump s - tau as a second time.

    Shape:
        x, prediction, previous, noise: (batch, tokens, dim); tau, end: (batch,)
    Source:
        Boffi et al. 2024, arXiv:2406.07507 (flow map matching); Song et al. 2023,
        arXiv:2303.01469 (consistency models: s = 1).
    """

    def __init__(self, config: ResidualConfig, layouts: Mapping[str, TokenLayout]) -> None:
        super().__init__(config, layouts, times=2)
        for name, weight in self.named_parameters():
            if name.startswith(_JUMP):
                nn.init.zeros_(weight)

    @classmethod
    def from_teacher(cls, teacher: ResidualModel, steps: int = 1) -> FlowMap:
        """A student whose F is the teacher's velocity at tau, whatever s.

        Args:
            steps: Jumps for one sample.
        """
        config = teacher.config.model_copy(update={"sampling_steps": steps})
        student = cls(config, teacher.layouts)
        jump = {name: value for name, value in student.state_dict().items()
                if name.startswith(_JUMP)}  # fmt: skip
        student.load_state_dict({**teacher.state_dict(), **jump})
        return student.to(next(teacher.parameters()).device)

    def forward(
        self,
        x: Tokens,
        tau: Times,
        prediction: Tokens,
        previous: Tokens,
        given: Given,
        task: str,
        end: Times | None = None,
    ) -> Tokens:
        """F at the normalised residual x: mean velocity between tau and `end`.

        Args:
            end: None is tau itself.
        """
        situation = self.situation(prediction, previous, given, task)
        jump = None if end is None else end - tau
        return self.path.velocity(self.output(x, tau, situation, jump))

    def jumped(self, x: Tokens, tau: Times, end: Times, situation: Situation) -> Tokens:
        """G: where the path through x at time tau is at time `end`."""
        slope = self.path.velocity(self.output(x, tau, situation, end - tau))
        return x + (end - tau)[:, None, None] * slope

    def endpoint(self, x: Tokens, situation: Situation, steps: int) -> Tokens:
        """From noise x to a normalised residual in `steps` jumps of equal length."""
        times = torch.linspace(0, 1, steps + 1, device=x.device, dtype=x.dtype)
        for tau, end in pairwise(times):
            x = self.jumped(x, tau.expand(len(x)), end.expand(len(x)), situation)
        return x
