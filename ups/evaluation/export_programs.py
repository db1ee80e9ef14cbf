"""What of a surrogate on a grid becomes a program that runs without ups, and with what inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from ups.codec.grid import GridCodec
from ups.models.layout import Given
from ups.models.surrogate import Surrogate
from ups.registry import Parameter

Tokens = Float[Tensor, "batch tokens dim"]


@dataclass(frozen=True)
class Argument:
    """One tensor that a program takes.

    Attributes:
        axes: Their names; those that are not in `sizes` are given when the program is called.
        sizes: Of the axes that are fixed.
        unit: 'physical' values, or 'tokens'; 'noise' is standard normal.
    """

    name: str
    axes: tuple[str, ...]
    sizes: dict[str, int]
    dtype: torch.dtype = torch.float32
    unit: str = "physical"

    @property
    def free(self) -> dict[int, str]:
        """Axes that may have any size, by their place."""
        return {place: axis for place, axis in enumerate(self.axes) if axis not in self.sizes}

    def example(self, free: int) -> Tensor:
        """Standard normal values, with that size of all free axes."""
        shape = [self.sizes.get(axis, free) for axis in self.axes]
        return torch.randn(shape, dtype=self.dtype)


@dataclass(frozen=True)
class Program:
    """One call of the surrogate: its name, the module that does it, and what that takes."""

    name: str
    about: str
    module: nn.Module
    arguments: tuple[Argument, ...]
    returns: str


class ScaledParameters(nn.Module):
    """Physical PDE parameters -> [-1, 1] over the ranges of their cards."""

    low: Tensor
    high: Tensor
    is_log: Tensor

    def __init__(self, cards: Sequence[Parameter]) -> None:
        super().__init__()
        ranges = torch.tensor([card.range for card in cards], dtype=torch.float64).reshape(-1, 2)
        is_log = torch.tensor([card.scale == "log" for card in cards], dtype=torch.bool)
        ends = torch.where(is_log[:, None], ranges.clamp_min(0).log(), ranges)
        for name, values in (("low", ends[:, 0]), ("high", ends[:, 1]), ("is_log", is_log)):
            self.register_buffer(name, values.clone())

    def forward(
        self, values: Float64[Tensor, "batch parameter"]
    ) -> Float[Tensor, "batch parameter"]:
        along = torch.where(self.is_log, torch.where(self.is_log, values, 1.0).log(), values)
        return (2 * (along - self.low) / (self.high - self.low) - 1).float()


class _Part(nn.Module):
    """What every program of a surrogate shares."""

    def __init__(self, surrogate: Surrogate) -> None:
        super().__init__()
        self.codec, self.task = surrogate.codec, surrogate.task
        self.dt = surrogate.dt or 1.0
        self.scaled = ScaledParameters(surrogate.cards)

    def given(self, parameters: Tensor, context: Tensor | None) -> Given:
        dt = torch.full((parameters.shape[0],), self.dt, device=parameters.device)
        return Given(self.scaled(parameters), dt, context)


class Encode(_Part):
    def forward(self, fields: Tensor) -> Tensor:
        return self.codec.encode(fields)


class EncodeInputs(_Part):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.codec.encode_inputs(inputs)


class Decode(_Part):
    def forward(self, tokens: Tensor) -> Tensor:
        return self.codec.decode(tokens)


class DecodeAt(_Part):
    def forward(self, tokens: Tensor, coords: Tensor) -> Tensor:
        return self.codec.decode(tokens, coords)


class Step(_Part):
    """One step of the point forecast: what `Surrogate.roll` does without a generator."""

    def __init__(self, surrogate: Surrogate) -> None:
        super().__init__(surrogate)
        self.operator, self.residual = surrogate.operator, None
        if surrogate.residual is not None:
            self.gain = float(surrogate.residual.port(surrogate.task).gain)
            self.residual = surrogate.residual if self.gain else None

    def forward(self, history: Tensor, parameters: Tensor, context: Tensor | None = None) -> Tensor:
        given = self.given(parameters, context)
        tokens = self.operator(history, given, self.task)
        if self.residual is None:
            return tokens
        return tokens + self.gain * self.residual.mean(tokens, history[:, -1], given, self.task)


class SolveByPrior(_Part):
    """The solution of a steady problem, with the noise of its refinements given."""

    def __init__(self, surrogate: Surrogate) -> None:
        super().__init__(surrogate)
        self.prior = surrogate.prior

    def forward(self, context: Tensor, parameters: Tensor, noise: Tensor | None = None) -> Tensor:
        drawn = () if noise is None else noise.unbind(1)
        return self.prior.refined(self.given(parameters, context), self.task, drawn)[-1]


class SolveByOperator(_Part):
    """The solution of a steady problem in one evaluation of the operator."""

    def __init__(self, surrogate: Surrogate) -> None:
        super().__init__(surrogate)
        self.operator, self.layout = surrogate.operator, surrogate.layout

    def forward(self, context: Tensor, parameters: Tensor) -> Tensor:
        shape = (context.shape[0], 0, self.layout.num_tokens, self.layout.latent_dim)
        given = self.given(parameters, context)
        return self.operator(context.new_zeros(shape), given, self.task)


def programs_of(
    surrogate: Surrogate, codec: GridCodec, space: tuple[str, ...]
) -> Iterator[Program]:
    """The programs of a surrogate, in the order in which a rollout calls them.

    Args:
        space: Names of the space axes.
    """
    layout = surrogate.layout
    grid = dict(zip(space, codec.geometry.space, strict=True))
    sizes = {"tokens": layout.num_tokens, "dim": layout.latent_dim}
    tokens = Argument("tokens", ("batch", "tokens", "dim"), sizes, unit="tokens")
    if not surrogate.is_steady:
        fields = Argument("fields", ("batch", *space, "field"), grid | {"field": codec.num_fields})
        about = "a state on the run's grid -> its tokens"
        yield Program("encode", about, Encode(surrogate), (fields,), "tokens")
    if layout.context_dim:
        shape = grid | {"input": len(codec.geometry.inputs)}
        inputs = Argument("inputs", ("batch", *space, "input"), shape)
        about = "what is given with a problem -> its tokens"
        yield Program("encode_inputs", about, EncodeInputs(surrogate), (inputs,), "context")
    yield _advance(surrogate, sizes)
    about = "tokens -> fields on the run's grid"
    yield Program("decode", about, Decode(surrogate), (tokens,), "fields")
    coords = Argument("coords", ("query", "axis"), {"axis": len(space)}, torch.float64)
    about = "tokens -> fields at any points of the domain, (batch, query, field)"
    yield Program("decode_at", about, DecodeAt(surrogate), (tokens, coords), "fields")


def _advance(surrogate: Surrogate, sizes: dict[str, int]) -> Program:
    """`step`, or `solve` of a steady problem."""
    numbers = {"parameter": len(surrogate.cards)}
    parameters = Argument("parameters", ("batch", "parameter"), numbers, torch.float64)
    shape = {"tokens": sizes["tokens"], "channel": surrogate.layout.context_dim}
    context = Argument("context", ("batch", "tokens", "channel"), shape, unit="tokens")
    if not surrogate.is_steady:
        frames = {"frame": surrogate.history} | sizes
        history = Argument("history", ("batch", *frames), frames, unit="tokens")
        more = (context,) if surrogate.layout.context_dim else ()
        about = "tokens of the last frames, the present one last -> tokens one dt later"
        return Program("step", about, Step(surrogate), (history, parameters, *more), "tokens")
    about = "tokens of what is given -> tokens of the solution"
    if surrogate.prior is None:
        module: nn.Module = SolveByOperator(surrogate)
        return Program("solve", about, module, (context, parameters), "tokens")
    module, drawn = SolveByPrior(surrogate), refinements_of(surrogate)
    shape = {"refinement": drawn} | sizes
    noise = Argument("noise", ("batch", *shape), shape, unit="noise")
    arguments = (context, parameters, noise) if drawn else (context, parameters)
    return Program("solve", about, module, arguments, "tokens")


def refinements_of(surrogate: Surrogate) -> int:
    """Draws of noise that the solution of a steady problem takes."""
    if surrogate.prior is None:
        return 0
    return int(surrogate.prior.port(surrogate.task).evaluations) - 1
