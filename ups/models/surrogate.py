"""A codec and an operator together: fields now -> fields later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ups.codec.grid import GridCodec
from ups.errors import UsageError, did_you_mean
from ups.models.operator import LatentOperator
from ups.registry import Parameter


class Surrogate(nn.Module):
    """What a finished run is used as.

    Args:
        cards: The dataset card's PDE parameters, in the order of the store's columns.
        dt: Time of one step, in the card's unit.
    """

    def __init__(
        self,
        codec: GridCodec,
        operator: LatentOperator,
        cards: Sequence[Parameter],
        dt: float,
    ) -> None:
        super().__init__()
        self.codec, self.operator = codec, operator
        self.cards, self.dt = tuple(cards), dt

    def step(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Float[Tensor, "batch tokens dim"]:
        """Advance tokens by one step; `parameters` as `scaled` returns them."""
        dt = torch.full((len(tokens),), self.dt, device=tokens.device)
        return self.operator(tokens, parameters, dt)

    def scaled(
        self, parameters: Float[Tensor, "batch parameter"]
    ) -> Float[Tensor, "batch parameter"]:
        """Physical parameter values -> [-1, 1] over each one's range."""
        return scale_parameters(self.cards, parameters)

    def parameter_row(self, values: Mapping[str, float]) -> Float[Tensor, "1 parameter"]:
        """Named physical values -> one row in the model's order.

        Raises:
            UsageError: A parameter is missing or unknown.
        """
        names = [parameter.name for parameter in self.cards]
        for name in values:
            if name not in names:
                raise UsageError(f"{name}: unknown parameter{did_you_mean(name, names)}")
        missing = [name for name in names if name not in values]
        if missing:
            raise UsageError(f"parameters missing: {', '.join(missing)}")
        return torch.tensor([[values[name] for name in names]], dtype=torch.float64)

    def roll(
        self,
        initial: Float[Tensor, "batch *space channel"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Iterator[Float[Tensor, "batch tokens dim"]]:
        """Yield the tokens after one step, two steps, and so on, without end.

        Args:
            initial: Physical fields on the codec's grid.
            parameters: Physical values.
        """
        tokens = self.codec.encode(initial)
        scaled = self.scaled(parameters).to(tokens)
        while True:
            tokens = self.step(tokens, scaled)
            yield tokens


def scale_parameters(
    cards: Sequence[Parameter], values: Float[Tensor, "batch parameter"]
) -> Float[Tensor, "batch parameter"]:
    """Map each column of physical values to [-1, 1] over its card's range."""
    columns = [
        torch.tensor([card.unit_interval(value) for value in values[:, index].tolist()])
        for index, card in enumerate(cards)
    ]
    empty = torch.zeros(len(values), 0)
    return torch.stack(columns, -1).to(values.device) if columns else empty.to(values.device)
