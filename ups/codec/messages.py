"""Learned parts of the point codec: messages along edges, and reading from neighbours."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F


class MessagePassing(nn.Module):
    """One step: every node adds to itself what it makes of the mean message of its neighbours.

    A message is a function of both nodes and of the way from the sender to the receiver.

    Shape:
        nodes: (time, node, width)
        edges: (edge, 2), sender and receiver
        steps: (edge, dim), from sender to receiver, in any fixed unit
        output: (time, node, width)
    Source:
        Gilmer et al., Neural message passing for quantum chemistry, ICML 2017; the residual form
        as in Pfaff et al., Learning mesh-based simulation with graph networks, ICLR 2021.
    """

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        self.sender = nn.Linear(width, width)
        self.receiver = nn.Linear(width, width, bias=False)
        self.way = nn.Linear(dims + 1, width, bias=False)
        self.message = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width))

    def forward(
        self,
        nodes: Float[Tensor, "time node width"],
        edges: Int64[Tensor, "edge 2"],
        steps: Float[Tensor, "edge dim"],
    ) -> Float[Tensor, "time node width"]:
        x = self.norm(nodes)
        sender, receiver = edges[:, 0], edges[:, 1]
        parts = self.sender(x)[:, sender] + self.receiver(x)[:, receiver]
        messages = self.message(F.gelu(parts + self.way(with_length(steps))))
        total = torch.zeros_like(nodes).index_add(1, receiver, messages.to(nodes.dtype))
        degree = torch.bincount(receiver, minlength=nodes.shape[1]).clamp(min=1)
        return nodes + self.update(torch.cat([x, total / degree[:, None]], -1))


class Reading(nn.Module):
    """What a place makes of the sources nearest to it, seen from where it is.

    Softmax over scores of (source, way there) weighs values of (source, way there): attention
    whose queries are positions alone.

    Shape:
        sources: (time, source, width)
        index, found: (place, neighbour): which sources, and whether there is one at all
        way: (place, neighbour, dim), from source to place, in a fixed unit
        closeness: (place, neighbour) factors of the attention, 0 to 1; None is 1
        output: (time, place, width)
    """

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        self.source = nn.Linear(width, width)
        self.way = nn.Sequential(nn.Linear(dims + 1, width), nn.GELU(), nn.Linear(width, width))
        self.score = nn.Linear(width, 1)
        self.value = nn.Linear(width, width)

    def forward(
        self,
        sources: Float[Tensor, "time source width"],
        index: Int64[Tensor, "place neighbour"],
        found: Bool[Tensor, "place neighbour"],
        way: Float[Tensor, "place neighbour dim"],
        closeness: Float[Tensor, "place neighbour"] | None = None,
    ) -> Float[Tensor, "time place width"]:
        hidden = F.gelu(self.source(sources)[:, index] + self.way(with_length(way)))
        score = self.score(hidden)[..., 0]
        if closeness is not None:
            score = score + (closeness + _FAINT).log()
        weight = score.masked_fill(~found, -torch.inf).softmax(-1)
        return self.value(torch.einsum("tpn,tpnw->tpw", weight, hidden))


_FAINT = 1e-12


def with_length(steps: Float[Tensor, "*some dim"]) -> Float[Tensor, "*some more"]:
    """Append the length of every step; smooth where it is 0."""
    return torch.cat([steps, (steps.square().sum(-1, keepdim=True) + _FAINT).sqrt()], -1)
