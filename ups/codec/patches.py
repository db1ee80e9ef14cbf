"""Patches of a grid and their orthonormal cosine coefficients, in any number of dimensions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ups.config.models import GridCodecConfig
from ups.errors import DataError


def patch_sizes(config: GridCodecConfig, space: Sequence[int]) -> tuple[int, ...]:
    """Points of a patch along each axis, from `patch_size` or from `anchors`.

    Raises:
        DataError: The patch is larger than the grid, or no patch gives so many anchors.
    """
    shape = "x".join(str(size) for size in space)
    if config.anchors is None:
        if config.patch_size > min(space):
            raise DataError(
                f"codec.patch_size: a patch of {config.patch_size} points is larger than the grid "
                f"of {shape}",
                hint=f"--set codec.patch_size=N with N at most {min(space)}",
            )
        return (config.patch_size,) * len(space)
    if len(config.anchors) != len(space):
        raise DataError(f"codec.anchors: {list(config.anchors)} on a grid of {shape} points")
    patch = tuple(math.ceil(n / a) for n, a in zip(space, config.anchors, strict=True))
    found = tuple(math.ceil(n / p) for n, p in zip(space, patch, strict=True))
    if found != config.anchors:
        raise DataError(
            f"codec.anchors: {list(config.anchors)} cannot be had from {shape} points in patches "
            f"of equal size; {list(found)} can",
            hint=f"--set codec.anchors=[{','.join(map(str, found))}]",
        )
    return patch


def cosine_matrix(size: int) -> Float[Tensor, "point coefficient"]:
    """The orthonormal DCT-II of `size` points; column 0 is constant, frequencies rise."""
    order = torch.arange(size, dtype=torch.float64)
    point = order[:, None] + 0.5
    matrix = torch.cos(math.pi * point * order / size) * math.sqrt(2 / size)
    matrix[:, 0] /= math.sqrt(2)
    return matrix


class PatchTransform(nn.Module):
    """Fields to the cosine coefficients of their patches, axis by axis, and exactly back.

    Where the last patch of an axis has m < p points it is transformed by the cosines of m points,
    times sqrt(p / m), and its missing coefficients are zero: coefficient 0 is sqrt(points) times
    the mean of the patch in every patch. Mixed precision does not apply: bfloat16 here would cost
    more than the codec is allowed to.

    Attributes:
        anchors: Patches along each axis.
        points: Points of a whole patch, which is the number of coefficients.
        weights: Share of the grid's points in each patch; None where all are equal.

    Shape:
        fields: (batch, *space, channel)
        coefficients: (batch, *anchors, coefficient, channel), in order of rising frequency
    """

    order: Tensor
    place: Tensor

    def __init__(self, space: Sequence[int], patch: Sequence[int]) -> None:
        super().__init__()
        self.space, self.patch = tuple(space), tuple(patch)
        self.anchors = tuple(math.ceil(n / p) for n, p in zip(space, patch, strict=True))
        self.points = math.prod(patch)
        for axis, (size, run) in enumerate(zip(space, patch, strict=True)):
            self._register(f"whole{axis}", cosine_matrix(run))
            rest = size % run
            if rest:
                short = cosine_matrix(rest)
                missing = torch.zeros(rest, run - rest, dtype=short.dtype)
                self._register(f"forth{axis}", torch.cat([short, missing], 1) * (run / rest) ** 0.5)
                self._register(f"back{axis}", torch.cat([short, missing], 1) * (rest / run) ** 0.5)
        order = frequency_order(patch)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("place", order.argsort(), persistent=False)

    def _register(self, name: str, matrix: Float[Tensor, "point coefficient"]) -> None:
        self.register_buffer(name, matrix.float(), persistent=False)

    @property
    def is_partial(self) -> tuple[bool, ...]:
        """Whether the last patch of each axis is a smaller one."""
        return tuple(n % p != 0 for n, p in zip(self.space, self.patch, strict=True))

    @property
    def weights(self) -> tuple[float, ...] | None:
        if not any(self.is_partial):
            return None
        runs = [
            [min(p, n - p * i) / n for i in range(a)]
            for n, p, a in zip(self.space, self.patch, self.anchors, strict=True)
        ]
        return tuple(math.prod(shares) for shares in itertools.product(*runs))

    def forward(
        self, fields: Float[Tensor, "batch *space channel"]
    ) -> Float[Tensor, "batch *anchors coefficient channel"]:
        with torch.autocast(fields.device.type, enabled=False):
            return self._forth(fields.to(self.get_buffer("whole0")))

    def _forth(
        self, fields: Float[Tensor, "batch *space channel"]
    ) -> Float[Tensor, "batch *anchors coefficient channel"]:
        x = fields
        for axis, (size, run) in enumerate(zip(self.space, self.patch, strict=True)):
            at, short = 1 + axis, size % run
            parts = x.narrow(at, 0, size - short).unflatten(at, (-1, run))
            y = torch.tensordot(parts, self.get_buffer(f"whole{axis}"), ([at + 1], [0]))
            if short:
                last = x.narrow(at, size - short, short)
                rest = torch.tensordot(last, self.get_buffer(f"forth{axis}"), ([at], [0]))
                y = torch.cat([y, rest.unsqueeze(at)], at)
            x = y
        return x.flatten(-len(self.patch))[..., self.order].transpose(-1, -2)

    def inverse(
        self, coefficients: Float[Tensor, "batch *anchors coefficient channel"]
    ) -> Float[Tensor, "batch *space channel"]:
        with torch.autocast(coefficients.device.type, enabled=False):
            return self._back(coefficients.to(self.get_buffer("whole0")))

    def _back(
        self, coefficients: Float[Tensor, "batch *anchors coefficient channel"]
    ) -> Float[Tensor, "batch *space channel"]:
        x = coefficients.transpose(-1, -2)[..., self.place].unflatten(-1, self.patch)
        for axis in reversed(range(len(self.patch))):
            at, short = 1 + axis, self.space[axis] % self.patch[axis]
            whole = x.narrow(at, 0, self.anchors[axis] - bool(short))
            y = torch.tensordot(whole, self.get_buffer(f"whole{axis}"), ([-1], [1]))
            y = y.movedim(-1, at + 1).flatten(at, at + 1)
            if short:
                last = x.select(at, self.anchors[axis] - 1)
                rest = torch.tensordot(last, self.get_buffer(f"back{axis}"), ([-1], [1]))
                y = torch.cat([y, rest.movedim(-1, at)], at)
            x = y
        return x

    def whole_patches(
        self, coefficients: Float[Tensor, "batch *anchors coefficient channel"]
    ) -> Float[Tensor, "patch coefficient channel"]:
        """The patches that are not smaller than the others, in one row."""
        for axis, partial in enumerate(self.is_partial, start=1):
            if partial:
                coefficients = coefficients.narrow(axis, 0, coefficients.shape[axis] - 1)
        return coefficients.flatten(0, -3)


def frequency_order(patch: Sequence[int]) -> Tensor:
    """Places of the products of cosines, last axis fastest, in order of rising frequency."""
    common = math.lcm(*patch)
    orders = itertools.product(*(range(size) for size in patch))
    frequency = [
        (sum((k * common // size) ** 2 for k, size in zip(ks, patch, strict=True)), place)
        for place, ks in enumerate(orders)
    ]
    return torch.tensor([place for _, place in sorted(frequency)])
