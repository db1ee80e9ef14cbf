"""What a network is told besides the tokens, as one vector per sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ups.models.layout import Given, TokenLayout
from ups.models.normalisation import at_least_float32

_WAVES = 16
_HIGHEST_WAVE = 100.0


class Conditioner(nn.Module):
    """Numbers of a sample and what kind of problem it is -> one vector.

    A linear map of each task for its own numbers and PDE parameters; one for all tasks for the
    time step, as log(dt / layout.dt), and for the traits in which the tasks differ: PDE family,
    kind of discretisation, boundary condition at each end of each axis. What all tasks have in
    common tells nothing and has no weight. Traits start without effect.

    Args:
        extra: Further numbers per sample, of order one (a flow's time, a noise level), each
            embedded by sines and cosines of growing frequency.
        told: Whether numbers and PDE parameters are; without them a vector of each task stands in
            their place.

    Shape:
        numbers: (batch, 3 * num_fields): log amplitude, amplitude and mean of each field
        extra: (batch, extra)
        output: (batch, width), before any non-linearity
    """

    traits: Tensor

    def __init__(
        self,
        width: int,
        layouts: Mapping[str, TokenLayout],
        extra: int = 0,
        *,
        told: bool = True,
    ) -> None:
        super().__init__()
        self.spacing = {task: layout.dt or 1.0 for task, layout in layouts.items()}
        self.numbers = nn.ModuleDict({
            task: nn.Linear(3 * layout.num_fields + layout.num_parameters, width)
            for task, layout in layouts.items() if told
        })  # fmt: skip
        self.untold = nn.ParameterDict({
            task: nn.Parameter(torch.zeros(width)) for task in layouts if not told
        })  # fmt: skip
        self.pace = nn.Linear(1, width, bias=False)
        nn.init.normal_(self.pace.weight, std=0.5)
        self.extra = nn.ModuleList(nn.Linear(2 * _WAVES + 1, width) for _ in range(extra))
        self._add_traits(width, layouts)

    def _add_traits(self, width: int, layouts: Mapping[str, TokenLayout]) -> None:
        found = {task: _traits(layout) for task, layout in layouts.items()}
        every = set().union(*found.values())
        names = sorted(name for name in every if any(name not in has for has in found.values()))
        self.rows = {task: row for row, task in enumerate(found)}
        table = [[float(name in traits) for name in names] for traits in found.values()]
        self.register_buffer("traits", torch.tensor(table), persistent=False)
        self.kind = nn.Parameter(torch.zeros(len(names), width)) if names else None

    def forward(
        self,
        numbers: Float[Tensor, "batch number"],
        given: Given,
        task: str,
        extra: Float[Tensor, "batch extra"] | None = None,
    ) -> Float[Tensor, "batch width"]:
        with torch.autocast(numbers.device.type, enabled=False):
            numbers = at_least_float32(numbers)
            pace = (given.dt.to(numbers) / self.spacing[task]).log()[:, None]
            if task in self.numbers:
                told = torch.cat([numbers, given.parameters.to(numbers)], -1)
                condition = self.numbers[task](told) + self.pace(pace)
            else:
                condition = self.untold[task] + self.pace(pace)
            if self.kind is not None:
                condition = condition + self.traits[self.rows[task]] @ self.kind
            columns = () if extra is None else extra.to(numbers).unbind(-1)
            for layer, values in zip(self.extra, columns, strict=True):
                condition = condition + layer(_waves(values))
        return condition


def _traits(layout: TokenLayout) -> set[str]:
    """What a task can have in common with another one."""
    ends = {
        f"boundary {axis} {end} {code}"
        for axis, codes in enumerate(layout.boundaries)
        for end, code in enumerate(codes)
    }
    return ends | {f"family {layout.family}", f"kind {layout.kind}"}


def _waves(values: Float[Tensor, " batch"]) -> Float[Tensor, "batch feature"]:
    """The value itself, sines and cosines of it with geometrically growing frequency."""
    powers = torch.linspace(0, 1, _WAVES, device=values.device, dtype=values.dtype)
    angles = values[:, None] * _HIGHEST_WAVE**powers
    return torch.cat([values[:, None], angles.sin(), angles.cos()], -1)
