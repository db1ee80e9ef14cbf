"""Codec and trained models of one task together: fields now -> fields later."""

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
from ups.models.layout import Given, TokenLayout
from ups.registry import Parameter

Array = npt.NDArray[Any]


class Surrogate(nn.Module):
    """What a finished run is used as, for one of its tasks.

    Args:
        codec: Of the task.
        operator: `forward(history, given, task)`; None for a steady problem that only a prior
            solves.
        task: Name of the task in the models' layouts.
        cards: The dataset card's PDE parameters, in the order of the store's columns.
        dt: Time of one step, in the card's unit; None for a steady problem.
        residual: Model of what the operator leaves over, `sample(...)`: the corrector of stage
            diff_residual, or its distilled form.
        prior: Model of steady problems, `solve(given, task)`.
    """

    codec: Any
    operator: Any
    residual: Any
    prior: Any

    def __init__(
        self,
        codec: nn.Module,
        operator: nn.Module | None,
        task: str,
        layout: TokenLayout,
        cards: Sequence[Parameter],
        dt: float | None,
        *,
        residual: nn.Module | None = None,
        prior: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.codec, self.operator, self.residual, self.prior = codec, operator, residual, prior
        self.task, self.layout = task, layout
        self.cards, self.dt = tuple(cards), dt

    @property
    def history(self) -> int:
        """Frames that one step looks at; fewer may be given."""
        return int(getattr(self.operator, "history", 1))

    @property
    def is_steady(self) -> bool:
        return self.dt is None

    def given(
        self,
        parameters: Float[Tensor, "batch parameter"],
        context: Float[Tensor, "batch tokens context"] | None = None,
    ) -> Given:
        """What the models are told besides tokens.

        Args:
            parameters: Physical values.
        """
        device = next(self.buffers()).device
        scaled = scale_parameters(self.cards, parameters).float().to(device)
        dt = torch.full((len(parameters),), self.dt or 1.0, device=device)
        return Given(scaled, dt, context)

    def roll(
        self,
        history: Float[Tensor, "batch frame tokens dim"],
        given: Given,
        *,
        generator: torch.Generator | None = None,
    ) -> Iterator[Float[Tensor, "batch tokens dim"]]:
        """Yield the tokens after one step, two steps, and so on, without end.

        Args:
            history: True frames, the present one last. Where there are fewer than the operator
                looks at, the first one stands for those before.
            generator: Draws one of the likely continuations, where there is a residual model;
                without it the point forecast is given.
        """
        assert self.operator is not None
        past = padded_history(history, self.history)
        while True:
            tokens = self.operator(past, given, self.task)
            if self.residual is not None:
                tokens = tokens + self.residual.correction(
                    tokens, past[:, -1], given, self.task, generator
                )
            yield tokens
            past = torch.cat([past[:, 1:], tokens[:, None]], 1)

    def solve(
        self, given: Given, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """The solution of steady problems from their context."""
        if self.prior is not None:
            return self.prior.solve(given, self.task, generator)
        assert self.operator is not None
        shape = (len(given), 0, self.layout.num_tokens, self.layout.latent_dim)
        empty = torch.zeros(shape, device=given.dt.device)
        return self.operator(empty, given, self.task)

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

    @torch.no_grad()
    def predict(self, initial: ArrayLike, *, steps: int, **parameters: float) -> Array:
        """Roll a user's own state forward, on the grid of the training data.

        Args:
            initial: Physical fields, (*space, channel) or (batch, *space, channel).
            steps: Frames to predict, each `dt` later than the one before.
            **parameters: A value for each PDE parameter, for example `nu=0.01`.
        Returns:
            (time, *space, channel) or (batch, time, *space, channel), float32, the initial state
            not included.
        Raises:
            UsageError: Wrong shape, a parameter that is unknown or missing, or not a model of a
                time-dependent problem on a grid.
        """
        codec = self.codec
        if not isinstance(codec, GridCodec) or self.is_steady or self.layout.context_dim:
            raise UsageError("predict() needs a time-dependent problem on a grid without inputs")
        fields = torch.from_numpy(np.array(initial, dtype=np.float32)).to(codec.scale.device)
        expected = (*codec.geometry.space, len(codec.geometry.fields))
        single = tuple(fields.shape) == expected
        if not single and tuple(fields.shape[1:]) != expected:
            raise UsageError(f"initial state of shape {tuple(fields.shape)}, expected {expected}")
        batch = fields[None] if single else fields
        given = self.given(self.parameter_row(parameters).expand(len(batch), -1))
        states = zip(range(steps), self.roll(codec.encode(batch)[:, None], given), strict=False)
        frames = torch.stack([codec.decode(tokens) for _, tokens in states], 1)
        return (frames[0] if single else frames).cpu().numpy()


def padded_history(
    history: Float[Tensor, "batch frame tokens dim"], length: int
) -> Float[Tensor, "batch length tokens dim"]:
    """The last `length` frames; the first one repeated in front where there are fewer."""
    missing = length - history.shape[1]
    if missing <= 0:
        return history[:, history.shape[1] - length :]
    return torch.cat([history[:, :1].expand(-1, missing, -1, -1), history], 1)


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
