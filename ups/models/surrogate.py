"""A codec and an operator together: fields now -> fields later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ups.codec.grid import GridCodec
from ups.errors import UsageError, did_you_mean
from ups.models.operator import LatentOperator
from ups.registry import Parameter

Array = npt.NDArray[Any]


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

    @torch.no_grad()
    def predict(self, initial: ArrayLike, *, steps: int, **parameters: float) -> Array:
        """Roll a user's own state forward.

        Args:
            initial: Physical fields on the grid of the training data, (*space, channel) or
                (batch, *space, channel).
            steps: Frames to predict, each `dt` later than the one before.
            **parameters: A value for each PDE parameter, for example `nu=0.01`.
        Returns:
            (time, *space, channel) or (batch, time, *space, channel), float32, the initial state
            not included.
        Raises:
            UsageError: Wrong shape, or a parameter that is unknown or missing.
        """
        fields = torch.from_numpy(np.array(initial, dtype=np.float32)).to(self.codec.scale.device)
        geometry = self.codec.geometry
        expected = (*geometry.space, len(geometry.fields))
        single = tuple(fields.shape) == expected
        if not single and tuple(fields.shape[1:]) != expected:
            raise UsageError(f"initial state of shape {tuple(fields.shape)}, expected {expected}")
        batch = fields[None] if single else fields
        rows = self.parameter_row(parameters).expand(len(batch), -1)
        states = zip(range(steps), self.roll(batch, rows), strict=False)
        frames = torch.stack([self.codec.decode(tokens) for _, tokens in states], 1)
        return (frames[0] if single else frames).cpu().numpy()


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
